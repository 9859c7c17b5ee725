//! A control plane that runs, with resources in a file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::support::metrics::Metrics;
use crate::support::process::{Program, free_address, listens};
use crate::support::sidecar::LIGHTER;

/// `lighter control`, with ADS in plain text.
pub struct Plane {
    pub program: Program,
    /// ADS in plain text.
    pub ads: SocketAddr,
    /// Everything, over TLS.
    pub tls: SocketAddr,
    pub api: SocketAddr,
    folder: TempDir,
}

impl Plane {
    /// Starts one with these resources.
    pub fn start(resources: &str) -> Self {
        Self::start_with(resources, "")
    }

    /// The same, with more in its own file.
    pub fn start_with(resources: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ads, tls, api) = (free_address(), free_address(), free_address());
        std::fs::write(folder.path().join("mesh.yaml"), resources).unwrap();
        let own = format!("ads: {tls}\napi: {api}\nplaintextAds: {ads}\nresources: [mesh.yaml]\n{more}");
        std::fs::write(folder.path().join("control.yaml"), own).unwrap();
        let program = start(&folder, ads);
        Plane { program, ads, tls, api, folder }
    }

    /// Puts other resources in place of those it has, at once.
    pub fn apply(&self, resources: &str) {
        std::fs::write(self.path("new"), resources).unwrap();
        std::fs::rename(self.path("new"), self.path("mesh.yaml")).unwrap();
    }

    /// Starts it again after it has ended.
    pub fn start_again(&mut self) {
        self.program = start(&self.folder, self.ads);
    }

    /// What it counts.
    pub fn metrics(&self) -> Metrics {
        let mut command = Command::new("curl");
        command.args(["-sS", "--noproxy", "*", "--cacert"]).arg(self.state().join("api.pem"));
        let output = command.arg(format!("https://{}/metrics", self.api)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Metrics::parse(&String::from_utf8(output.stdout).unwrap())
    }

    /// The folder of its state.
    pub fn state(&self) -> PathBuf {
        self.path("lighter-state")
    }

    /// A path for a file beside its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn start(folder: &TempDir, ads: SocketAddr) -> Program {
    let mut command = Command::new(LIGHTER);
    command.args(["control", "--config"]).arg(folder.path().join("control.yaml"));
    let mut program = Program::start(command, folder.path());
    program.wait_until_it_says(" ready ");
    assert!(listens(ads));
    program
}
