//! Chains as an engine uses them.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::filter::{Abort, Fault, Mirror, Per, RateLimit, Share, SizeLimits};
use lighter_config::snapshot::route::{PathChange, Redirect, Rewrite, ValueMatch};
use lighter_config::snapshot::{Action, HeaderChanges, Route, RouteTable};
use lighter_filters::{
    Chain, Facts, Fields, LocalAnswer, Memory, Orders, Refusal, RequestHead, ResponseHead,
};
use proptest::prelude::*;
use proptest::sample::select;

fn route(actions: &[Action]) -> Route {
    let own = ServicePort { service: ServiceName::new("default", "web"), port: 80 };
    let mut table = RouteTable::single(&own);
    Route { actions: actions.to_vec(), ..table.routes.remove(0) }
}

fn chain(actions: &[Action]) -> Chain {
    Chain::new(actions, "outbound default/web:80 default", &Memory::default())
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
        facts: Facts { caller: "", grpc: false, body: Some(0), now: Instant::now(), dice: || 500_000 },
        orders: Orders::default(),
    }
}

fn set(name: &str, value: &str) -> HeaderChanges {
    HeaderChanges { set: vec![(name.into(), value.into())], ..HeaderChanges::default() }
}

#[test]
fn a_route_without_actions_has_an_empty_chain() {
    let chain = chain(&[]);
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
    let (chain, route) = (chain(&actions), route(&actions));
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
    let (chain, route) = (chain(&actions), route(&actions));
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
        let (chain, route) = (chain(&actions), route(&actions));
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

#[test]
fn copies_are_ordered_of_what_passes_by_the_place_of_their_mirror() {
    let target = ServicePort { service: ServiceName::new("default", "next"), port: 80 };
    let mirror = |share: u32| Action::Mirror(Mirror { target: target.clone(), share: Share(share) });
    // Every request here draws 500000.
    let actions =
        [mirror(500_001), Action::RequestHeaders(set("x", "1")), mirror(500_000), mirror(1_000_000)];
    let ordered = |actions: &[Action]| {
        let (chain, route) = (chain(actions), route(actions));
        let mut head = request("/", &[]);
        chain.on_request(&route, &mut head);
        head.orders.mirrors
    };
    assert_eq!(ordered(&actions), 0b101);
    let redirect = Redirect { scheme: None, hostname: None, port: None, path: None, status: 302 };
    assert_eq!(ordered(&[mirror(1_000_000), Action::Redirect(redirect)]), 0, "nothing passes");
}

fn limit(requests: u32, per: Per) -> Action {
    let interval = Duration::from_secs(60);
    Action::RateLimit(RateLimit { requests, interval, burst: requests, per, max_keys: 8 })
}

/// What a chain answers.
fn answer<'a>(chain: &'a Chain, actions: &[Action], mut head: RequestHead<'a>) -> Option<LocalAnswer> {
    // What is borrowed from the route is borrowed for as long as from the chain.
    let route: &'static Route = Box::leak(Box::new(route(actions)));
    chain.on_request(route, &mut head)
}

#[test]
fn a_limit_of_rate_refuses_with_the_time_to_wait() {
    let actions = [limit(2, Per::Header("x-key".into()))];
    let chain = chain(&actions);
    let refused = |key| answer(&chain, &actions, request("/", &[("X-Key", key)]));
    assert_eq!((refused("a"), refused("a")), (None, None));
    let answer = refused("a").unwrap_or_else(|| panic!("no answer"));
    assert_eq!((answer.status, answer.refusal), (429, Some(Refusal::RateLimited)));
    let expected = [("x-lighter-error", "rate_limited"), ("retry-after", "30")];
    let expected = expected.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    assert_eq!(answer.fields, expected);
    assert_eq!(refused("b"), None);
}

#[test]
fn a_call_of_grpc_is_refused_by_a_status_of_grpc() {
    let actions = [limit(1, Per::All)];
    let chain = chain(&actions);
    let call = || {
        let mut head = request("/shop.Catalog/Get", &[]);
        head.facts.grpc = true;
        head
    };
    assert_eq!(answer(&chain, &actions, call()), None);
    let answer = answer(&chain, &actions, call()).unwrap_or_else(|| panic!("no answer"));
    assert_eq!((answer.status, answer.grpc_status), (200, Some(8)));
    assert!(answer.fields.contains(&("grpc-status".to_string(), b"8".to_vec())));
}

#[test]
fn chains_of_one_scope_share_what_they_count() {
    let actions = [limit(2, Per::All)];
    let memory = Memory::default();
    let make = |scope: &str| Chain::new(&actions, scope, &memory);
    let (first, same, other) = (make("a"), make("a"), make("b"));
    let passes = |chain: &Chain| answer(chain, &actions, request("/", &[])).is_none();
    assert!(passes(&first) && passes(&same));
    assert!(!passes(&first) && !passes(&same) && passes(&other));
    // What nobody has any more is forgotten.
    drop((first, same));
    assert!(passes(&make("a")));
}

#[test]
fn sizes_are_refused_or_ordered() {
    let actions = [Action::SizeLimits(SizeLimits { head: Some(40), body: Some(10) })];
    let (chain, route) = (chain(&actions), route(&actions));
    let mut small = request("/a", &[("x-a", "1")]);
    small.facts.body = None;
    assert_eq!(chain.on_request(&route, &mut small), None);
    assert_eq!(small.orders, Orders { max_body: 10, ..Orders::default() });
    let refused = |head| answer(&chain, &actions, head).and_then(|answer| answer.refusal);
    assert_eq!(
        refused(request("/a", &[("x-a", "0123456789012345678901234567")])),
        Some(Refusal::HeadTooLarge)
    );
    let mut large = request("/a", &[]);
    large.facts.body = Some(11);
    assert_eq!(refused(large), Some(Refusal::BodyTooLarge));
}

#[test]
fn faults_are_for_a_share_of_the_requests_that_ask_for_them() {
    let fault = |share: u32| Fault {
        delay: Some((Duration::from_secs(1), Share(share))),
        abort: Some((Abort::Http(418), Share(share))),
        headers: vec![("x-try".into(), ValueMatch::Exact("yes".into()))],
    };
    // The dice always show half a million.
    for (share, asked, expected) in [
        (500_000, "yes", None),
        (500_001, "no", None),
        (500_001, "yes", Some(418)),
        (1_000_000, "yes", Some(418)),
    ] {
        let actions = [Action::Fault(fault(share))];
        let (chain, route) = (chain(&actions), route(&actions));
        let mut head = request("/", &[("X-Try", asked)]);
        let answer = chain.on_request(&route, &mut head);
        assert_eq!(answer.map(|answer| answer.status), expected, "{share} {asked}");
        assert_eq!(head.orders.delay, Duration::from_secs(u64::from(expected.is_some())), "{share} {asked}");
    }
}

/// One of each kind.
fn every_action() -> Vec<Action> {
    let rewrite =
        Rewrite { hostname: Some("inner.example".into()), path: Some(PathChange::ReplaceFull("/n".into())) };
    let abort = Some((Abort::Grpc(14), Share(500_001)));
    vec![
        Action::RequestHeaders(set("x-a", "1")),
        Action::ResponseHeaders(set("x-b", "2")),
        Action::Rewrite(rewrite),
        limit(1, Per::Header("x-key".into())),
        Action::SizeLimits(SizeLimits { head: Some(60), body: Some(9) }),
        Action::Fault(Fault {
            delay: None,
            abort,
            headers: vec![("x-try".into(), ValueMatch::Exact("1".into()))],
        }),
    ]
}

/// Whether every name is a token, and no value could end its line.
fn is_valid(names_and_values: &[(Vec<u8>, Vec<u8>)]) -> bool {
    names_and_values.iter().all(|(name, value)| {
        !name.is_empty()
            && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
            && !value.iter().any(|byte| b"\r\n\0".contains(byte))
    })
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
    fn chains_in_any_order_keep_heads_valid(
        actions in Just(every_action()).prop_shuffle(),
        taken in 0usize..7,
        key in select(vec!["a", "b"]),
        tries in select(vec!["0", "1"]),
        requests in 1usize..4,
    ) {
        let actions = &actions[..taken.min(actions.len())];
        let (chain, route) = (chain(actions), route(actions));
        let mut passed = 0;
        for _ in 0..requests {
            let mut head = request("/old?q=1", &[("x-key", key), ("x-try", tries)]);
            let answer = chain.on_request(&route, &mut head);
            let owned = |fields: &Fields<'_>| -> Vec<(Vec<u8>, Vec<u8>)> {
                fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
            };
            prop_assert!(is_valid(&owned(&head.fields)));
            prop_assert!(head.target.starts_with(b"/") && !head.authority.is_empty());
            match answer {
                None => passed += 1,
                Some(answer) => {
                    let fields: Vec<_> = answer.fields.iter().map(|(n, v)| (n.clone().into_bytes(), v.clone())).collect();
                    prop_assert!(is_valid(&fields));
                    prop_assert!((200..600).contains(&answer.status) && answer.refusal.is_some());
                    // What changes answers changes those that are given here, wherever it stands.
                    let changes = actions.iter().any(|action| matches!(action, Action::ResponseHeaders(_)));
                    prop_assert_eq!(answer.fields.iter().any(|(name, _)| name == "x-b"), changes);
                }
            }
        }
        let is_limited = actions.iter().any(|action| matches!(action, Action::RateLimit(_)));
        let fails = tries == "1" && actions.iter().any(|action| matches!(action, Action::Fault(_)));
        let most = if fails { 0 } else if is_limited { 1 } else { requests };
        prop_assert_eq!(passed, most);
    }

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
        let chain = chain(&actions);
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
        let (chain, route) = (chain(&actions), route(&actions));
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
