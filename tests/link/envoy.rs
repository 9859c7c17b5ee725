//! Envoy on the other side: its mTLS asks for a SPIFFE ID, and HTTP/2 is agreed on within it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use http::Request;
use libtest_mimic::Trial;

use crate::support::process::{Program, free_address, listens};
use crate::support::raw::{Peer, Upstream};
use crate::support::sidecar::Sidecar;
use crate::support::{envoy, http2, metrics, test_where, wait_until};
use crate::world::{RATINGS, REVIEWS, Root, STRICT, WEB, caller, reviews, workload};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("envoy_is_an_endpoint_like_others", envoy_is_an_endpoint),
        test_where("envoy_is_a_caller_like_others", envoy_is_a_caller),
        test_where("an_envoy_that_is_somebody_else_gets_no_request", an_envoy_that_is_somebody_else),
        test_where("an_envoy_gets_no_request_of_somebody_else", an_envoy_gets_no_request_of_somebody_else),
        test_where("envoy_does_not_call_somebody_else", envoy_does_not_call_somebody_else),
        test_where("a_policy_knows_which_envoy_calls", a_policy_knows_which_envoy_calls),
        test_where("an_envoy_of_a_foreign_root_is_refused", an_envoy_of_a_foreign_root),
    ]
}

const GET: &str = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";

fn envoy_is_an_endpoint() -> Result<(), String> {
    let (root, app) = (Root::new(), echo());
    let endpoint = Envoy::before(&root, app.address, WEB)?;
    let (web, listen) = caller(&reviews("http2", endpoint.listen, REVIEWS), &root.identity(WEB));
    calls_get_through(listen);
    assert_eq!(endpoint.stat("listener.mtls.ssl.handshake"), 1.0);
    assert_eq!(endpoint.stat("listener.mtls.ssl.versions.TLSv1.3"), 1.0);
    assert_eq!(endpoint.stat("http.mtls.downstream_cx_http2_total"), 1.0);
    assert_eq!(endpoint.stat("http.mtls.downstream_rq_2xx"), CALLS);
    let opened = web.metrics().sum("lighter_pool_connections_opened_total", &[("protocol", "http2")]);
    assert_eq!(opened, 1.0);
    let labels = [("direction", "outbound"), ("code_class", "2xx"), ("cause", "")];
    wait_until("every call is counted", || web.metrics().sum("lighter_requests_total", &labels) == CALLS);
    Ok(())
}

fn envoy_is_a_caller() -> Result<(), String> {
    let (root, app) = (Root::new(), echo());
    let (workload, endpoint) = workload(&root, "http2", app.address, STRICT);
    let web = Envoy::towards(endpoint, &root, root.issue(WEB), REVIEWS)?;
    calls_get_through(web.listen);
    assert_eq!(web.stat("cluster.mtls.ssl.handshake"), 1.0);
    assert_eq!(web.stat("cluster.mtls.ssl.versions.TLSv1.3"), 1.0);
    assert_eq!(web.stat("cluster.mtls.upstream_cx_http2_total"), 1.0);
    assert_eq!(web.stat("cluster.mtls.upstream_rq_2xx"), CALLS);
    let labels = [("security", "mtls"), ("caller", WEB), ("outcome", "served")];
    assert_eq!(workload.metrics().sum("lighter_inbound_connections_total", &labels), 1.0);
    let labels = [("direction", "inbound"), ("code_class", "2xx"), ("cause", "")];
    wait_until("every call is counted", || {
        workload.metrics().sum("lighter_requests_total", &labels) == CALLS
    });
    Ok(())
}

fn an_envoy_that_is_somebody_else() -> Result<(), String> {
    let (root, app) = (Root::new(), Upstream::answering("never"));
    let endpoint = Envoy::before(&root, app.address, WEB)?;
    let (web, listen) = caller(&reviews("http2", endpoint.listen, RATINGS), &root.identity(WEB));
    let (head, _) = Peer::connect(listen).exchange(GET);
    assert_eq!((head.status(), head.cause()), (502, Some("tls_identity")));
    // Once for each try: nothing was sent, so another try is safe.
    assert!(refusals(&web, "wrong_identity") >= 1.0);
    wait_until("Envoy counts it", || endpoint.stat("listener.mtls.ssl.connection_error") >= 1.0);
    assert_eq!((endpoint.stat("http.mtls.downstream_rq_total"), app.connections()), (0.0, 0));
    Ok(())
}

fn an_envoy_gets_no_request_of_somebody_else() -> Result<(), String> {
    let (root, app) = (Root::new(), Upstream::answering("never"));
    let endpoint = Envoy::before(&root, app.address, WEB)?;
    let (ratings, listen) = caller(&reviews("http2", endpoint.listen, REVIEWS), &root.identity(RATINGS));
    let (head, _) = Peer::connect(listen).exchange(GET);
    assert_eq!(head.status(), 502);
    assert!(head.cause().is_some());
    let labels = [("direction", "outbound"), ("code_class", "5xx")];
    wait_until("it is counted", || ratings.metrics().sum("lighter_requests_total", &labels) == 1.0);
    assert!(endpoint.stat("listener.mtls.ssl.fail_verify_san") >= 1.0);
    assert_eq!((endpoint.stat("http.mtls.downstream_rq_total"), app.connections()), (0.0, 0));
    Ok(())
}

fn envoy_does_not_call_somebody_else() -> Result<(), String> {
    let (root, app) = (Root::new(), Upstream::answering("never"));
    let (workload, endpoint) = workload(&root, "http", app.address, STRICT);
    let web = Envoy::towards(endpoint, &root, root.issue(WEB), RATINGS)?;
    assert_eq!(Peer::connect(web.listen).exchange(GET).0.status(), 503);
    assert!(web.stat("cluster.mtls.ssl.fail_verify_san") >= 1.0);
    let labels = [("outcome", "handshake_failed")];
    wait_until("Lighter counts it", || {
        workload.metrics().sum("lighter_inbound_connections_total", &labels) >= 1.0
    });
    assert!(!workload.metrics().has("lighter_inbound_connections_total", &[("outcome", "served")]));
    assert_eq!(app.connections(), 0);
    Ok(())
}

fn a_policy_knows_which_envoy_calls() -> Result<(), String> {
    let policy = format!(
        "---\napiVersion: mesh.lighter.dev/v1\nkind: AuthorizationPolicy\nmetadata: {{name: web-only}}\nspec: \
         {{targetRefs: [{{kind: Service, name: reviews}}], rules: [{{from: [{{principals: ['{WEB}']}}]}}]}}\n"
    );
    let (root, app) = (Root::new(), Upstream::answering("for web"));
    let (workload, endpoint) = workload(&root, "http", app.address, &(STRICT.to_owned() + &policy));
    for (identity, status, cause) in [(WEB, 200, None), (RATINGS, 403, Some("denied"))] {
        let caller = Envoy::towards(endpoint, &root, root.issue(identity), REVIEWS)?;
        let (head, _) = Peer::connect(caller.listen).exchange(GET);
        assert_eq!((head.status(), head.cause()), (status, cause), "{identity}");
        let class = format!("cluster.mtls.upstream_rq_{}xx", status / 100);
        assert_eq!(caller.stat(&class), 1.0);
        let labels = [("security", "mtls"), ("caller", identity), ("outcome", "served")];
        assert_eq!(workload.metrics().sum("lighter_inbound_connections_total", &labels), 1.0);
    }
    assert_eq!(app.connections(), 1);
    assert_eq!(app.received().matches(&format!("x-forwarded-client-cert: URI={WEB}\r\n")).count(), 1);
    Ok(())
}

fn an_envoy_of_a_foreign_root() -> Result<(), String> {
    let (root, foreign, app) = (Root::new(), Root::new(), Upstream::answering("never"));
    let (workload, endpoint) = workload(&root, "http", app.address, STRICT);
    let web = Envoy::towards(endpoint, &root, foreign.issue(WEB), REVIEWS)?;
    assert_eq!(Peer::connect(web.listen).exchange(GET).0.status(), 503);
    assert!(web.stat("cluster.mtls.ssl.connection_error") >= 1.0);
    assert!(refusals(&workload, "foreign") >= 1.0);
    let labels = [("outcome", "handshake_failed")];
    wait_until("Lighter counts it", || {
        workload.metrics().sum("lighter_inbound_connections_total", &labels) >= 1.0
    });
    assert_eq!(app.connections(), 0);
    Ok(())
}

/// As many as [`calls_get_through`] makes.
const CALLS: f64 = 20.0;

/// Gives back what it is sent, and says who calls as it was told.
fn echo() -> http2::Upstream {
    http2::Upstream::start(|request, mut respond| async move {
        let (head, body) = request.into_parts();
        let sent = http2::read(http::Response::new(()).into_parts().0, body).await;
        let caller = head.headers.get("x-forwarded-client-cert").cloned().unwrap();
        let head = http::Response::builder().header("x-caller", caller).body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(sent.body.into(), false).unwrap();
        let status = [("grpc-status".try_into().unwrap(), http::HeaderValue::from_static("0"))];
        let _ = stream.send_trailers(http::HeaderMap::from_iter(status));
    })
}

/// Bodies both ways, trailers, and who called.
fn calls_get_through(listen: SocketAddr) {
    http2::run(async {
        let client = http2::connect(listen).await;
        for turn in 0..CALLS as u8 {
            let request = Request::post("http://reviews/").body(vec![turn; 100_000]).unwrap();
            let answer = http2::exchange(&client, request).await.unwrap();
            assert_eq!(answer.head.status, 200);
            let caller = answer.head.headers["x-caller"].to_str().unwrap();
            assert!(caller.ends_with(&format!("URI={WEB}")), "{caller}");
            assert!(answer.cut.is_none() && answer.body == vec![turn; 100_000]);
            assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "0");
        }
    });
}

/// How often the sidecar did not take a peer's certificate for this reason.
fn refusals(sidecar: &Sidecar, reason: &str) -> f64 {
    sidecar.metrics().sum("lighter_identity_refusals_total", &[("reason", reason)])
}

/// An Envoy that runs, and where it listens. What it counts of its side with mTLS is called `mtls`.
struct Envoy {
    program: Program,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Envoy {
    /// In the place of the sidecar of `reviews`: lets in who proves to be `caller`.
    fn before(root: &Root, app: SocketAddr, caller: &str) -> Result<Self, String> {
        let tls = tls("Downstream", root, root.issue(REVIEWS), caller, "require_client_certificate: true, ");
        Self::start(root, ("mtls", &tls), ("app", app, ""))
    }

    /// In the place of a caller's sidecar, which shows these files: calls `endpoint` if that proves to be `peer`.
    fn towards(
        endpoint: SocketAddr,
        root: &Root,
        own: (PathBuf, PathBuf),
        peer: &str,
    ) -> Result<Self, String> {
        let tls = tls("Upstream", root, own, peer, "");
        Self::start(root, ("plain", ""), ("mtls", endpoint, &tls))
    }

    /// With a listener of this name and a cluster of that name, each with what is said of TLS there.
    fn start(
        root: &Root,
        (listener, accepts): (&str, &str),
        (cluster, upstream, calls): (&str, SocketAddr, &str),
    ) -> Result<Self, String> {
        let binary = envoy::find()?;
        let (listen, admin) = (free_address(), free_address());
        let config = format!(
            "admin: {{address: {admin_address}}}
static_resources:
  listeners:
  - name: {listener}
    stat_prefix: {listener}
    address: {listen_address}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {listener}
          codec_type: AUTO
          forward_client_cert_details: SANITIZE_SET
          set_current_client_cert_details: {{uri: true}}
          route_config:
            virtual_hosts:
            - {{name: all, domains: ['*'], routes: [{{match: {{prefix: '/'}}, route: {{cluster: {cluster}}}}}]}}
          http_filters:
          - name: router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
{accepts}  clusters:
  - name: {cluster}
    type: STATIC
    load_assignment:
      cluster_name: {cluster}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {upstream_address}}}}}]}}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
{calls}",
            admin_address = address(admin),
            listen_address = address(listen),
            upstream_address = address(upstream),
        );
        let file = root.folder().join(format!("envoy-{}.yaml", listen.port()));
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(binary);
        command
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c"])
            .arg(file);
        let mut program = Program::start(command, root.folder());
        program.wait_until("it is ready", || {
            listens(listen) && listens(admin) && metrics::get(admin, "/ready").0 == 200
        });
        Ok(Envoy { program, listen, admin })
    }

    /// What it counts under this name; zero where it has none.
    fn stat(&self, name: &str) -> f64 {
        let (_, text) = metrics::get(self.admin, "/stats");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map_or(0.0, |value| value.parse().unwrap_or_else(|_| panic!("{name}: {}", self.program.said())))
    }
}

/// A transport socket in which Envoy shows `own` and asks for `peer`.
fn tls(side: &str, root: &Root, own: (PathBuf, PathBuf), peer: &str, more: &str) -> String {
    let margin = if side == "Downstream" { "      " } else { "    " };
    format!(
        "{margin}transport_socket:\n{margin}  name: tls\n{margin}  typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext, {more}common_tls_context: \
         {{alpn_protocols: [h2], tls_params: {{tls_maximum_protocol_version: TLSv1_3}}, tls_certificates: \
         [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}], validation_context: {{trusted_ca: \
         {{filename: {}}}, match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: '{peer}'}}}}]}}}}}}\n",
        own.0.display(),
        own.1.display(),
        root.bundle().display()
    )
}

fn address(address: SocketAddr) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
}
