//! A sidecar with explicit listeners: nothing is needed but the `lighter` binary.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::metrics::{self, Metrics};
use super::process::{Program, free_address};

/// The binary under test.
pub const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

/// A `lighter proxy` that runs.
pub struct Sidecar {
    pub program: Program,
    pub admin: SocketAddr,
    folder: TempDir,
}

impl Sidecar {
    /// Starts one with these resources; `own` is its own file but for `resources` and `admin`.
    pub fn start(resources: &str, own: &str) -> Self {
        Self::start_in(&[], resources, own)
    }

    /// The same, started by another command that ends with what it is to start.
    pub fn start_in(wrap: &[&str], resources: &str, own: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let admin = free_address();
        let file = folder.path().join("resources.yaml");
        std::fs::write(&file, resources).unwrap();
        let config = folder.path().join("sidecar.yaml");
        std::fs::write(&config, format!("admin: {admin}\nresources: [{}]\n{own}", file.display())).unwrap();
        // Another build of it, for what is measured.
        let lighter = std::env::var("LIGHTER_SIDECAR").unwrap_or(LIGHTER.to_owned());
        let words = [wrap, &[&lighter, "proxy", "--config"]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(config);
        let program = ready(Program::start(command, folder.path()), admin);
        Sidecar { program, admin, folder }
    }

    /// Has it drain to its end, and starts it once more.
    pub fn restart(&mut self) {
        self.program.signal(Signal::TERM);
        assert!(self.program.wait().success(), "{}", self.program.said());
        let mut command = Command::new(LIGHTER);
        command.args(["proxy", "--config"]).arg(self.path("sidecar.yaml"));
        self.program = ready(Program::start(command, self.folder.path()), self.admin);
    }

    /// One before one upstream whose port speaks `protocol`, and where callers reach it.
    pub fn before(upstream: SocketAddr, protocol: &str) -> (Self, SocketAddr) {
        Self::before_with(upstream, protocol, "", "")
    }

    /// The same with more resources, and more of its own file.
    pub fn before_with(upstream: SocketAddr, protocol: &str, more: &str, own: &str) -> (Self, SocketAddr) {
        Self::before_all(&[upstream], protocol, more, own)
    }

    /// The same before more than one upstream.
    pub fn before_all(upstreams: &[SocketAddr], protocol: &str, more: &str, own: &str) -> (Self, SocketAddr) {
        let listen = free_address();
        let resources = format!("{}---\n{more}", service("up", protocol, upstreams));
        let own = format!("listeners: [{{listen: '{listen}', service: up, port: 80}}]\nworkers: 1\n{own}");
        (Self::start(&resources, &own), listen)
    }

    /// Puts other resources in place of those it has, at once.
    pub fn apply(&self, resources: &str) {
        let new = self.folder.path().join("resources.new");
        std::fs::write(&new, resources).unwrap();
        std::fs::rename(new, self.folder.path().join("resources.yaml")).unwrap();
    }

    /// A path for a file of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::of(self.admin)
    }
}

/// The program once it is ready, as its admin port says.
fn ready(mut program: Program, admin: SocketAddr) -> Program {
    program.wait_until("it is ready", || {
        TcpStream::connect_timeout(&admin, Duration::from_secs(1)).is_ok()
            && metrics::get(admin, "/ready").0 == 200
    });
    program
}

/// A Service of one port, 80.
pub fn service(name: &str, protocol: &str, endpoints: &[SocketAddr]) -> String {
    let endpoints: String = endpoints
        .iter()
        .map(|endpoint| format!("  - {{address: '{}', port: {}}}\n", endpoint.ip(), endpoint.port()))
        .collect();
    let endpoints = if endpoints.is_empty() { " []\n".to_owned() } else { format!("\n{endpoints}") };
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
         ports: [{{name: main, port: 80, targetPort: 8080, appProtocol: {protocol}}}]\n  endpoints:{endpoints}"
    )
}

/// A TrafficPolicy for a Service: `spec` is YAML on one line without its braces.
pub fn policy(service: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: TrafficPolicy\nmetadata: {{name: {service}}}\nspec: \
         {{targetRefs: [{{kind: Service, name: {service}}}], {spec}}}\n"
    )
}

/// An HTTPRoute of one rule that sends everything to these backends by weight.
pub fn route(service: &str, backends: &[(&str, u32)]) -> String {
    let backends: Vec<String> = backends
        .iter()
        .map(|(name, weight)| format!("{{name: {name}, port: 80, weight: {weight}}}"))
        .collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {service}-route}}\nspec:\n  \
         parentRefs: [{{kind: Service, group: '', name: {service}}}]\n  rules: [{{backendRefs: [{}]}}]\n",
        backends.join(", ")
    )
}
