//! Matches and requests at random, and what the definition says of them.

use proptest::prelude::*;
use proptest::sample::select;

use super::Request;

/// A match as the Gateway API describes it, from a small alphabet so that many of them meet.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    pub(crate) exact: bool,
    pub(crate) path: Vec<&'static str>,
    pub(crate) method: Option<&'static str>,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) query: Vec<(&'static str, &'static str)>,
}

impl Match {
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.path.join("/"))
    }

    pub(crate) fn yaml(&self) -> String {
        let pairs = |pairs: &[(&str, &str)]| -> String {
            pairs.iter().map(|(name, value)| format!("{{name: {name}, value: '{value}'}},")).collect()
        };
        format!(
            "{{path: {{type: {}, value: {}}}, {} headers: [{}], queryParams: [{}]}}",
            if self.exact { "Exact" } else { "PathPrefix" },
            self.path(),
            self.method.map(|method| format!("method: {method},")).unwrap_or_default(),
            pairs(&self.headers),
            pairs(&self.query),
        )
    }

    /// The definition, word by word, without any of the production code.
    pub(crate) fn takes(&self, request: &Request) -> bool {
        let segments: Vec<&str> = request.path.split('/').skip(1).collect();
        let path = if self.exact {
            request.path == self.path()
        } else {
            segments.len() >= self.path.len() && segments[..self.path.len()] == self.path[..]
        };
        let params: Vec<(&str, &str)> = request
            .query
            .iter()
            .flat_map(|query| query.split('&'))
            .filter_map(|p| p.split_once('='))
            .collect();
        path && self.method.is_none_or(|method| method == request.method)
            && self.headers.iter().all(|(name, value)| {
                request.headers.iter().find(|(n, _)| n == name).is_some_and(|(_, v)| v == value)
            })
            && self
                .query
                .iter()
                .all(|(name, value)| params.iter().find(|(n, _)| n == name).is_some_and(|(_, v)| v == value))
    }

    /// The greater is preferred.
    pub(crate) fn weight(&self) -> impl Ord {
        let characters = if self.path.is_empty() { 0 } else { self.path().len() };
        (self.exact, characters, self.method.is_some(), self.headers.len(), self.query.len())
    }
}

pub(crate) fn pairs(name: [&'static str; 2]) -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let value = || proptest::option::of(select(vec!["1", "2"]));
    (value(), value()).prop_map(move |(first, second)| {
        let found = [(name[0], first), (name[1], second)];
        found.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    })
}

pub(crate) fn segments() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(select(vec!["a", "b", "ab"]), 0..4)
}

pub(crate) fn one_match() -> impl Strategy<Value = Match> {
    let method = proptest::option::of(select(vec!["GET", "PUT"]));
    (any::<bool>(), segments(), method, pairs(["x", "y"]), pairs(["q", "r"]))
        .prop_map(|(exact, path, method, headers, query)| Match { exact, path, method, headers, query })
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let method = select(vec!["GET", "PUT", "POST"]);
    (method, segments(), any::<bool>(), pairs(["x", "y"]), pairs(["q", "r"])).prop_map(
        |(method, path, slash, headers, query)| Request {
            method: method.to_string(),
            path: format!("/{}{}", path.join("/"), if slash && !path.is_empty() { "/" } else { "" }),
            query: (!query.is_empty())
                .then(|| query.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("&")),
            headers: headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        },
    )
}
