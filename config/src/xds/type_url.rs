//! The type URLs of the resources that ADS carries, and of what lies in them.

/// `xds:///` targets and what callers dial, by name.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Where requests go.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// One port of one Service as a backend.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Its endpoints.
pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// What the gRPC profile cannot say of a Service.
pub const SERVICE: &str = "type.googleapis.com/lighter.config.v1.Service";
/// What an address or a name means.
pub const ADDRESS: &str = "type.googleapis.com/lighter.config.v1.Address";
/// What a workload's own sidecar enforces.
pub const WORKLOAD: &str = "type.googleapis.com/lighter.config.v1.Workload";

/// In a Listener's `api_listener`.
pub const HTTP_CONNECTION_MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// The last HTTP filter.
pub const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
/// Around a filter's configuration of one route.
pub const FILTER_CONFIG: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";

/// Policies of balancing that Clusters name.
pub const ROUND_ROBIN: &str =
    "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin";
/// Of two, the one with fewer requests.
pub const LEAST_REQUEST: &str =
    "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest";
/// At random.
pub const RANDOM: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random";
/// The next on a ring.
pub const RING_HASH: &str =
    "type.googleapis.com/envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash";
/// By a table.
pub const MAGLEV: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies.maglev.v3.Maglev";
/// By the weights of localities.
pub const WRR_LOCALITY: &str =
    "type.googleapis.com/envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality";
/// By weights that endpoints report.
pub const CLIENT_SIDE_WRR: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies.\
     client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin";
/// A limit of rate, for one route.
pub const LOCAL_RATE_LIMIT: &str =
    "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
/// Faults, for one route.
pub const HTTP_FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
/// Sessions, for one route.
pub const STATEFUL_SESSION: &str =
    "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute";
/// Sessions by a cookie.
pub const COOKIE_SESSION: &str =
    "type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState";
/// Sessions by a header.
pub const HEADER_SESSION: &str =
    "type.googleapis.com/envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState";
/// What Lighter has of sessions beyond these, for one route.
pub const SESSION: &str = "type.googleapis.com/lighter.config.v1.SessionPersistence";
/// Lighter's own limits, for one route.
pub const GUARDS: &str = "type.googleapis.com/lighter.config.v1.Guards";
