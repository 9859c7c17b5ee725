//! What each proxy is told. All are told the same.

use std::path::{Path, PathBuf};

use super::Ports;

/// Where a proxy listens and where it leads, and on which of its two sides there is mTLS.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub ports: Ports,
    pub upstream: Ports,
    /// As whom it is called within TLS.
    pub called: Option<&'a Proof>,
    /// As whom it calls within TLS.
    pub calls: Option<&'a Proof>,
}

impl Place<'_> {
    /// Plain text on both sides.
    pub fn plain(ports: Ports, upstream: Ports) -> Self {
        Place { ports, upstream, called: None, calls: None }
    }
}

/// Who one end of a pair is, in files, and who the other end has to be.
pub struct Proof {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Both in one file, as HAProxy has it.
    pub both: PathBuf,
    pub bundle: PathBuf,
    /// The SPIFFE ID of the other end.
    pub peer: &'static str,
    /// The name of the other end, for those who know names only.
    pub peer_name: &'static str,
}

/// The Service that Lighter routes to. `secure`: what is said of how its endpoint is called.
pub fn resources(upstream: Ports, secure: &str) -> String {
    let Ports { http, grpc, tcp, .. } = upstream;
    format!(
        "\
apiVersion: mesh.lighter.dev/v1
kind: Service
metadata: {{name: bench}}
spec:
  ports:
  - {{name: http, port: 80, targetPort: {http}, appProtocol: http}}
  - {{name: grpc, port: 81, targetPort: {grpc}, appProtocol: grpc}}
  - {{name: tcp, port: 82, targetPort: {tcp}, appProtocol: tcp}}
  endpoints:
  - {{address: 127.0.0.1{secure}}}
"
    )
}

/// The caller's sidecar.
pub fn outbound(ports: Ports, [admin]: [u16; 1]) -> String {
    let Ports { http, grpc, tcp, .. } = ports;
    format!(
        "\
workers: 1
admin: 127.0.0.1:{admin}
listeners:
- {{listen: '127.0.0.1:{http}', service: bench, port: 80, protocol: http}}
- {{listen: '127.0.0.1:{grpc}', service: bench, port: 81, protocol: http2}}
- {{listen: '127.0.0.1:{tcp}', service: bench, port: 82, protocol: tcp}}
"
    )
}

/// The service's sidecar.
pub fn inbound(ports: Ports, upstream: Ports, [admin]: [u16; 1]) -> String {
    format!(
        "\
service: bench
workers: 1
admin: 127.0.0.1:{admin}
inbound:
- {{listen: '127.0.0.1:{}', app: '127.0.0.1:{}', port: 80, protocol: http}}
- {{listen: '127.0.0.1:{}', app: '127.0.0.1:{}', port: 81, protocol: http2}}
- {{listen: '127.0.0.1:{}', app: '127.0.0.1:{}', port: 82, protocol: tcp}}
",
        ports.http, upstream.http, ports.grpc, upstream.grpc, ports.tcp, upstream.tcp
    )
}

/// Says whether links use shared memory.
pub fn link_policy(wires: &str) -> String {
    format!(
        "\
---
apiVersion: mesh.lighter.dev/v1
kind: LinkPolicy
metadata: {{name: wires}}
spec: {{wires: {{{wires}}}}}
"
    )
}

/// Lets no caller in who does not prove who it is.
pub const STRICT: &str = "\
---
apiVersion: mesh.lighter.dev/v1
kind: MeshPolicy
metadata: {name: mesh}
spec: {mtls: strict}
";

/// What a sidecar's file says of who it is.
pub fn identity(proof: &Proof) -> String {
    format!(
        "identity: {{certificate: {}, key: {}, bundle: {}}}\n",
        proof.certificate.display(),
        proof.key.display(),
        proof.bundle.display()
    )
}

pub fn haproxy(place: Place<'_>) -> String {
    let Place { ports, upstream, called, calls } = place;
    let bind = called.map_or_else(String::new, |proof| {
        let (both, bundle) = (proof.both.display(), proof.bundle.display());
        format!(" ssl crt {both} ca-file {bundle} verify required ssl-min-ver TLSv1.3")
    });
    let server = calls.map_or_else(String::new, |proof| {
        let (both, bundle, name) = (proof.both.display(), proof.bundle.display(), proof.peer_name);
        format!(" ssl crt {both} ca-file {bundle} verify required verifyhost {name} ssl-min-ver TLSv1.3")
    });
    // What is spoken within TLS is agreed on there.
    let h2 = |tls: &str| if tls.is_empty() { "proto h2" } else { "alpn h2" };
    format!(
        "\
global
    nbthread 1
    maxconn 9000
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 1h
    http-reuse always
frontend http
    bind 127.0.0.1:{}{bind}
    default_backend http
backend http
    server one 127.0.0.1:{}{server} pool-max-conn 1024
frontend grpc
    bind 127.0.0.1:{}{bind} {}
    default_backend grpc
backend grpc
    server one 127.0.0.1:{}{server} {} pool-max-conn 1024
frontend tcp
    mode tcp
    bind 127.0.0.1:{}{bind}
    default_backend tcp
backend tcp
    mode tcp
    server one 127.0.0.1:{}{server}
",
        ports.http,
        upstream.http,
        ports.grpc,
        h2(&bind),
        upstream.grpc,
        h2(&server),
        ports.tcp,
        upstream.tcp
    )
}

/// One process without a master, so that one pid has all the work.
pub fn nginx(place: Place<'_>, folder: &Path, stream: &Path) -> String {
    let Place { ports, upstream, called, calls } = place;
    let accept = called.map_or_else(String::new, |proof| {
        format!(
            "ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {}; ssl_verify_client on; \
             ssl_protocols TLSv1.3;",
            proof.certificate.display(),
            proof.key.display(),
            proof.bundle.display()
        )
    });
    let call = |module: &str| {
        calls.map_or_else(String::new, |proof| {
            format!(
                "{module}_ssl_certificate {}; {module}_ssl_certificate_key {}; {module}_ssl_trusted_certificate {}; \
                 {module}_ssl_verify on; {module}_ssl_name {}; {module}_ssl_protocols TLSv1.3;",
                proof.certificate.display(),
                proof.key.display(),
                proof.bundle.display(),
                proof.peer_name
            )
        })
    };
    let ssl = if called.is_some() { " ssl" } else { "" };
    let (http, grpc, tcp) =
        if calls.is_some() { ("https", "grpcs", "proxy_ssl on;") } else { ("http", "grpc", "") };
    format!(
        "\
load_module {};
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 16000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    # A 64 KiB answer fits into the buffers: nginx shall not be measured writing files.
    proxy_buffers 8 32k;
    proxy_max_temp_file_size 0;
    {accept}
    upstream http {{ server 127.0.0.1:{}; keepalive 128; keepalive_requests 1000000000; keepalive_timeout 1h; }}
    upstream grpc {{ server 127.0.0.1:{}; keepalive 128; keepalive_requests 1000000000; keepalive_timeout 1h; }}
    server {{
        listen 127.0.0.1:{}{ssl} backlog=4096;
        location / {{
            proxy_pass {http}://http;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
            {}
        }}
    }}
    server {{
        listen 127.0.0.1:{}{ssl} http2;
        http2_max_concurrent_streams 1024;
        location / {{
            grpc_pass {grpc}://grpc;
            {}
        }}
    }}
}}
stream {{
    {accept}
    server {{
        listen 127.0.0.1:{}{ssl};
        proxy_pass 127.0.0.1:{};
        {tcp} {}
    }}
}}
",
        stream.display(),
        upstream.http,
        upstream.grpc,
        ports.http,
        call("proxy"),
        ports.grpc,
        call("grpc"),
        ports.tcp,
        upstream.tcp,
        call("proxy"),
        folder = folder.display()
    )
}

pub fn envoy(place: Place<'_>) -> String {
    let Place { ports, upstream, called, calls } = place;
    let listener = |name: &str, port: u16, filter: &str| {
        let tls = envoy_tls("      ", "DownstreamTlsContext", called, name);
        format!(
            "  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: {name}
        typed_config:
{filter}{tls}"
        )
    };
    let http = |name: &str, codec: &str| {
        format!(
            "          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          codec_type: {codec}
          route_config:
            virtual_hosts:
            - {{name: all, domains: ['*'], routes: [{{match: {{prefix: '/'}}, route: {{cluster: {name}, timeout: 0s}}}}]}}
          http_filters:
          - name: router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"
        )
    };
    let opaque =
        "          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: tcp
";
    let cluster = |name: &str, port: u16, more: &str| {
        let tls = envoy_tls("    ", "UpstreamTlsContext", calls, name);
        format!(
            "  - name: {name}
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{thresholds: [{{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}}]}}
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}
{more}{tls}"
        )
    };
    let http2 = "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
";
    format!(
        "\
static_resources:
  listeners:
{}{}{}  clusters:
{}{}{}",
        listener("http", ports.http, &http("http", "HTTP1")),
        listener("grpc", ports.grpc, &http("grpc", "HTTP2")),
        listener("tcp", ports.tcp, opaque),
        cluster("http", upstream.http, ""),
        cluster("grpc", upstream.grpc, http2),
        cluster("tcp", upstream.tcp, "")
    )
}

/// The transport socket of a listener or cluster, with so much before each line; nothing without a proof.
fn envoy_tls(margin: &str, context: &str, proof: Option<&Proof>, port: &str) -> String {
    let Some(proof) = proof else { return String::new() };
    let alpn = match port {
        "http" => "[http/1.1]",
        "grpc" => "[h2]",
        _ => "[]",
    };
    let required = if context.starts_with("Down") { "require_client_certificate: true, " } else { "" };
    format!(
        "{margin}transport_socket:
{margin}  name: tls
{margin}  typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{context}, {required}\
         common_tls_context: {{alpn_protocols: {alpn}, tls_params: {{tls_minimum_protocol_version: TLSv1_3, \
         tls_maximum_protocol_version: TLSv1_3}}, tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: \
         {{filename: {}}}}}], validation_context: {{trusted_ca: {{filename: {}}}, match_typed_subject_alt_names: \
         [{{san_type: URI, matcher: {{exact: '{}'}}}}]}}}}}}
",
        proof.certificate.display(),
        proof.key.display(),
        proof.bundle.display(),
        proof.peer
    )
}
