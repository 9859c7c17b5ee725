//! A control plane with the Service `reviews`, and sidecars that join it.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::metrics::{self, Metrics};
use crate::support::process::{Program, free_address};
use crate::support::raw::{Body, Peer};
use crate::support::sidecar::{LIGHTER, service};

pub const WEB: &str = "spiffe://mesh.lighter/ns/default/sa/web";

pub struct World {
    plane: Option<Program>,
    /// Where sidecars reach it.
    pub address: SocketAddr,
    api: SocketAddr,
    folder: TempDir,
}

impl World {
    /// A control plane that runs.
    pub fn new() -> Self {
        Self::with("")
    }

    /// The same, with more in its own file.
    pub fn with(more: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("lighter-join-").tempdir().unwrap();
        let (address, api) = (free_address(), free_address());
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("mesh.yaml"), service("reviews", "http", &[])).unwrap();
        let own = format!(
            "ads: {address}\napi: {api}\nstate: state\nresources: [mesh.yaml]\nauditLog: audit.log\n{more}\n"
        );
        std::fs::write(at("control.yaml"), own).unwrap();
        let mut world = World { plane: None, address, api, folder };
        world.start_plane();
        world
    }

    pub fn start_plane(&mut self) {
        let mut command = Command::new(LIGHTER);
        command.args(["control", "--config"]).arg(self.path("control.yaml"));
        let mut program = Program::start(command, self.folder.path());
        program.wait_until_it_says(" ready ");
        self.plane = Some(program);
    }

    /// Ends it in good order.
    pub fn stop_plane(&mut self) {
        let mut plane = self.plane.take().expect("it runs");
        plane.signal(Signal::TERM);
        assert!(plane.wait().success());
    }

    /// Ends it at once, whatever it is doing.
    pub fn kill_plane(&mut self) {
        let mut plane = self.plane.take().expect("it runs");
        plane.signal(Signal::KILL);
        plane.wait();
    }

    /// Pushes resources beside those of its file.
    pub fn apply(&self, resources: &str) {
        let file = self.path("pushed.yaml");
        std::fs::write(&file, resources).unwrap();
        self.operator(&["apply", "-f", file.to_str().unwrap()]);
    }

    pub fn plane(&self) -> &Program {
        self.plane.as_ref().expect("it runs")
    }

    /// What `lighter` says to an operator.
    pub fn operator(&self, arguments: &[&str]) -> String {
        output(&mut self.as_operator(arguments))
    }

    /// What `lighter` says to an operator of what it refuses to do.
    #[allow(dead_code)] // Not every suite that has this file needs it.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.as_operator(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn as_operator(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(LIGHTER);
        command.args(arguments).env("LIGHTER_SERVER", format!("https://{}", self.api));
        command.env("LIGHTER_TOKEN_FILE", self.path("state/operator-token"));
        command.env("LIGHTER_CA_FILE", self.path("state/api.pem"));
        command
    }

    /// How the sidecars stand, by who they proved to be of.
    pub fn sidecar(&self, of: &str) -> Value {
        let all: Value = serde_json::from_str(&self.operator(&["get", "sidecars", "-o", "json"])).unwrap();
        let begins = format!("default/{of}/");
        let is_it = |one: &&Value| one["id"].as_str().is_some_and(|id| id.starts_with(&begins));
        all["sidecars"].as_array().unwrap().iter().find(is_it).cloned().unwrap_or_default()
    }

    /// What the control plane counts.
    pub fn counts(&self) -> Metrics {
        let mut command = Command::new("curl");
        command.args(["-sS", "--noproxy", "*", "--cacert"]).arg(self.path("state/api.pem"));
        Metrics::parse(&output(command.arg(format!("https://{}/metrics", self.api))))
    }

    /// A path for a file beside its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What `lighter ca` says, working on the files of the control plane.
    pub fn ca(&self, arguments: &[&str]) -> String {
        ca(&self.path("state"), arguments)
    }

    /// Adds a resource to those of the control plane.
    pub fn add(&self, resource: &str) {
        let text = std::fs::read_to_string(self.path("mesh.yaml")).unwrap();
        std::fs::write(self.path("mesh.new"), format!("{text}---\n{resource}")).unwrap();
        std::fs::rename(self.path("mesh.new"), self.path("mesh.yaml")).unwrap();
    }

    /// Puts a join token for `service` where the sidecar `name` looks for it.
    pub fn token(&self, name: &str, service: &str) {
        let token = self.ca(&["token", "--service", service]);
        std::fs::write(self.path(&format!("{name}.token")), token).unwrap();
    }

    /// Starts the sidecar `name`, which has `own` in its file beside what leads to the control plane.
    pub fn start(&self, name: &str, own: &str) -> Sidecar {
        self.start_with(name, &format!("drainDeadline: 5s\n{own}"))
    }

    /// The same, but for how long a drain may take.
    pub fn start_with(&self, name: &str, own: &str) -> Sidecar {
        self.start_by(self.address, name, own)
    }

    /// The same, where the control plane is reached by another address than its own.
    pub fn start_by(&self, control: SocketAddr, name: &str, own: &str) -> Sidecar {
        let admin = free_address();
        let file = self.path(&format!("{name}.yaml"));
        let text = format!(
            "admin: {admin}\nworkers: 1\n{own}\ncontrol: {{address: '{control}', tokenFile: {name}.token, state: {name}-state}}\n"
        );
        std::fs::write(&file, text).unwrap();
        Sidecar { program: proxy(&file), admin, file }
    }

    /// The sidecar `name` of an instance of `reviews` before `app`, with a token of its own.
    pub fn reviews(&self, name: &str, app: SocketAddr) -> Sidecar {
        self.reviews_with(name, app, "").ready()
    }

    /// The same with more in its own file. It may never be ready.
    pub fn reviews_with(&self, name: &str, app: SocketAddr, more: &str) -> Sidecar {
        self.instance("reviews", name, app, more)
    }

    /// The same of another service.
    pub fn instance(&self, service: &str, name: &str, app: SocketAddr, more: &str) -> Sidecar {
        self.token(name, service);
        let listen = free_address();
        let inbound = format!("inbound: [{{listen: '{listen}', app: '{app}', port: 80}}]");
        self.start(name, &format!("service: {service}\n{inbound}\n{more}"))
    }

    /// The sidecar of the caller `web`, and its listener for `reviews`.
    pub fn web(&self) -> (Sidecar, SocketAddr) {
        self.token("web", "web");
        self.web_again()
    }

    /// The sidecar `name` of another replica of `web`, and its listener for `service`.
    pub fn caller(&self, name: &str, service: &str) -> (Sidecar, SocketAddr) {
        self.caller_with(name, service, "")
    }

    /// The same with more in its own file.
    pub fn caller_with(&self, name: &str, service: &str, more: &str) -> (Sidecar, SocketAddr) {
        self.token(name, "web");
        let listen = free_address();
        let own = format!("listeners: [{{listen: '{listen}', service: {service}, port: 80}}]\n{more}");
        (self.start(name, &own).ready(), listen)
    }

    /// The same, with what is kept.
    pub fn web_again(&self) -> (Sidecar, SocketAddr) {
        let listen = free_address();
        let own = format!("listeners: [{{listen: '{listen}', service: reviews, port: 80}}]");
        (self.start("web", &own).ready(), listen)
    }
}

/// A sidecar that joins, or has joined.
pub struct Sidecar {
    pub program: Program,
    pub admin: SocketAddr,
    /// Its own file.
    pub file: PathBuf,
}

impl Sidecar {
    pub fn ready(mut self) -> Self {
        self.wait_until_ready();
        self
    }

    pub fn wait_until_ready(&mut self) {
        let admin = self.admin;
        self.program.wait_until("it is ready", || {
            TcpStream::connect_timeout(&admin, Duration::from_secs(1)).is_ok()
                && metrics::get(admin, "/ready").0 == 200
        });
    }

    /// Ends it in good order, and starts it again as it was.
    pub fn restart(&mut self) {
        self.program.signal(Signal::TERM);
        assert!(self.program.wait().success());
        self.program = proxy(&self.file);
        self.wait_until_ready();
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::of(self.admin)
    }

    /// How many endpoints it knows of `reviews`, where that is all it calls.
    pub fn endpoints(&self) -> usize {
        self.known()[0]["ports"][0]["endpoints"].as_array().map_or(0, Vec::len)
    }

    /// How many Services it knows.
    pub fn services(&self) -> usize {
        self.known().as_array().map_or(0, Vec::len)
    }

    fn known(&self) -> Value {
        let dump: Value = serde_json::from_str(&metrics::get(self.admin, "/config_dump").1).unwrap();
        dump["snapshot"]["services"].clone()
    }

    /// Certificates that were asked for, by what for and what became of it.
    pub fn asked(&self, request: &str, outcome: &str) -> f64 {
        let labels = [("request", request), ("outcome", outcome)];
        self.metrics().sum("lighter_identity_requests_total", &labels)
    }
}

/// What `lighter ca` says of the authority in `state`.
pub fn ca(state: &Path, arguments: &[&str]) -> String {
    let said = output(Command::new(LIGHTER).arg("ca").args(arguments).arg("--state").arg(state));
    said.trim_end().to_owned()
}

/// What a command that succeeds writes.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A sidecar with this file of its own.
fn proxy(file: &Path) -> Program {
    let mut command = Command::new(LIGHTER);
    command.args(["proxy", "--config"]).arg(file);
    Program::start(command, file.parent().expect("a folder"))
}

/// What one request is answered, with status.
pub fn get(listen: SocketAddr) -> (u16, String) {
    let (head, body) =
        Peer::connect(listen).exchange("GET / HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n");
    match body {
        Body::Whole(body) => (head.status(), String::from_utf8(body).unwrap()),
        cut => panic!("{cut:?}"),
    }
}
