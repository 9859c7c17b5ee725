//! HTTPRoute, GRPCRoute and TCPRoute of the Gateway API, attached to Services (GAMMA).
//!
//! `hostnames` are accepted and ignored, as GAMMA asks for routes whose parent is a Service: there the Service's own
//! address says where a request wants to go.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;
use super::filter::RequestMirror;
use super::meta::{BackendRef, ParentRef};
use super::retry::{GrpcRouteRetry, HttpRouteRetry};
use super::session::SessionPersistence;

/// How requests to a Service are routed. A Service without one sends everything to its own endpoints; a Service with
/// one answers what no rule matches with 404.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteSpec {
    /// The Services whose callers this routes.
    #[schemars(length(min = 1))]
    pub parent_refs: Vec<ParentRef>,
    /// Ignored where the parent is a Service.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// What is done with which requests.
    #[schemars(length(min = 1))]
    pub rules: Vec<HttpRouteRule>,
}

/// What is done with requests that match.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteRule {
    /// A name for metrics. Default: its number, from 0.
    #[serde(default)]
    pub name: Option<String>,
    /// A request must be as at least one of these says. Default: every request.
    #[serde(default)]
    pub matches: Vec<HttpRouteMatch>,
    /// What is done to the request and its answer.
    #[serde(default)]
    pub filters: Vec<HttpRouteFilter>,
    /// Where it goes. Without any, and without a redirect, it is answered with 500.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    /// Over the TrafficPolicy's.
    #[serde(default)]
    pub timeouts: Option<HttpRouteTimeouts>,
    /// What is tried again (GEP-1731). What it leaves out, the TrafficPolicy says.
    #[serde(default)]
    pub retry: Option<HttpRouteRetry>,
    /// Whether and how requests of one session go to one endpoint.
    #[serde(default)]
    pub session_persistence: Option<SessionPersistence>,
}

/// Limits in time.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteTimeouts {
    /// Longest time from a request's head to the end of its answer. `0s`: no limit.
    #[serde(default)]
    pub request: Option<Duration>,
    /// Longest time from a try's beginning to its answer's head, at most `request`. `0s`: no limit.
    #[serde(default)]
    pub backend_request: Option<Duration>,
}

/// What a request must look like; every part must hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteMatch {
    /// The path. Default: every path.
    #[serde(default)]
    pub path: Option<HttpPathMatch>,
    /// Headers.
    #[serde(default)]
    pub headers: Vec<ValueMatch>,
    /// Query parameters, compared after percent-decoding.
    #[serde(default)]
    pub query_params: Vec<ValueMatch>,
    /// The method.
    #[serde(default)]
    pub method: Option<Method>,
}

/// How a path is matched.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpPathMatch {
    /// Default `PathPrefix`.
    #[serde(default, rename = "type")]
    pub kind: HttpPathMatchType,
    /// The path, prefix or expression. Default `/`.
    #[serde(default)]
    pub value: Option<String>,
}

/// How a path is matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum HttpPathMatchType {
    /// The whole path.
    Exact,
    /// Whole segments from the front.
    #[default]
    PathPrefix,
    /// A regular expression over the whole path.
    RegularExpression,
}

/// A header or query parameter, and what its first value must be.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueMatch {
    /// Default `Exact`.
    #[serde(default, rename = "type")]
    pub kind: ValueMatchType,
    /// Its name.
    pub name: String,
    /// The value or expression.
    pub value: String,
}

/// How a value is matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ValueMatchType {
    /// The whole value.
    #[default]
    Exact,
    /// A regular expression over the whole value.
    RegularExpression,
}

/// A method of HTTP.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "a method's name says all there is")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

impl Method {
    /// In capitals, as requests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Connect => "CONNECT",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Patch => "PATCH",
        }
    }
}

/// Something done to a request or its answer: the field that `type` names.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteFilter {
    /// Which of the fields below is meant.
    #[serde(rename = "type")]
    pub kind: HttpRouteFilterType,
    /// Changes the request's headers.
    #[serde(default)]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes the answer's headers.
    #[serde(default)]
    pub response_header_modifier: Option<HeaderModifier>,
    /// Sends the caller elsewhere.
    #[serde(default)]
    pub request_redirect: Option<RequestRedirect>,
    /// Changes host and path.
    #[serde(default)]
    pub url_rewrite: Option<UrlRewrite>,
    /// Sends a copy elsewhere.
    #[serde(default)]
    pub request_mirror: Option<RequestMirror>,
}

/// What a filter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum HttpRouteFilterType {
    /// Changes the request's headers.
    RequestHeaderModifier,
    /// Changes the answer's headers.
    ResponseHeaderModifier,
    /// Sends the caller elsewhere.
    RequestRedirect,
    /// Changes host and path.
    URLRewrite,
    /// Sends a copy elsewhere. A rule may have several.
    RequestMirror,
}

/// Changes of headers: first `remove`, then `set`, then `add`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderModifier {
    /// Replaced, or added where absent.
    #[serde(default)]
    pub set: Vec<Header>,
    /// Added beside what is there.
    #[serde(default)]
    pub add: Vec<Header>,
    /// Taken away.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// A header with its value.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// An answer that sends the caller elsewhere. What is left out stays as it was asked for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestRedirect {
    /// `http` or `https`.
    #[serde(default)]
    pub scheme: Option<Scheme>,
    /// The host.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The path.
    #[serde(default)]
    pub path: Option<PathModifier>,
    /// The port. Default: that of `scheme` if there is one.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308. Default 302.
    #[serde(default)]
    pub status_code: Option<u16>,
}

/// A scheme.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

/// A change of host and path before a request goes on.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewrite {
    /// The new Host.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The new path.
    #[serde(default)]
    pub path: Option<PathModifier>,
}

/// A change of a path: the field that `type` names.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathModifier {
    /// Which of the fields below is meant.
    #[serde(rename = "type")]
    pub kind: PathModifierType,
    /// The whole new path.
    #[serde(default)]
    pub replace_full_path: Option<String>,
    /// What the matched prefix becomes.
    #[serde(default)]
    pub replace_prefix_match: Option<String>,
}

/// How a path is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum PathModifierType {
    /// The whole path is replaced.
    ReplaceFullPath,
    /// The matched prefix is replaced; the rule's matches must all be of type `PathPrefix`.
    ReplacePrefixMatch,
}

/// How gRPC calls to a Service are routed. A Service without one sends everything to its own endpoints.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteSpec {
    /// The Services whose callers this routes.
    #[schemars(length(min = 1))]
    pub parent_refs: Vec<ParentRef>,
    /// Ignored where the parent is a Service.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// What is done with which calls.
    #[schemars(length(min = 1))]
    pub rules: Vec<GrpcRouteRule>,
}

/// What is done with calls that match.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteRule {
    /// A name for metrics. Default: its number, from 0.
    #[serde(default)]
    pub name: Option<String>,
    /// A call must be as at least one of these says. Default: every call.
    #[serde(default)]
    pub matches: Vec<GrpcRouteMatch>,
    /// What is done to the call and its answer.
    #[serde(default)]
    pub filters: Vec<GrpcRouteFilter>,
    /// Where it goes. Without any, it fails.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    /// What is tried again (GEP-1731). What it leaves out, the TrafficPolicy says.
    #[serde(default)]
    pub retry: Option<GrpcRouteRetry>,
    /// Whether and how calls of one session go to one endpoint.
    #[serde(default)]
    pub session_persistence: Option<SessionPersistence>,
}

/// What a call must look like; every part must hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteMatch {
    /// Service and method. Default: all.
    #[serde(default)]
    pub method: Option<GrpcMethodMatch>,
    /// Metadata.
    #[serde(default)]
    pub headers: Vec<ValueMatch>,
}

/// Which methods are meant; at least one of `service` and `method` is needed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMethodMatch {
    /// Default `Exact`.
    #[serde(default, rename = "type")]
    pub kind: ValueMatchType,
    /// The full name of the service, such as `shop.v1.Catalog`. Default: every service.
    #[serde(default)]
    pub service: Option<String>,
    /// The method. Default: every method.
    #[serde(default)]
    pub method: Option<String>,
}

/// Something done to a call or its answer: the field that `type` names.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteFilter {
    /// Which of the fields below is meant.
    #[serde(rename = "type")]
    pub kind: GrpcRouteFilterType,
    /// Changes the call's metadata.
    #[serde(default)]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes the answer's metadata.
    #[serde(default)]
    pub response_header_modifier: Option<HeaderModifier>,
    /// Sends a copy elsewhere.
    #[serde(default)]
    pub request_mirror: Option<RequestMirror>,
}

/// What a filter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum GrpcRouteFilterType {
    /// Changes the call's metadata.
    RequestHeaderModifier,
    /// Changes the answer's metadata.
    ResponseHeaderModifier,
    /// Sends a copy elsewhere. A rule may have several.
    RequestMirror,
}

/// Where opaque connections to a Service go.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpRouteSpec {
    /// The Services whose callers this routes.
    #[schemars(length(min = 1))]
    pub parent_refs: Vec<ParentRef>,
    /// Exactly one rule.
    #[schemars(length(min = 1, max = 1))]
    pub rules: Vec<TcpRouteRule>,
}

/// Where opaque connections go.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpRouteRule {
    /// A name for metrics. Default: its number, 0.
    #[serde(default)]
    pub name: Option<String>,
    /// By weight.
    #[schemars(length(min = 1))]
    pub backend_refs: Vec<BackendRef>,
}
