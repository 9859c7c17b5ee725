//! A control plane with its state, and clients of it that are not Lighter.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::metrics::Metrics;
use crate::support::process::{Program, find, free_address, listens, python};
use crate::support::sidecar::LIGHTER;

/// `lighter control`, and what it takes to talk to it.
pub struct World {
    pub program: Program,
    pub ads: SocketAddr,
    api: SocketAddr,
    pub folder: TempDir,
    python: PathBuf,
    openssl: PathBuf,
}

impl World {
    pub fn new() -> Result<Self, String> {
        let (python, openssl) = (python("grpc")?, find("openssl")?);
        find("curl")?;
        let folder = tempfile::tempdir().unwrap();
        let (ads, api) = (free_address(), free_address());
        std::fs::write(folder.path().join("control.yaml"), format!("ads: {ads}\napi: {api}\nstate: state\n"))
            .unwrap();
        let mut command = Command::new(LIGHTER);
        command.args(["control", "--config"]).arg(folder.path().join("control.yaml"));
        let mut program = Program::start(command, folder.path());
        program.wait_until("it listens", || listens(ads));
        let world = World { program, ads, api, folder, python, openssl };
        std::fs::write(world.path("bundle.pem"), world.ca(&["bundle"])).unwrap();
        Ok(world)
    }

    /// A path for a file beside its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What `lighter ca` says, working on the files of the control plane that runs.
    pub fn ca(&self, arguments: &[&str]) -> String {
        ca(&self.path("state"), arguments)
    }

    /// Makes a key `NAME.key` and a request `NAME.csr`, which asks for the name `asked`.
    pub fn request(&self, name: &str, asked: &str) {
        let mut command = Command::new(&self.openssl);
        command.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        command.args([
            "-subj",
            "/CN=somebody",
            "-addext",
            &format!("subjectAltName={asked}"),
            "-outform",
            "DER",
        ]);
        command.arg("-keyout").arg(self.path(&format!("{name}.key")));
        command.arg("-out").arg(self.path(&format!("{name}.csr")));
        output(&mut command);
    }

    /// Asks for a certificate for the key `name`. One that is issued lies in `NAME.pem`.
    pub fn sign(&self, name: &str, more: &[&str]) -> Value {
        let mut command = self.client("sign");
        command.arg(self.path(&format!("{name}.csr"))).args(more);
        let said: Value = serde_json::from_str(&output(&mut command)).unwrap();
        if let Some(chain) = said["chain"].as_str() {
            std::fs::write(self.path(&format!("{name}.pem")), chain).unwrap();
        }
        said
    }

    /// The arguments to call with the certificate of `name`.
    pub fn with(&self, name: &str) -> [String; 3] {
        let file = |end| self.path(&format!("{name}.{end}")).display().to_string();
        ["--with".to_owned(), file("pem"), file("key")]
    }

    pub fn client(&self, what: &str) -> Command {
        let script = format!("{}/../tests/identity/scripts/certificates.py", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(&self.python);
        command.args([script, what.to_owned(), self.ads.to_string()]).arg(self.path("bundle.pem"));
        command
    }

    /// How many requests for certificates had this outcome, as the control plane counts.
    pub fn certificates(&self, outcome: &str) -> f64 {
        let mut command = Command::new("curl");
        command.args(["-sS", "--noproxy", "*", "--cacert"]).arg(self.path("state/api.pem"));
        let text = output(command.arg(format!("https://{}/metrics", self.api)));
        Metrics::parse(&text).sum("lighter_control_certificates_total", &[("outcome", outcome)])
    }

    /// What OpenSSL says of the certificate of `name`.
    pub fn openssl(&self, arguments: &[&str], name: &str) -> String {
        let mut command = Command::new(&self.openssl);
        command.args(arguments).arg(self.path(&format!("{name}.pem")));
        output(command.current_dir(self.folder.path()))
    }
}

/// What `lighter ca` says of the authority in `state`.
pub fn ca(state: &Path, arguments: &[&str]) -> String {
    let said = output(Command::new(LIGHTER).arg("ca").args(arguments).arg("--state").arg(state));
    said.trim_end().to_owned()
}

/// What a command that succeeds writes.
pub fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}
