//! One of the demo's applications with its sidecar.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::TcpStream;

use super::client::fetch;
use super::resources::APP_PORT;
use super::runner::Runner;
use super::samples::Samples;
use super::serve::LISTENS;
use super::{SERVE, ports, say};

/// See above.
pub struct Instance {
    /// What the demo calls it.
    pub name: &'static str,
    /// The Service that it is an instance of.
    pub service: &'static str,
    /// Which server it is, and what it says of itself.
    role: &'static str,
    version: &'static str,
    instance: &'static str,
    /// Where its sidecar takes callers' connections.
    pub inbound: SocketAddr,
    /// Its sidecar's admin port.
    pub admin: SocketAddr,
    /// Where its sidecar takes links, once it has an identity.
    link: SocketAddr,
    log: PathBuf,
    /// By whom it was led when it was started last.
    led_by: Option<LedBy>,
    runner: Option<Runner>,
}

/// Where a sidecar learns of the others.
#[derive(Clone)]
pub enum LedBy {
    /// From a resource file.
    File(PathBuf),
    /// From a control plane.
    Plane {
        /// Where it is.
        address: SocketAddr,
        /// What to join it with.
        token: PathBuf,
        /// What outlives the sidecar.
        state: PathBuf,
    },
}

impl LedBy {
    /// As a sidecar's own file says it.
    pub fn to_yaml(&self) -> String {
        let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', "''"));
        match self {
            LedBy::File(resources) => format!("resources: [{}]\n", quoted(resources)),
            LedBy::Plane { address, token, state } => format!(
                "control: {{address: '{address}', tokenFile: {}, state: {}}}\n",
                quoted(token),
                quoted(state)
            ),
        }
    }
}

impl Instance {
    /// `[name, service, role, version, instance]`. Nothing runs yet.
    pub fn new(
        [name, service, role, version, instance]: [&'static str; 5],
        folder: &Path,
    ) -> io::Result<Self> {
        let ports = ports::free(3)?;
        let log = folder.join(format!("{name}.log"));
        let [inbound, admin, link] = [ports[0], ports[1], ports[2]];
        Ok(Instance {
            name,
            service,
            role,
            version,
            instance,
            inbound,
            admin,
            link,
            log,
            led_by: None,
            runner: None,
        })
    }

    /// Starts it.
    pub fn start(&mut self, led_by: LedBy) -> Result<(), String> {
        let text = |path: &Path| path.display().to_string();
        let mut options = vec![
            ("--service", self.service.to_owned()),
            ("--port", APP_PORT.to_string()),
            ("--listen", self.inbound.to_string()),
            ("--admin", self.admin.to_string()),
            ("--workers", "1".to_owned()),
            ("--drain-deadline", "2s".to_owned()),
        ];
        match &led_by {
            LedBy::File(resources) => options.push(("--resources", text(resources))),
            LedBy::Plane { address, token, state } => options.extend([
                ("--control", address.to_string()),
                ("--token-file", text(token)),
                ("--state", text(state)),
                ("--link", self.link.to_string()),
            ]),
        }
        let options: Vec<_> =
            options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        let port = APP_PORT.to_string();
        let program =
            [SERVE, self.role, "--port", &port, "--version", self.version, "--instance", self.instance];
        self.runner = Some(Runner::start(self.name, &self.log, &options, &program.map(str::to_owned))?);
        self.led_by = Some(led_by);
        Ok(())
    }

    /// Starts it again as it was started last.
    pub fn start_again(&mut self) -> Result<(), String> {
        let led_by = self.led_by.clone().ok_or_else(|| format!("{} never ran", self.name))?;
        self.start(led_by)
    }

    /// Starts it again, as on another machine: at another address, which callers know only when somebody tells them.
    pub fn start_elsewhere(&mut self) -> Result<(), String> {
        self.inbound = ports::free(1).map_err(say("a free port"))?[0];
        self.start_again()
    }

    /// Waits until its sidecar is ready and its application answers. It is asked only once it says that it listens, so
    /// that no counter shows a refusal. A sidecar that may not serve whoever comes is only asked to open its door.
    pub async fn serves(&mut self) -> Result<(), String> {
        let (admin, inbound) = (self.admin, self.inbound);
        let by_file = matches!(self.led_by, Some(LedBy::File(_)));
        let serves = async |said: &str| {
            if !said.contains(LISTENS) {
                return Err("its application does not listen".to_owned());
            }
            fetch(admin, "/ready").await.map_err(say("its sidecar"))?;
            match by_file {
                true => fetch(inbound, "/healthz").await.map(drop),
                false => TcpStream::connect(inbound).await.map(drop),
            }
            .map_err(say("its application"))
        };
        self.running()?.until(serves).await
    }

    /// Waits until the control plane knows that it serves.
    pub async fn registered(&mut self) -> Result<(), String> {
        let admin = self.admin;
        let known = async |_: &str| {
            let samples = samples(admin).await?;
            let holds = |fact: &str| samples.sum(&format!("lighter_registry_{fact}"), &[]) == 1.0;
            if holds("known") && holds("ready") { Ok(()) } else { Err("it is not registered".to_owned()) }
        };
        self.running()?.until(known).await
    }

    /// Its `lighter run` process, while it runs.
    pub fn runner(&self) -> Option<&Runner> {
        self.runner.as_ref()
    }

    fn running(&mut self) -> Result<&mut Runner, String> {
        self.runner.as_mut().ok_or_else(|| format!("{} is not running", self.name))
    }

    /// The pid of that.
    pub fn runner_pid(&self) -> Option<i32> {
        self.runner.as_ref().map(Runner::pid)
    }

    /// Ends it in an orderly way.
    pub async fn stop(&mut self) {
        if let Some(runner) = self.runner.take() {
            runner.stop().await;
        }
    }

    /// Kills sidecar and application as a machine dies: at once and without a word.
    pub async fn kill(&mut self) -> Result<(), String> {
        let runner = self.runner.take().ok_or_else(|| format!("{} is not running", self.name))?;
        runner.kill().await
    }

    /// Its sidecar's metrics of this moment.
    pub async fn samples(&self) -> Result<Samples, String> {
        samples(self.admin).await
    }
}

/// The metrics of the sidecar with this admin port, of this moment.
pub async fn samples(admin: SocketAddr) -> Result<Samples, String> {
    Samples::parse(&fetch(admin, "/metrics").await.map_err(say("/metrics"))?)
}
