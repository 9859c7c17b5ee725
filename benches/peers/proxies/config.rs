//! What each proxy is told. All are told the same.

use std::path::Path;

use super::Ports;

/// The Service that Lighter routes to.
pub fn resources(upstream: Ports) -> String {
    let Ports { http, grpc, tcp } = upstream;
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
  - {{address: 127.0.0.1}}
"
    )
}

/// The caller's sidecar.
pub fn outbound(ports: Ports, [admin]: [u16; 1]) -> String {
    let Ports { http, grpc, tcp } = ports;
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

pub fn haproxy(ports: Ports, upstream: Ports) -> String {
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
    bind 127.0.0.1:{}
    default_backend http
backend http
    server one 127.0.0.1:{} pool-max-conn 1024
frontend grpc
    bind 127.0.0.1:{} proto h2
    default_backend grpc
backend grpc
    server one 127.0.0.1:{} proto h2 pool-max-conn 1024
frontend tcp
    mode tcp
    bind 127.0.0.1:{}
    default_backend tcp
backend tcp
    mode tcp
    server one 127.0.0.1:{}
",
        ports.http, upstream.http, ports.grpc, upstream.grpc, ports.tcp, upstream.tcp
    )
}

/// One process without a master, so that one pid has all the work.
pub fn nginx(ports: Ports, upstream: Ports, folder: &Path, stream: &Path) -> String {
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
    upstream http {{ server 127.0.0.1:{}; keepalive 128; keepalive_requests 1000000000; keepalive_timeout 1h; }}
    upstream grpc {{ server 127.0.0.1:{}; keepalive 128; keepalive_requests 1000000000; keepalive_timeout 1h; }}
    server {{
        listen 127.0.0.1:{} backlog=4096;
        location / {{
            proxy_pass http://http;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
        }}
    }}
    server {{
        listen 127.0.0.1:{} http2;
        http2_max_concurrent_streams 1024;
        location / {{ grpc_pass grpc://grpc; }}
    }}
}}
stream {{
    server {{
        listen 127.0.0.1:{};
        proxy_pass 127.0.0.1:{};
    }}
}}
",
        stream.display(),
        upstream.http,
        upstream.grpc,
        ports.http,
        ports.grpc,
        ports.tcp,
        upstream.tcp,
        folder = folder.display()
    )
}

pub fn envoy(ports: Ports, upstream: Ports) -> String {
    let http_listener = |name: &str, port: u16, codec: &str| {
        format!(
            "  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
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
    let cluster = |name: &str, port: u16, more: &str| {
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
{more}"
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
{}{}  - name: tcp
    address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: tcp
  clusters:
{}{}{}",
        http_listener("http", ports.http, "HTTP1"),
        http_listener("grpc", ports.grpc, "HTTP2"),
        ports.tcp,
        cluster("http", upstream.http, ""),
        cluster("grpc", upstream.grpc, http2),
        cluster("tcp", upstream.tcp, "")
    )
}
