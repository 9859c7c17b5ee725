//! Services and callers under `lighter run`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::process::{Program, free_address, listens};
use crate::support::sidecar::LIGHTER;

/// One Service with one port, and a folder for whatever its program needs.
pub struct World {
    pub folder: TempDir,
    pub name: &'static str,
    pub port: u16,
    pub endpoint: SocketAddr,
}

/// A service that runs, and its sidecar's admin port.
pub struct Served {
    pub program: Program,
    pub admin: SocketAddr,
    endpoint: SocketAddr,
}

impl Served {
    /// Waits until the program says `word`, and its sidecar has seen that it listens.
    pub fn wait_until_it_says(&mut self, word: &str) {
        self.program.wait_until_it_says(word);
        let endpoint = self.endpoint;
        self.program.wait_until("callers are let in", || listens(endpoint));
    }
}

/// How a caller ended.
pub struct Called {
    pub success: bool,
    pub said: String,
    /// Connections that the rules of its namespace sent to the sidecar.
    pub intercepted: u64,
}

impl World {
    /// A mesh with one Service whose port speaks `protocol`, or says nothing of it (`auto`).
    pub fn of(name: &'static str, port: u16, protocol: &str) -> Self {
        Self::with_endpoint(name, port, protocol, free_address())
    }

    /// The same before a server that runs without a sidecar.
    pub fn with_endpoint(name: &'static str, port: u16, protocol: &str, endpoint: SocketAddr) -> Self {
        let folder = tempfile::Builder::new().prefix("lighter-peers-").tempdir().unwrap();
        let world = World { folder, name, port, endpoint };
        let resources = format!(
            "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
             ports: [{{name: main, port: {port}, targetPort: {port}, appProtocol: {protocol}}}]\n  \
             endpoints: [{{address: {}, port: {}}}]\n",
            endpoint.ip(),
            endpoint.port()
        );
        std::fs::write(world.path("resources.yaml"), resources).unwrap();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the Service's program with a sidecar beside it.
    pub fn serve(&self, program: &Path, arguments: &[&str]) -> Served {
        let admin = free_address();
        let mut command = self.lighter_run();
        command
            .args(["--service", self.name, "--port", &self.port.to_string()])
            .args(["--listen", &self.endpoint.to_string(), "--admin", &admin.to_string(), "--"])
            .arg(program)
            .args(arguments);
        let program = Program::start(command, self.folder.path()).gentle();
        Served { program, admin, endpoint: self.endpoint }
    }

    /// Starts a caller that stays, with its sidecar's admin port at `admin`.
    pub fn hold(&self, admin: SocketAddr, program: &Path, arguments: &[&str]) -> Program {
        let mut command = self.lighter_run();
        command.args(["--admin", &admin.to_string(), "--"]).arg(program).args(arguments);
        let mut program = Program::start(command, self.folder.path()).gentle();
        program.wait_until("its sidecar answers", || listens(admin));
        program
    }

    /// Runs a caller to its end.
    pub fn call(&self, program: &Path, arguments: &[&str]) -> Called {
        let status = self.path("status.json");
        let mut command = self.lighter_run();
        command.arg("--status-file").arg(&status).arg("--").arg(program).args(arguments);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let report = std::fs::read_to_string(&status).unwrap_or_default();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap_or_default();
        let rules = report["rules"].as_array().cloned().unwrap_or_default();
        let outbound = rules.iter().filter(|rule| rule["rule"] == "outbound");
        let intercepted = outbound.filter_map(|rule| rule["packets"].as_u64()).sum();
        Called { success: output.status.success(), said: String::from_utf8_lossy(&said).into(), intercepted }
    }

    /// The same, which must succeed by interception; gives what it said.
    pub fn must_call(&self, program: &Path, arguments: &[&str]) -> String {
        let called = self.call(program, arguments);
        assert!(called.success, "{} failed:\n{}", program.display(), called.said);
        assert!(called.intercepted > 0, "nothing was intercepted:\n{}", called.said);
        called.said
    }

    fn lighter_run(&self) -> Command {
        let mut command = Command::new(LIGHTER);
        command.arg("run").arg("--resources").arg(self.path("resources.yaml"));
        // Programs here call Services by name, not through some proxy of this machine.
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
    }
}

/// A script beside this file.
pub fn script(name: &str) -> String {
    format!("{}/../tests/peers/scripts/{name}", env!("CARGO_MANIFEST_DIR"))
}
