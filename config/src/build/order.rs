//! The order in which routes are tried: the precedence of the Gateway API.

use std::cmp::Reverse;
use std::sync::Arc;

use super::retry::OfRule;
use crate::snapshot::Retry;
use crate::snapshot::route::{PathMatch, Route, RouteTable};

/// A route with what decides its place. The smaller rank is tried first.
#[derive(Clone)]
pub(super) struct Ranked {
    pub(super) rank: Rank,
    pub(super) route: Route,
    /// What its rule says of other tries; what it leaves out, the port's policy says.
    pub(super) retry: Option<OfRule>,
}

/// In order of importance. Between routes that are alike up to here, the older resource is first, then the one whose
/// `namespace/name` is first, then the first rule and match of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    specific: Specific,
    headers: Reverse<usize>,
    queries: Reverse<usize>,
    age: Age,
    rule: usize,
    alternative: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Specific {
    /// Kind of path match, characters in it, whether there is a method.
    Http(PathRank, Reverse<usize>, Reverse<bool>),
    /// Characters in what is said of the service, and of the method.
    Grpc(Reverse<usize>, Reverse<usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    /// The Gateway API leaves the place of expressions open. They are before prefixes, since the catch-all prefix that
    /// most routes have would otherwise hide them.
    Regex,
    Prefix,
}

/// Age and name of a resource: the older, then the first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    /// Resources without a time, as in most files, come after those with one.
    undated: bool,
    created: Arc<str>,
    name: Arc<str>,
}

impl Age {
    pub(super) fn new(created: Option<&str>, namespace: &str, name: &str) -> Self {
        Age {
            undated: created.is_none(),
            created: created.unwrap_or_default().into(),
            name: format!("{namespace}/{name}").into(),
        }
    }
}

impl Ranked {
    /// An HTTPRoute's match number `alternative` of rule number `rule`.
    pub(super) fn http(route: Route, age: &Age, rule: usize, alternative: usize) -> Self {
        let (path, length) = match &route.matcher.path {
            PathMatch::Exact(path) => (PathRank::Exact, path.len()),
            PathMatch::Prefix(prefix) | PathMatch::Starts(prefix) => (PathRank::Prefix, prefix.len()),
            PathMatch::Regex(regex) => (PathRank::Regex, regex.as_str().len()),
        };
        let specific = Specific::Http(path, Reverse(length), Reverse(route.matcher.method.is_some()));
        Self::new(specific, route, age, rule, alternative)
    }

    /// A GRPCRoute's match, with the lengths of what it says of service and of method.
    pub(super) fn grpc(
        route: Route,
        lengths: (usize, usize),
        age: &Age,
        rule: usize,
        alternative: usize,
    ) -> Self {
        let specific = Specific::Grpc(Reverse(lengths.0), Reverse(lengths.1));
        Self::new(specific, route, age, rule, alternative)
    }

    fn new(specific: Specific, route: Route, age: &Age, rule: usize, alternative: usize) -> Self {
        let rank = Rank {
            specific,
            headers: Reverse(route.matcher.headers.len()),
            queries: Reverse(route.matcher.query.len()),
            age: age.clone(),
            rule,
            alternative,
        };
        Ranked { rank, route, retry: None }
    }
}

/// The table of `routes` at a port of which `retry` holds.
pub(super) fn table(mut routes: Vec<Ranked>, retry: &Retry) -> RouteTable {
    routes.sort_by(|a, b| a.rank.cmp(&b.rank));
    let route = |Ranked { route, retry: own, .. }: Ranked| match own {
        Some(own) => Route { retry: Some(own.over(retry).into()), ..route },
        None => route,
    };
    RouteTable::new(routes.into_iter().map(route).collect())
}
