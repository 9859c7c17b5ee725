//! Envoy before the service, with what it does by itself, or with its own filter for this as its documentation shows it.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use crate::support::envoy;
use crate::support::process::{Program, free_address, listens};

pub struct Envoy {
    pub address: SocketAddr,
    _program: Program,
    _folder: TempDir,
}

impl Envoy {
    /// Starts one; the reason where it is not installed. `adapts`: with adaptive concurrency.
    pub fn before(app: SocketAddr, adapts: bool) -> Result<Self, String> {
        let binary = envoy::find()?;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("envoy.yaml");
        let address = free_address();
        let config = CONFIG
            .replace("LISTEN", &address.port().to_string())
            .replace("APP", &app.port().to_string())
            .replace("          FILTER\n", if adapts { FILTER } else { "" });
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(binary);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]).arg(file);
        let mut program = Program::start(command, folder.path());
        program.wait_until("it listens", || listens(address));
        Ok(Envoy { address, _program: program, _folder: folder })
    }
}

const CONFIG: &str = "static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: LISTEN}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - {name: all, domains: ['*'], routes: [{match: {prefix: '/'}, route: {cluster: app}}]}
          http_filters:
          FILTER
          - name: router
            typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: app
    type: STATIC
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: APP}}}
";

/// As in the documentation of Envoy's adaptive concurrency filter.
const FILTER: &str = "          - name: adaptive_concurrency
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency
              gradient_controller_config:
                sample_aggregate_percentile: {value: 90}
                concurrency_limit_params: {concurrency_update_interval: 0.1s}
                min_rtt_calc_params: {jitter: {value: 10}, interval: 60s, request_count: 50}
              enabled: {default_value: true, runtime_key: adaptive_concurrency.enabled}
";
