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
