//! Properties that hold for all configurations and requests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::generate::{Match, one_match, request};
use common::{route, service};
use lighter_config::load::Resources;
use lighter_config::sidecar::SidecarConfig;
use lighter_config::snapshot::Snapshot;
use proptest::prelude::*;
use proptest::sample::{Index, select};

proptest! {
    #[test]
    fn the_route_selected_is_the_one_that_the_definition_prefers(
        rules in proptest::collection::vec(proptest::collection::vec(one_match(), 1..4), 1..8),
        requests in proptest::collection::vec(request(), 1..16),
    ) {
        let rule = |matches: &Vec<Match>| {
            let matches: String = matches.iter().map(|one| one.yaml() + ",").collect();
            format!("    - {{matches: [{matches}], backendRefs: [{{name: web}}]}}\n")
        };
        let text = service("web") + &route("name: r", &rules.iter().map(rule).collect::<String>());
        let snapshot = common::snapshot(&text);
        for request in requests {
            let taking = rules.iter().enumerate().flat_map(|(rule, matches)| {
                matches.iter().filter(|one| one.takes(&request)).map(move |one| (one, rule))
            });
            // Of equals, the first: `max_by` would return the last.
            let best = taking.reduce(|best, next| if next.0.weight() > best.0.weight() { next } else { best });
            let expected = best.map(|(_, rule)| format!("default/r/{rule}"));
            let selected = common::port(&snapshot, "web").routes.select(&request);
            prop_assert_eq!(selected.map(|route| route.name.to_string()), expected, "{:?}", request);
        }
    }

    #[test]
    fn the_version_is_about_what_is_said_and_not_about_its_order(
        order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle(),
        changed in any::<Index>(),
    ) {
        let documents = |weight: usize| [
            service("web"),
            service("a"),
            service("b"),
            route("name: one", &format!("    - {{backendRefs: [{{name: a, weight: {weight}}}, {{name: b}}]}}")),
            route("name: two", "    - {matches: [{method: GET}], backendRefs: [{name: b}]}"),
            service("c"),
        ];
        let version = |order: &[usize], documents: &[String]| {
            common::snapshot(&order.iter().map(|n| documents[*n].as_str()).collect::<String>()).version
        };
        let plain: Vec<usize> = (0..6).collect();
        let original = version(&plain, &documents(5));
        prop_assert_eq!(original.len(), 16);
        prop_assert_eq!(&version(&order, &documents(5)), &original);
        prop_assert_ne!(&version(&order, &documents(6 + changed.index(100))), &original);
        let as_json = |document: String| {
            let value: serde_json::Value = serde_saphyr::from_str(&document).unwrap();
            format!("---\n{value:#}\n")
        };
        prop_assert_eq!(&version(&plain, &documents(5).map(as_json)), &original);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_text_is_a_reason_to_panic(text in any::<String>()) {
        let _ = Resources::parse("any.yaml", &text).and_then(|resources| Snapshot::build(&resources));
        let _ = SidecarConfig::parse("any.yaml", &text);
    }

    #[test]
    fn no_damage_to_a_good_file_is_a_reason_to_panic(
        cuts in proptest::collection::vec((any::<Index>(), 0usize..12, select(vec!["", "\n", "- ", "{", "]", ": ", "0", "'", "*a", "\u{0}", "é"])), 1..6),
    ) {
        let mut resources = include_str!("../../examples/bookshop.yaml").to_string();
        let mut sidecar = include_str!("../../examples/sidecar.yaml").to_string();
        for (place, length, instead) in cuts {
            for text in [&mut resources, &mut sidecar] {
                let chars: Vec<char> = text.chars().collect();
                let start = place.index(chars.len() + 1);
                let end = (start + length).min(chars.len());
                *text = chars[..start].iter().copied().chain(instead.chars()).chain(chars[end..].iter().copied()).collect();
            }
        }
        if let Err(found) = Resources::parse("cut.yaml", &resources).and_then(|read| Snapshot::build(&read)) {
            for error in &found.errors {
                prop_assert!(error.line > 0 && error.column > 0, "no place: {}", error);
            }
        }
        let _ = SidecarConfig::parse("cut.yaml", &sidecar);
    }
}
