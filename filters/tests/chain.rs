//! Chains as an engine uses them.

use std::borrow::Cow;

use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::route::{PathChange, Redirect, Rewrite};
use lighter_config::snapshot::{Action, HeaderChanges, Route, RouteTable};
use lighter_filters::{Chain, Fields, RequestHead, ResponseHead};
use proptest::prelude::*;
use proptest::sample::select;

fn route(actions: &[Action]) -> Route {
    let own = ServicePort { service: ServiceName::new("default", "web"), port: 80 };
    let mut table = RouteTable::single(&own);
    Route { actions: actions.to_vec(), ..table.routes.remove(0) }
}

fn fields<'a>(of: &[(&'a str, &'a str)]) -> Fields<'a> {
    of.iter().map(|(name, value)| (Cow::Borrowed(name.as_bytes()), Cow::Borrowed(value.as_bytes()))).collect()
}

fn text(fields: &Fields<'_>) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
}

fn request<'a>(target: &'a str, of: &[(&'a str, &'a str)]) -> RequestHead<'a> {
    RequestHead {
        method: Cow::Borrowed(b"GET"),
        scheme: "http",
        target: Cow::Borrowed(target.as_bytes()),
        authority: Cow::Borrowed(b"shop.example"),
        fields: fields(of),
    }
}

fn set(name: &str, value: &str) -> HeaderChanges {
    HeaderChanges { set: vec![(name.into(), value.into())], ..HeaderChanges::default() }
}

#[test]
fn a_route_without_actions_has_an_empty_chain() {
    let chain = Chain::new(&[]);
    assert!(chain.is_empty() && !chain.changes_response());
    let route = route(&[]);
    let mut head = request("/a?b", &[("x", "1")]);
    assert_eq!(chain.on_request(&route, &mut head), None);
    assert_eq!((&*head.target, text(&head.fields)), (b"/a?b".as_slice(), vec!["x: 1".to_string()]));
}

#[test]
fn requests_are_changed_and_answers_left_alone() {
    let rewrite = Rewrite {
        hostname: Some("inner.example".into()),
        path: Some(PathChange::ReplacePrefix("/v2".into(), "/v1".into())),
    };
    let actions = [Action::RequestHeaders(set("X-Hop", "1")), Action::Rewrite(rewrite)];
    let (chain, route) = (Chain::new(&actions), route(&actions));
    assert!(!chain.is_empty() && !chain.changes_response());
    let mut head = request("/v1/books?id=1", &[("accept", "*/*"), ("x-hop", "0")]);
    assert_eq!(chain.on_request(&route, &mut head), None);
    assert_eq!(&*head.target, b"/v2/books?id=1");
    assert_eq!(&*head.authority, b"inner.example");
    assert_eq!(text(&head.fields), ["accept: */*", "x-hop: 1"]);
    let mut answer = ResponseHead { status: 200, fields: fields(&[("x-hop", "0")]) };
    chain.on_response(&mut answer);
    assert_eq!(text(&answer.fields), ["x-hop: 0"]);
}

#[test]
fn a_header_that_is_set_is_not_copied() {
    let actions = [Action::RequestHeaders(set("x-hop", "1"))];
    let (chain, route) = (Chain::new(&actions), route(&actions));
    let mut head = request("/", &[("x-hop", "0")]);
    chain.on_request(&route, &mut head);
    assert!(
        head.fields.iter().all(|(name, value)| matches!((name, value), (Cow::Borrowed(_), Cow::Borrowed(_))))
    );
}

#[test]
fn a_redirect_answers_and_its_answer_is_changed_wherever_the_change_stands() {
    let redirect = Redirect {
        scheme: Some("https".into()),
        hostname: None,
        port: None,
        path: Some(PathChange::ReplaceFull("/new".into())),
        status: 301,
    };
    let mut actions = [Action::Redirect(redirect), Action::ResponseHeaders(set("cache-control", "no-store"))];
    for _ in 0..2 {
        let (chain, route) = (Chain::new(&actions), route(&actions));
        assert!(chain.changes_response());
        let answer = chain.on_request(&route, &mut request("/old?q=1", &[]));
        let answer = answer.unwrap_or_else(|| panic!("no answer"));
        assert_eq!(answer.status, 301);
        let expected = [
            ("location".to_string(), b"https://shop.example/new?q=1".to_vec()),
            ("cache-control".to_string(), b"no-store".to_vec()),
        ];
        assert_eq!(answer.fields, expected);
        actions.reverse();
    }
}

/// A list of fields changed in the plainest way, for comparison.
fn plainly(changes: &HeaderChanges, before: &[(&str, &str)]) -> Vec<String> {
    let mut list: Vec<(String, String)> =
        before.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    list.retain(|(name, _)| !changes.remove.iter().any(|gone| gone.eq_ignore_ascii_case(name)));
    for (name, value) in &changes.set {
        let mut found = false;
        let mut kept = Vec::new();
        for (old, before) in list {
            if !old.eq_ignore_ascii_case(name) {
                kept.push((old, before));
            } else if !found {
                found = true;
                kept.push((old, value.to_string()));
            }
        }
        if !found {
            kept.push((name.to_string(), value.to_string()));
        }
        list = kept;
    }
    list.extend(changes.add.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    list.into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
}

fn pair() -> impl Strategy<Value = (&'static str, &'static str)> {
    (select(vec!["a", "A", "b", "B", "c"]), select(vec!["1", "2", "3"]))
}

proptest! {
    #[test]
    fn header_changes_do_what_the_plain_way_does(
        before in proptest::collection::vec(pair(), 0..30),
        set in proptest::collection::vec(pair(), 0..4),
        add in proptest::collection::vec(pair(), 0..4),
        remove in proptest::collection::vec(select(vec!["a", "B", "d"]), 0..3),
    ) {
        let arcs = |list: Vec<(&str, &str)>| list.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        let remove = remove.into_iter().map(Into::into).collect();
        let changes = HeaderChanges { set: arcs(set), add: arcs(add), remove };
        let actions = [Action::ResponseHeaders(changes.clone())];
        let chain = Chain::new(&actions);
        let mut head = ResponseHead { status: 200, fields: fields(&before) };
        chain.on_response(&mut head);
        prop_assert_eq!(text(&head.fields), plainly(&changes, &before));
    }

    #[test]
    fn a_replaced_prefix_leaves_a_path_with_single_slashes(
        rest in "(/[a-z]{0,3}){0,3}",
        prefix in "(/[a-z]{1,3}){0,2}",
        new in "(/[a-z]{1,3}){0,2}/?",
        query in "(\\?[a-z/=]{0,6})?",
    ) {
        prop_assume!(!rest.contains("//"));
        let path = Some(PathChange::ReplacePrefix(new.as_str().into(), prefix.as_str().into()));
        let actions = [Action::Rewrite(Rewrite { hostname: None, path })];
        let (chain, route) = (Chain::new(&actions), route(&actions));
        let target = format!("{prefix}{rest}{query}");
        prop_assume!(target.starts_with('/'));
        let mut head = request(&target, &[]);
        chain.on_request(&route, &mut head);
        let changed = String::from_utf8_lossy(&head.target).into_owned();
        let (path, kept) = changed.split_at(changed.find('?').unwrap_or(changed.len()));
        prop_assert!(path.starts_with('/') && !path.contains("//"), "{} became {}", target, changed);
        prop_assert_eq!(kept, query);
        prop_assert!(path.ends_with(rest.as_str()), "{} became {}", target, changed);
    }
}
