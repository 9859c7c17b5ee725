//! HTTP routes in the order in which they are tried (Gateway API precedence).

use std::sync::Arc;
use std::time::Duration;

use super::Backend;

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
}

/// A port's routes in order of precedence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTable {
    /// In the order in which they are tried. `Route::index` is the place here.
    pub routes: Vec<Route>,
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
    /// A regular expression over the whole path.
    Regex(regex::bytes::Regex),
}

/// How a value is matched.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// The whole value.
    Exact(Arc<str>),
    /// A regular expression over the whole value.
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
    /// The matched prefix (second field, as in [`PathMatch::Prefix`]) by the first.
    ReplacePrefix(Arc<str>, Arc<str>),
}

impl Default for PathMatch {
    fn default() -> Self {
        PathMatch::Prefix("".into())
    }
}

impl RouteTable {
    /// One route named `default` that takes everything to `target`.
    pub fn single(target: &crate::name::ServicePort) -> Self {
        let own = Backend { target: target.clone(), weight: 1, exists: true };
        RouteTable {
            routes: vec![Route {
                index: 0,
                name: "default".into(),
                matcher: Matcher::default(),
                actions: Vec::new(),
                backends: vec![own],
                request_timeout: None,
            }],
        }
    }

    /// The first route that takes `request`.
    pub fn select<R: RequestParts + ?Sized>(&self, request: &R) -> Option<&Route> {
        let _ = request;
        unimplemented!()
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
            (PathMatch::Exact(a), PathMatch::Exact(b)) | (PathMatch::Prefix(a), PathMatch::Prefix(b)) => {
                a == b
            }
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
