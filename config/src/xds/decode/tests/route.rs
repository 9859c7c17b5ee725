//! Routes of other servers.

use super::*;

struct Get(&'static str, Vec<(&'static str, &'static str)>);

impl RequestParts for Get {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn path(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn query(&self) -> Option<&[u8]> {
        None
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.1.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_bytes())
    }
}

/// The cluster that takes a request to a path.
fn taken(routes: &RouteConfiguration, request: Get) -> Option<String> {
    let route = routes.hosts[0].table.select(&request)?;
    route.backends.first().map(|backend| names::cluster(&backend.target))
}

#[test]
fn a_prefix_of_another_server_may_end_within_a_segment() {
    let separated = PathSpecifier::PathSeparatedPrefix("/seg".to_string());
    let mut segments = simple("", "segments");
    segments.r#match.as_mut().unwrap().path_specifier = Some(separated);
    let mut insensitive = simple("/Case", "insensitive");
    insensitive.r#match.as_mut().unwrap().case_sensitive = Some(false);
    let routes =
        read_table(vec![simple("/a", "a"), simple("/b/", "b"), segments, insensitive, simple("/", "rest")]);
    let routes = routes.unwrap();
    for (path, cluster) in [
        ("/a", "a"),
        ("/abc", "a"),
        ("/b/", "b"),
        ("/b", "rest"),
        ("/seg", "segments"),
        ("/seg/x", "segments"),
        ("/segment", "rest"),
        ("/cASE/x", "insensitive"),
    ] {
        assert_eq!(taken(&routes, Get(path, Vec::new())).as_deref(), Some(cluster), "{path}");
    }
    let names: Vec<&str> = routes.hosts[0].table.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["r/0", "r/1", "r/2", "r/3", "r/4"]);
    assert_eq!(routes.clusters().len(), 5);
}

#[test]
fn headers_are_matched_in_all_the_ways_that_are_left_of_older_servers() {
    use HeaderMatchSpecifier as Wanted;
    let regex = |regex: &str| matchers::RegexMatcher { regex: regex.to_string(), ..Default::default() };
    let insensitive = matchers::StringMatcher {
        match_pattern: Some(matchers::string_matcher::MatchPattern::Exact("a.b".into())),
        ignore_case: true,
    };
    for (wanted, fits, fits_not) in [
        (Some(Wanted::ExactMatch("v".into())), "v", "V"),
        (Some(Wanted::PrefixMatch("v.".into())), "v.1", "v1"),
        (Some(Wanted::SuffixMatch(".1".into())), "v.1", "v.12"),
        (Some(Wanted::ContainsMatch("a".into())), "xax", "xx"),
        (Some(Wanted::SafeRegexMatch(regex("v|w"))), "w", "vw"),
        (Some(Wanted::StringMatch(insensitive)), "A.B", "AxB"),
    ] {
        let mut route = simple("", "it");
        let header =
            wire::HeaderMatcher { name: "X-V".into(), header_match_specifier: wanted, ..Default::default() };
        route.r#match.as_mut().unwrap().headers = vec![header];
        let routes = read_table(vec![route]).unwrap();
        assert!(taken(&routes, Get("/", vec![("x-v", fits)])).is_some(), "{fits}");
        assert!(taken(&routes, Get("/", vec![("x-v", fits_not)])).is_none(), "{fits_not}");
        assert!(taken(&routes, Get("/", Vec::new())).is_none());
    }
    let mut route = simple("", "it");
    route.r#match.as_mut().unwrap().headers =
        vec![wire::HeaderMatcher { name: "x-v".into(), ..Default::default() }];
    let routes = read_table(vec![route]).unwrap();
    assert!(taken(&routes, Get("/", vec![("x-v", "")])).is_some());
    assert!(taken(&routes, Get("/", Vec::new())).is_none());
}

#[test]
fn what_narrows_a_match_is_never_passed_over() {
    let at = "r: virtual_hosts[0].routes[0].match";
    let with = |change: &dyn Fn(&mut wire::RouteMatch)| {
        let mut route = simple("/", "a");
        change(route.r#match.as_mut().unwrap());
        refused(read_table(vec![route]))
    };
    let header = |header: wire::HeaderMatcher| with(&move |one| one.headers = vec![header.clone()]);
    let said = with(&|one| one.path_specifier = None);
    assert_eq!(said, format!("{at}: the path is not matched"));
    let named = |name: &str| wire::HeaderMatcher { name: name.to_string(), ..Default::default() };
    let said = header(wire::HeaderMatcher { invert_match: true, ..named("a") });
    assert_eq!(said, format!("{at}.headers[0].invert_match: not supported"));
    let said = header(wire::HeaderMatcher {
        header_match_specifier: Some(HeaderMatchSpecifier::ExactMatch("a".into())),
        ..named(":authority")
    });
    assert_eq!(said, format!("{at}.headers[0].name: `:authority` is not a header name"));
    let said = with(&|one| {
        let regex = matchers::RegexMatcher { regex: "(".into(), ..Default::default() };
        one.path_specifier = Some(PathSpecifier::SafeRegex(regex));
    });
    assert!(said.starts_with(&format!("{at}.safe_regex.regex: not a regular expression")), "{said}");

    // A range of header values and a fraction of requests, which are not in our messages.
    let raw = |inner: &[u8]| {
        let one = [&[1 << 3 | 2, inner.len() as u8], inner].concat();
        let host = [&[3 << 3 | 2, one.len() as u8], &one[..]].concat();
        let table = [&[1 << 3 | 2, 1, b'r', 2 << 3 | 2, host.len() as u8], &host[..]].concat();
        route_configuration(&table)
    };
    let found = refused(raw(&[9 << 3 | 2, 0]));
    assert_eq!(found, "r: virtual_hosts.routes.match: field number 9 is not known");
    let found = refused(raw(&[6 << 3 | 2, 2, 6 << 3 | 2, 0]));
    assert_eq!(found, "r: virtual_hosts.routes.match.headers: field number 6 is not known");
}

#[test]
fn what_cannot_be_done_with_a_request_is_refused() {
    let at = "r: virtual_hosts[0].routes[0]";
    let with = |change: &dyn Fn(&mut wire::RouteAction)| {
        let mut action = to_cluster("a");
        change(&mut action);
        let action = Some(wire::route::Action::Route(action));
        refused(read_table(vec![wire::Route { action, ..simple("/", "a") }]))
    };
    let weights = |weights: &[Option<u32>]| {
        let one = |weight: &Option<u32>| wire::weighted_cluster::ClusterWeight {
            name: "a".into(),
            weight: *weight,
            ..Default::default()
        };
        let clusters = wire::WeightedCluster { clusters: weights.iter().map(one).collect() };
        with(&move |action| {
            action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(clusters.clone()));
        })
    };
    let at_clusters = format!("{at}.route.weighted_clusters.clusters");
    assert_eq!(weights(&[Some(0), Some(0)]), format!("{at_clusters}: every weight is 0"));
    assert_eq!(weights(&[]), format!("{at_clusters}: every weight is 0"));
    let said = weights(&[Some(u32::MAX), Some(1)]);
    assert_eq!(said, format!("{at_clusters}[1].weight: the sum of the weights is too large"));
    assert_eq!(weights(&[None]), format!("{at_clusters}[0].weight: missing"));

    let said = with(&|action| action.cluster_specifier = None);
    assert_eq!(said, format!("{at}.route: no cluster"));
    let said = with(&|action| action.prefix_rewrite = "no-slash".into());
    assert_eq!(said, format!("{at}.route.prefix_rewrite: `no-slash` is not a path"));
    let said = with(&|action| action.timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 }));
    assert_eq!(said, format!("{at}.route.timeout: not a duration"));
    let said = refused(read_table(vec![wire::Route { action: None, ..simple("/", "a") }]));
    assert_eq!(said, format!("{at}: nothing that is supported is done with what it matches"));

    let headers = |key: &str, value: &str| {
        let header = core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() };
        let option = core::HeaderValueOption { header: Some(header), ..Default::default() };
        refused(read_table(vec![wire::Route { request_headers_to_add: vec![option], ..simple("/", "a") }]))
    };
    let at = format!("{at}.request_headers_to_add[0].header");
    assert_eq!(headers("x", "%START_TIME%"), format!("{at}.value: not supported"));
    assert_eq!(
        headers("content-length", "1"),
        format!("{at}.key: the header `content-length` cannot be changed")
    );
    assert!(headers("x", "a\r\nb: c").starts_with(&format!("{at}.value: ")));
}

#[test]
fn changes_of_headers_are_made_from_the_route_outwards() {
    let option = |key: &str, value: &str, append: bool| core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() }),
        append: Some(append),
        ..Default::default()
    };
    let mut route = simple("/", "a");
    route.request_headers_to_add = vec![option("X-A", "route", true), option("b", "100%%", false)];
    let mut table = table(vec![route]);
    table.virtual_hosts[0].request_headers_to_remove = vec!["x-a".into()];
    table.request_headers_to_add = vec![option("B", "outer", false), option("c", "c", true)];
    let routes = route_configuration(&table.encode_to_vec()).unwrap();
    let expected = HeaderChanges {
        remove: vec!["x-a".into()],
        set: vec![("B".into(), "outer".into())],
        add: vec![("c".into(), "c".into())],
    };
    assert_eq!(routes.hosts[0].table.routes[0].actions, [Action::RequestHeaders(expected)]);
}

#[test]
fn a_rewrite_replaces_what_was_matched() {
    let rewritten = |path: PathSpecifier| {
        let mut action = to_cluster("a");
        action.prefix_rewrite = "/new".into();
        let mut route = wire::Route { action: Some(wire::route::Action::Route(action)), ..simple("", "a") };
        route.r#match.as_mut().unwrap().path_specifier = Some(path);
        let routes = read_table(vec![route]).unwrap();
        let route = &routes.hosts[0].table.routes[0];
        match route.actions.as_slice() {
            [Action::Rewrite(Rewrite { path: Some(change), hostname: None })] => change.clone(),
            other => panic!("{other:?}"),
        }
    };
    let prefix = PathChange::ReplacePrefix("/new".into(), "/old".into());
    assert_eq!(rewritten(PathSpecifier::Prefix("/old".into())), prefix);
    assert_eq!(rewritten(PathSpecifier::PathSeparatedPrefix("/old".into())), prefix);
    assert_eq!(rewritten(PathSpecifier::Path("/old".into())), PathChange::ReplaceFull("/new".into()));
}

#[test]
fn the_closest_domain_has_the_request() {
    let host = |domains: &[&str], cluster: &str| wire::VirtualHost {
        domains: domains.iter().map(|domain| domain.to_string()).collect(),
        routes: vec![simple("", cluster)],
        ..Default::default()
    };
    let mut table = table(Vec::new());
    table.virtual_hosts = vec![
        host(&["*"], "any"),
        host(&["*.b", "*.a.b"], "end"),
        host(&["x.*"], "front"),
        host(&["X.a.b"], "whole"),
    ];
    let routes = route_configuration(&table.encode_to_vec()).unwrap();
    for (authority, cluster) in
        [("x.A.b", "whole"), ("y.a.b", "end"), ("y.b", "end"), ("x.c", "front"), (".b", "any"), ("b", "any")]
    {
        let table = routes.table(authority).unwrap();
        assert_eq!(&*table.routes[0].backends[0].target.service.name, cluster, "{authority}");
    }
    table.virtual_hosts[1].domains = vec!["a.*.b".into()];
    let said = refused(route_configuration(&table.encode_to_vec()));
    assert_eq!(said, "r: virtual_hosts[1].domains[0]: `a.*.b` is no domain");
}
