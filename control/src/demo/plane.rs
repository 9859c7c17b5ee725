//! The demo's control plane: `lighter control` in a network namespace of its own, and the commands of those who run it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::Value;

use super::command;
use super::instance::{Instance, LedBy};
use super::processes::{self, Process};
use super::runner::Runner;
use super::samples::Samples;
use super::{ports, say};
use crate::client::Access;

/// See above.
pub struct Plane {
    folder: PathBuf,
    /// Where sidecars reach it.
    ads: SocketAddr,
    /// Where operators reach it.
    api: SocketAddr,
    /// The admin port of the sidecar that lets both in.
    admin: SocketAddr,
    runner: Option<Runner>,
}

/// What its own sidecar has to know of it: that its ports speak TLS which is nobody else's.
const OWN_SERVICE: &str = "\
apiVersion: mesh.lighter.dev/v1
kind: Service
metadata: {name: control}
spec:
  ports: [{name: ads, port: 15010, appProtocol: tls}, {name: api, port: 15020, appProtocol: tls}]
  endpoints: []
";

const OWN_FILE: &str = "\
ads: 0.0.0.0:15010
api: 0.0.0.0:15020
state: control-state
";

impl Plane {
    /// Chooses ports and writes its files into `folder`; nothing runs yet.
    pub fn new(folder: &Path) -> io::Result<Self> {
        let ports = ports::free(3)?;
        std::fs::write(folder.join("control-service.yaml"), OWN_SERVICE)?;
        std::fs::write(folder.join("control.yaml"), OWN_FILE)?;
        let [ads, api, admin] = [ports[0], ports[1], ports[2]];
        Ok(Plane { folder: folder.to_owned(), ads, api, admin, runner: None })
    }

    /// Starts it, with all that it knew before, and waits until it answers.
    pub async fn start(&mut self) -> Result<(), String> {
        let options = [
            ("--service", "control".to_owned()),
            ("--port", "15010".to_owned()),
            ("--listen", self.ads.to_string()),
            ("--port", "15020".to_owned()),
            ("--listen", self.api.to_string()),
            ("--admin", self.admin.to_string()),
            ("--resources", self.text("control-service.yaml")),
            ("--workers", "1".to_owned()),
            // Whoever it serves holds on to it for good.
            ("--drain-deadline", "200ms".to_owned()),
        ];
        let options = options.map(|(name, value)| [name.to_owned(), value]).concat();
        let program = ["control".to_owned(), "--config".to_owned(), self.text("control.yaml")];
        let log = self.folder.join("control.log");
        let mut runner = Runner::start("the control plane", &log, &options, &program)?;
        runner.until(async |_: &str| self.samples().await.map(drop)).await?;
        self.runner = Some(runner);
        Ok(())
    }

    /// Kills it at once and without a word.
    pub async fn kill(&mut self) -> Result<(), String> {
        self.runner.take().ok_or("the control plane is not running")?.kill().await
    }

    /// Ends it in an orderly way.
    pub async fn stop(&mut self) {
        if let Some(runner) = self.runner.take() {
            runner.stop().await;
        }
    }

    /// Its process, and that of the sidecar that lets others in.
    pub fn process(&self) -> Result<(Process, i32), String> {
        let runner = self.runner.as_ref().ok_or("the control plane is not running")?.pid();
        let process = processes::application(runner, "control").map_err(say("the control plane"))?;
        Ok((process, runner))
    }

    /// Who has been given a certificate since it was started, in the words of its log.
    pub fn issued(&self) -> Vec<String> {
        let said = self.runner.as_ref().map(Runner::said).unwrap_or_default();
        let issued = said.lines().filter(|line| line.contains("certificate issued"));
        let words = issued.flat_map(str::split_ascii_whitespace);
        words.filter_map(|word| word.strip_prefix("identity=")).map(str::to_owned).collect()
    }

    /// Makes a join token for an instance.
    pub async fn invite(&self, instance: &Instance) -> Result<LedBy, String> {
        self.invite_as(instance.name, instance.service).await
    }

    /// The same for whoever is called so and speaks for this Service.
    pub async fn invite_as(&self, name: &str, service: &str) -> Result<LedBy, String> {
        let state = self.text("control-state");
        let token = self.lighter(&["ca", "token", "--service", service, "--state", &state]).await?;
        let file = self.folder.join(format!("{name}.token"));
        std::fs::write(&file, token).map_err(say("a join token"))?;
        let state = self.folder.join(format!("{name}-state"));
        Ok(LedBy::Plane { address: self.ads, token: file, state })
    }

    /// Pushes resources with `lighter apply`. Returns what that says: a line for each.
    pub async fn apply(&self, resources: &str) -> Result<Vec<String>, String> {
        let file = self.folder.join("push.yaml");
        std::fs::write(&file, resources).map_err(say("the resource file"))?;
        let said = self.lighter(&["apply", "-f", &self.text("push.yaml")]).await?;
        Ok(said.lines().map(str::to_owned).collect())
    }

    /// How every sidecar stands, as `lighter get sidecars` shows it.
    pub async fn sidecars(&self) -> Result<Vec<Value>, String> {
        let said = self.lighter(&["get", "sidecars", "-o", "json"]).await?;
        let said: Value = serde_json::from_str(&said).map_err(|error| format!("get sidecars: {error}"))?;
        said["sidecars"].as_array().cloned().ok_or_else(|| format!("get sidecars: {said}"))
    }

    /// Every link that sidecars report, as `lighter get links` shows it.
    pub async fn links(&self) -> Result<Vec<Value>, String> {
        let said = self.lighter(&["get", "links", "-o", "json"]).await?;
        let said: Value = serde_json::from_str(&said).map_err(|error| format!("get links: {error}"))?;
        said["links"].as_array().cloned().ok_or_else(|| format!("get links: {said}"))
    }

    /// Its metrics of this moment.
    pub async fn samples(&self) -> Result<Samples, String> {
        let (access, state) = (self.api, self.folder.join("control-state"));
        // A command of its own would do the same, in this process's only thread.
        let asked = tokio::task::spawn_blocking(move || {
            Access::of(access, &state).ask_bytes(Method::GET, "/metrics", Vec::new())
        });
        let answer = asked.await.map_err(|error| error.to_string())?;
        let (_, text) = answer.map_err(|error| error.to_string())?;
        Samples::parse(&String::from_utf8_lossy(&text))
    }

    /// How to move the traffic by hand.
    pub fn how_to_apply(&self) -> String {
        let (state, file) = (self.text("control-state"), self.text("push.yaml"));
        format!(
            "edit {file}, then lighter apply -f {file} --server https://{} --token-file {state}/operator-token \
             --ca-file {state}/api.pem",
            self.api
        )
    }

    /// What a command of the operator says.
    pub async fn lighter(&self, arguments: &[&str]) -> Result<String, String> {
        let environment = [
            ("LIGHTER_SERVER", format!("https://{}", self.api)),
            ("LIGHTER_TOKEN_FILE", self.text("control-state/operator-token")),
            ("LIGHTER_CA_FILE", self.text("control-state/api.pem")),
        ];
        command::lighter(arguments, &environment, "").await
    }

    fn text(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }
}
