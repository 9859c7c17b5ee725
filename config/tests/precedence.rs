//! Which route takes a request: matching and precedence as the Gateway API defines them.

#![allow(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{route, service, snapshot, taken};

/// Rules, one a line: `NAME: MATCHES`.
fn rules(lines: &[(&str, &str)]) -> String {
    let rule = |(name, matches): &(&str, &str)| {
        format!("    - {{name: {name}, matches: [{matches}], backendRefs: [{{name: web}}]}}\n")
    };
    lines.iter().map(rule).collect()
}

/// Checks which of `lines` takes each request; in both orders of the rules, since their order must not matter.
#[track_caller]
fn check(lines: &[(&str, &str)], requests: &[(&str, Option<&str>)]) {
    let mut lines = lines.to_vec();
    for _ in 0..2 {
        let snapshot = snapshot(&(service("web") + &route("name: r", &rules(&lines))));
        for (request, rule) in requests {
            let expected = rule.map(|rule| format!("r/{rule}"));
            assert_eq!(taken(&snapshot, request), expected, "{request}");
        }
        lines.reverse();
    }
}

#[test]
fn an_exact_path_is_the_whole_path() {
    check(
        &[("a", "{path: {type: Exact, value: /a}}"), ("ab", "{path: {type: Exact, value: /a/b}}")],
        &[
            ("GET /a", Some("a")),
            ("GET /a?x=/b", Some("a")),
            ("GET /a/b", Some("ab")),
            ("GET /a/", None),
            ("GET /A", None),
            ("GET /", None),
        ],
    );
}

#[test]
fn a_prefix_is_whole_segments() {
    check(
        &[("ab", "{path: {value: /a/b}}"), ("slash", "{path: {value: /c/}}")],
        &[
            ("GET /a/b", Some("ab")),
            ("GET /a/b/", Some("ab")),
            ("GET /a/b/c", Some("ab")),
            ("GET /a/bc", None),
            ("GET /a", None),
            ("GET /c", Some("slash")),
            ("GET /c/d", Some("slash")),
            ("GET /cd", None),
        ],
    );
}

#[test]
fn a_regular_expression_is_about_the_whole_path() {
    check(
        &[("number", r#"{path: {type: RegularExpression, value: '/v\d+|/w'}}"#)],
        &[
            ("GET /v12", Some("number")),
            ("GET /w", Some("number")),
            ("GET /v12/x", None),
            ("GET /x/v12", None),
            ("GET /v", None),
        ],
    );
}

#[test]
fn exact_goes_before_expression_before_longest_prefix() {
    check(
        &[
            ("all", "{path: {value: /}}"),
            ("short", "{path: {value: /a}}"),
            ("long", "{path: {value: /a/b}}"),
            ("regex", "{path: {type: RegularExpression, value: '/a/b/.*'}}"),
            ("exact", "{path: {type: Exact, value: /a/b/c}}"),
        ],
        &[
            ("GET /a/b/c", Some("exact")),
            ("GET /a/b/d", Some("regex")),
            ("GET /a/b", Some("long")),
            ("GET /a/x", Some("short")),
            ("GET /x", Some("all")),
        ],
    );
}

#[test]
fn the_path_counts_before_method_headers_and_query() {
    check(
        &[
            ("exact", "{path: {type: Exact, value: /a}}"),
            ("long", "{path: {value: /a/b}}"),
            (
                "much",
                "{path: {value: /a}, method: GET, headers: [{name: x, value: '1'}], \
                 queryParams: [{name: q, value: '1'}]}",
            ),
        ],
        &[
            ("GET /a?q=1 x:1", Some("exact")),
            ("GET /a/b?q=1 x:1", Some("long")),
            ("GET /a/c?q=1 x:1", Some("much")),
            ("GET /a/c?q=1", None),
        ],
    );
}

#[test]
fn a_method_counts_before_headers_before_query() {
    check(
        &[
            ("none", "{}"),
            ("method", "{method: GET}"),
            ("two-headers", "{headers: [{name: x, value: '1'}, {name: y, value: '1'}]}"),
            ("one-header", "{headers: [{name: x, value: '1'}]}"),
            ("two-params", "{queryParams: [{name: q, value: '1'}, {name: r, value: '1'}]}"),
            ("one-param", "{queryParams: [{name: q, value: '1'}]}"),
        ],
        &[
            ("GET /?q=1&r=1 x:1 y:1", Some("method")),
            ("PUT /?q=1&r=1 x:1 y:1", Some("two-headers")),
            ("PUT /?q=1&r=1 x:1", Some("one-header")),
            ("PUT /?q=1&r=1", Some("two-params")),
            ("PUT /?q=1", Some("one-param")),
            ("PUT /", Some("none")),
            ("get /", Some("none")),
        ],
    );
}

#[test]
fn headers_are_found_whatever_their_case_and_compared_whole() {
    check(
        &[
            ("exact", "{headers: [{name: X-Version, value: v2}]}"),
            ("regex", "{headers: [{type: RegularExpression, name: x-other, value: 'v\\d'}]}"),
        ],
        &[
            ("GET / x-version:v2", Some("exact")),
            ("GET / X-VERSION:v2", Some("exact")),
            ("GET / x-version:V2", None),
            ("GET / x-version:v22", None),
            ("GET / X-Other:v3", Some("regex")),
            ("GET / x-other:v33", None),
        ],
    );
}

#[test]
fn any_match_of_a_rule_is_enough() {
    check(
        &[("either", "{path: {type: Exact, value: /a}}, {method: POST}")],
        &[
            ("GET /a", Some("either")),
            ("POST /b", Some("either")),
            ("POST /a", Some("either")),
            ("GET /b", None),
        ],
    );
}

#[test]
fn a_match_that_fails_leaves_the_request_to_the_next() {
    check(
        &[
            ("exact-post", "{path: {type: Exact, value: /a}, method: POST}"),
            ("exact-header", "{path: {type: Exact, value: /a}, headers: [{name: x, value: '1'}]}"),
            ("other-exact", "{path: {type: Exact, value: /b}}"),
            ("prefix", "{path: {value: /a}}"),
        ],
        &[
            ("POST /a x:1", Some("exact-post")),
            ("GET /a x:1", Some("exact-header")),
            ("GET /a", Some("prefix")),
            ("GET /b", Some("other-exact")),
            ("GET /c", None),
        ],
    );
}

#[test]
fn among_equals_the_older_route_then_the_first_name_then_the_first_rule() {
    let rule = |name: &str| rules(&[(name, "{path: {value: /}}")]);
    let dated = |name: &str, year: u32| {
        route(&format!("name: {name}, creationTimestamp: '{year}-01-01T00:00:00Z'"), &rule("x"))
    };
    let build = |documents: &[String]| snapshot(&(service("web") + &documents.concat()));

    let both = [dated("a", 2026), dated("b", 2025)];
    assert_eq!(taken(&build(&both), "GET /").as_deref(), Some("b/x"));
    let same = [dated("b", 2025), dated("a", 2025)];
    assert_eq!(taken(&build(&same), "GET /").as_deref(), Some("a/x"));
    // What has no date was not made by a control plane that writes one: it is taken for the youngest.
    let undated = [route("name: a", &rule("x")), dated("b", 2026)];
    assert_eq!(taken(&build(&undated), "GET /").as_deref(), Some("b/x"));
    let one = [route("name: a", &rules(&[("second", "{}"), ("first", "{}")]))];
    assert_eq!(taken(&build(&one), "GET /").as_deref(), Some("a/second"));
}

#[test]
fn routes_of_several_resources_are_one_table() {
    let first = route("name: a", &rules(&[("all", "{path: {value: /}}")]));
    let second = route("name: b", &rules(&[("api", "{path: {value: /api}}")]));
    let snapshot = snapshot(&(service("web") + &first + &second));
    assert_eq!(taken(&snapshot, "GET /api/x").as_deref(), Some("b/api"));
    assert_eq!(taken(&snapshot, "GET /x").as_deref(), Some("a/all"));
}

#[test]
fn without_a_route_everything_goes_to_the_service_itself() {
    let snapshot = snapshot(&service("web"));
    let routes = &common::port(&snapshot, "web").routes;
    let taken = routes.select(&common::Request::parse("DELETE /any?thing")).expect("the default route");
    assert_eq!(&*taken.name, "default");
    assert_eq!(taken.backends[0].target.to_string(), "default/web:80");
}

#[test]
fn grpc_methods_are_matched_and_the_longer_name_is_preferred() {
    let grpc_rule = |name: &str, method: &str| {
        format!("    - {{name: {name}, matches: [{method}], backendRefs: [{{name: web}}]}}\n")
    };
    let text = service("web")
        + &route("name: r", "").replace("HTTPRoute", "GRPCRoute").replace(
            "  rules:\n",
            &format!(
                "  rules:\n{}{}{}{}{}",
                grpc_rule("list", "{method: {method: List}}"),
                grpc_rule("shop", "{method: {service: shop.Catalog}}"),
                grpc_rule("shop-get", "{method: {service: shop.Catalog, method: Get}}"),
                grpc_rule(
                    "regex",
                    "{method: {type: RegularExpression, service: 'bank\\..*', method: 'P(ay|ut)'}}"
                ),
                grpc_rule("canary", "{headers: [{name: x-canary, value: 'yes'}]}"),
            ),
        );
    let snapshot = snapshot(&text);
    for (request, rule) in [
        ("POST /shop.Catalog/Get", Some("shop-get")),
        ("POST /shop.Catalog/List", Some("shop")),
        ("POST /shop.Catalogue/List", Some("list")),
        ("POST /bank.v1.Teller/Pay", Some("regex")),
        ("POST /bank.v1.Teller/Payday", None),
        ("POST /other/Get", None),
        ("POST /other/Get x-canary:yes", Some("canary")),
    ] {
        assert_eq!(taken(&snapshot, request), rule.map(|rule| format!("r/{rule}")), "{request}");
    }
}
