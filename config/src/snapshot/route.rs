//! HTTP routes in the order in which they are tried (Gateway API precedence).

use std::sync::Arc;
use std::time::Duration;

use super::filter::{Fault, Mirror, RateLimit, SizeLimits};
use super::{Backend, Offload, Persistence, Priority, Retry, query};
use crate::name::ServicePort;

/// What a route can ask of a request, whatever the protocol version.
pub trait RequestParts {
    /// `GET`.
    fn method(&self) -> &[u8];
    /// The path without the query.
    fn path(&self) -> &[u8];
    /// The query without its question mark.
    fn query(&self) -> Option<&[u8]>;
    /// The first value of header `name` (lower case); comparison of names ignores case.
    fn header(&self, name: &str) -> Option<&[u8]>;
    /// Shows every value of header `name`, in order. One that refuses has to look at all of them: which one the
    /// application takes is not known.
    fn header_values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        if let Some(value) = self.header(name) {
            see(value);
        }
    }
}

/// A port's routes in order of precedence.
///
/// The order is that of the Gateway API, and is made once, when the table is built: exact paths, then regular
/// expressions (a place that the Gateway API leaves open; before the prefixes, since a catch-all prefix beside them
/// would otherwise hide them all), then prefixes, longest first; among equals a match with a method, with more
/// headers, with more query parameters; then the older route, the first by `namespace/name`, the first rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTable {
    /// In the order in which they are tried. `Route::index` is the place here.
    pub routes: Vec<Route>,
    /// How many of them, from the front, have an exact path; those are sorted by path.
    exact: usize,
    /// Whether the first of them takes every request, as in a table that nobody configured.
    takes_all: bool,
}

/// One match of one rule of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its place in the table.
    pub index: usize,
    /// `namespace/name/rule` of the HTTPRoute or GRPCRoute, or `default`: the metrics' `route` label.
    pub name: Arc<str>,
    /// What a request must look like.
    pub matcher: Matcher,
    /// What is done to it.
    pub actions: Vec<Action>,
    /// Where it goes; empty after a redirect.
    pub backends: Vec<Backend>,
    /// `timeouts.request`, over the port's policy. `Some(None)`: said to be without limit.
    pub request_timeout: Option<Option<Duration>>,
    /// What is tried again, in place of the port's policy.
    pub retry: Option<Arc<Retry>>,
    /// Whether its requests are refused first where not all can be served.
    pub priority: Priority,
    /// How requests of one session find the endpoint of the first one again. None: each is for itself.
    pub session: Option<Arc<Persistence>>,
    /// Where its requests may run beside its backends. None: nowhere.
    pub offload: Option<Arc<Offload>>,
}

/// What a request must look like. Every part must hold.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    /// The path.
    pub path: PathMatch,
    /// The method, in capitals.
    pub method: Option<Arc<str>>,
    /// Headers: lower-case name, and what the value must be.
    pub headers: Vec<(Arc<str>, ValueMatch)>,
    /// Query parameters: name, and what the first value must be.
    pub query: Vec<(Arc<str>, ValueMatch)>,
}

/// How a path is matched.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The whole path.
    Exact(Arc<str>),
    /// Whole segments from the front; without a slash at the end, `/` is the empty string.
    Prefix(Arc<str>),
    /// What the path begins with, be it in the middle of a segment. Only a foreign control plane says this.
    Starts(Arc<str>),
    /// A regular expression over the whole path, anchored at both ends when it is made.
    Regex(regex::bytes::Regex),
}

/// How a value is matched.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// The whole value.
    Exact(Arc<str>),
    /// A regular expression over the whole value, anchored at both ends when it is made.
    Regex(regex::bytes::Regex),
}

/// What a route does to a request or its answer, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// RequestHeaderModifier.
    RequestHeaders(HeaderChanges),
    /// ResponseHeaderModifier.
    ResponseHeaders(HeaderChanges),
    /// RequestRedirect.
    Redirect(Redirect),
    /// URLRewrite.
    Rewrite(Rewrite),
    /// A TrafficPolicy's limit of rate.
    RateLimit(RateLimit),
    /// A TrafficPolicy's limits of size.
    SizeLimits(SizeLimits),
    /// A TrafficPolicy's faults.
    Fault(Fault),
    /// RequestMirror.
    Mirror(Mirror),
}

/// Changes of headers: first `remove`, then `set`, then `add`. Names as written in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderChanges {
    /// Replaced, or added where absent.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Added beside what is there.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Taken away.
    pub remove: Vec<Arc<str>>,
}

/// An answer that sends the caller elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// `http` or `https`; none: as asked.
    pub scheme: Option<Arc<str>>,
    /// None: as asked.
    pub hostname: Option<Arc<str>>,
    /// None: the scheme's own port if `scheme` is set, otherwise as asked.
    pub port: Option<u16>,
    /// None: as asked.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A change of the request's target before it goes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// The new Host.
    pub hostname: Option<Arc<str>>,
    /// The new path.
    pub path: Option<PathChange>,
}

/// How a path is changed. The query stays.
#[derive(Clone, Debug, PartialEq)]
pub enum PathChange {
    /// The whole path.
    ReplaceFull(Arc<str>),
    /// The matched prefix (second field, as in [`PathMatch::Prefix`] or [`PathMatch::Starts`]) by the first.
    ReplacePrefix(Arc<str>, Arc<str>),
}

impl Default for PathMatch {
    fn default() -> Self {
        PathMatch::Prefix("".into())
    }
}

impl RouteTable {
    /// A table of `routes`, which are in order of precedence. Sets every `Route::index`.
    pub fn new(mut routes: Vec<Route>) -> Self {
        // Different exact paths exclude each other, so these may be sorted by path, and are found by bisection.
        // The sort is stable: routes of one path keep their order.
        let exact = routes.iter().take_while(|route| route.exact_path().is_some()).count();
        routes[..exact].sort_by(|a, b| a.exact_path().cmp(&b.exact_path()));
        for (index, route) in routes.iter_mut().enumerate() {
            route.index = index;
        }
        let takes_all = routes.first().is_some_and(|route| route.matcher.takes_all());
        RouteTable { routes, exact, takes_all }
    }

    /// One route named `default` that takes everything to `target`.
    pub fn single(target: &ServicePort) -> Self {
        Self::with_actions(target, Vec::new())
    }

    /// The same, with something done to each request.
    pub fn with_actions(target: &ServicePort, actions: Vec<Action>) -> Self {
        let own = Backend { target: target.clone(), weight: 1, exists: true };
        RouteTable::new(vec![Route {
            index: 0,
            name: "default".into(),
            matcher: Matcher::default(),
            actions,
            backends: vec![own],
            request_timeout: None,
            retry: None,
            priority: Priority::Default,
            session: None,
            offload: None,
        }])
    }

    /// The first route that takes `request`. Does not allocate, but for a query parameter that is percent-encoded
    /// and matched by a regular expression.
    #[inline]
    pub fn select<R: RequestParts + ?Sized>(&self, request: &R) -> Option<&Route> {
        // A look at one flag is all that most requests pay.
        if self.takes_all { self.routes.first() } else { self.search(request) }
    }

    /// Out of line, so that the common case stays small where it is inlined.
    #[inline(never)]
    fn search<R: RequestParts + ?Sized>(&self, request: &R) -> Option<&Route> {
        let path = request.path();
        if self.exact > 0
            && let Some(found) = self.select_exact(path, request)
        {
            return Some(found);
        }
        let takes = |matcher: &Matcher| matcher.path.takes(path) && matcher.takes_beside_path(request);
        self.routes[self.exact..].iter().find(|route| takes(&route.matcher))
    }

    fn select_exact<R: RequestParts + ?Sized>(&self, path: &[u8], request: &R) -> Option<&Route> {
        let exact = &self.routes[..self.exact];
        let first = exact.partition_point(|route| route.exact_path() < Some(path));
        exact[first..]
            .iter()
            .take_while(|route| route.exact_path() == Some(path))
            .find(|route| route.matcher.takes_beside_path(request))
    }
}

impl Route {
    /// Every port that it leads to, devices and copies of requests included.
    pub fn targets(&self) -> impl Iterator<Item = &ServicePort> {
        let backends = self.backends.iter().map(|backend| &backend.target);
        let devices = self.offload.iter().flat_map(|offload| &offload.devices).map(|device| &device.target);
        backends.chain(devices).chain(self.mirrors().map(|mirror| &mirror.target))
    }

    /// The copies that are made of its requests, in the order of its actions.
    pub fn mirrors(&self) -> impl Iterator<Item = &Mirror> {
        self.actions.iter().filter_map(|action| match action {
            Action::Mirror(mirror) => Some(mirror),
            _ => None,
        })
    }

    fn exact_path(&self) -> Option<&[u8]> {
        match &self.matcher.path {
            PathMatch::Exact(path) => Some(path.as_bytes()),
            _ => None,
        }
    }
}

impl Matcher {
    /// Whether `request` is as this asks.
    pub fn takes<R: RequestParts + ?Sized>(&self, request: &R) -> bool {
        self.path.takes(request.path()) && self.takes_beside_path(request)
    }

    /// Whether this asks nothing.
    fn takes_all(&self) -> bool {
        matches!(&self.path, PathMatch::Prefix(prefix) if prefix.is_empty())
            && self.method.is_none()
            && self.headers.is_empty()
            && self.query.is_empty()
    }

    fn takes_beside_path<R: RequestParts + ?Sized>(&self, request: &R) -> bool {
        self.method.as_ref().is_none_or(|method| method.as_bytes() == request.method())
            && self
                .headers
                .iter()
                .all(|(name, value)| request.header(name).is_some_and(|found| value.takes(found)))
            && (self.query.is_empty() || query::takes(&self.query, request.query()))
    }
}

impl PathMatch {
    /// The match of whole segments from the front of a path; a slash at the end of `prefix` says nothing.
    pub fn prefix(prefix: &str) -> Self {
        PathMatch::Prefix(prefix.strip_suffix('/').unwrap_or(prefix).into())
    }

    /// Whether `path` (without the query) is as this asks.
    pub fn takes(&self, path: &[u8]) -> bool {
        match self {
            PathMatch::Exact(whole) => path == whole.as_bytes(),
            // The end of the segment first: it tells most paths apart without comparing them.
            PathMatch::Prefix(prefix) => {
                prefix.is_empty()
                    || matches!(path.get(prefix.len()), None | Some(b'/'))
                        && path.starts_with(prefix.as_bytes())
            }
            PathMatch::Starts(front) => path.starts_with(front.as_bytes()),
            PathMatch::Regex(regex) => regex.is_match(path),
        }
    }
}

impl ValueMatch {
    /// Whether `value` is as this asks.
    pub fn takes(&self, value: &[u8]) -> bool {
        match self {
            ValueMatch::Exact(whole) => value == whole.as_bytes(),
            ValueMatch::Regex(regex) => regex.is_match(value),
        }
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
            && self.method == other.method
            && self.headers == other.headers
            && self.query == other.query
    }
}

impl PartialEq for PathMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (PathMatch::Exact(a), PathMatch::Exact(b))
            | (PathMatch::Prefix(a), PathMatch::Prefix(b))
            | (PathMatch::Starts(a), PathMatch::Starts(b)) => a == b,
            (PathMatch::Regex(a), PathMatch::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl PartialEq for ValueMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (ValueMatch::Exact(a), ValueMatch::Exact(b)) => a == b,
            (ValueMatch::Regex(a), ValueMatch::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}
