//! What runs at the two ends of the link. At the near one reports with its sidecar, which calls orders, which reads all
//! orders from where they are kept for each request. At the far one the storage that has them, and a device beside it:
//! a sidecar that can scan them there.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::link::{FAR, Link};
use crate::demo::client::fetch;
use crate::demo::instance::samples;
use crate::demo::resources::{APP_PORT, write_whole};
use crate::demo::runner::Runner;
use crate::demo::samples::Samples;
use crate::demo::serve::{LISTENS, orders};
use crate::demo::{SERVE, ports, processes, say};

/// See above.
pub struct Bed {
    link: Link,
    folder: PathBuf,
    /// Where reports takes requests.
    pub reports: SocketAddr,
    /// The admin port of its sidecar.
    pub admin: SocketAddr,
    host: SocketAddr,
    device: SocketAddr,
    device_admin: SocketAddr,
    runners: Vec<Runner>,
    /// What the system knows them by.
    pids: Pids,
}

/// Processes of which is told what they took.
#[derive(Default)]
struct Pids {
    orders: i32,
    storage: i32,
    device: i32,
    sidecar: i32,
}

/// What the link and the processors did so far.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    /// Bytes over the link towards the near end, as the kernel counts them.
    pub bytes: u64,
    /// Processor time of orders, of the storage, of the device, and of the sidecar of reports.
    pub processor: [Duration; 4],
}

/// Bits that the link carries in a second.
pub const LINK: u64 = 100_000_000;

/// A quarter of a megabyte.
const ROWS: usize = 9_000;

/// Ports at the far end, where nobody else is.
const STORAGE: u16 = 8081;
const DEVICE: u16 = 8082;
const DEVICE_ADMIN: u16 = 15000;
const FUNCTIONS: u16 = 9300;

impl Bed {
    /// Makes the files; nothing runs yet.
    pub fn new(link: Link, folder: &Path) -> Result<Self, String> {
        let ports = ports::free(3).map_err(say("a free port"))?;
        let far = |port| SocketAddr::from((FAR, port));
        let bed = Bed {
            link,
            folder: folder.to_owned(),
            reports: ports[0],
            admin: ports[1],
            host: ports[2],
            device: far(DEVICE),
            device_admin: far(DEVICE_ADMIN),
            runners: Vec::new(),
            pids: Pids::default(),
        };
        std::fs::write(bed.path("orders.csv"), orders::table(ROWS)).map_err(say("the orders"))?;
        std::fs::write(bed.path("device.yaml"), bed.device_file()).map_err(say("the device's file"))?;
        bed.offload(false)?;
        Ok(bed)
    }

    /// Starts everything, and waits until it serves.
    pub async fn start(&mut self) -> Result<(), String> {
        let text = |path: PathBuf| path.display().to_string();
        let serve = |role: &str, port: u16, data: String| {
            [SERVE, role, "--port", &port.to_string(), "--data", &data].map(str::to_owned)
        };
        let listens = async |said: &str| match said.contains(LISTENS) {
            true => Ok(()),
            false => Err("it does not listen".to_owned()),
        };
        let storage = serve("storage", STORAGE, text(self.path("orders.csv")));
        let mut storage = self.far("storage", &storage)?;
        storage.until(listens).await?;
        let data = SocketAddr::from((FAR, STORAGE)).to_string();
        let mut orders = self.near("orders", &serve("orders", self.host.port(), data))?;
        orders.until(listens).await?;
        let device = ["proxy".to_owned(), "--config".to_owned(), text(self.path("device.yaml"))];
        let mut device = self.far("device", &device)?;
        let admin = self.device_admin;
        device
            .until(async |_: &str| fetch(admin, "/ready").await.map(drop).map_err(say("its sidecar")))
            .await?;
        let options = [
            ("--service", "reports".to_owned()),
            ("--port", APP_PORT.to_string()),
            ("--listen", self.reports.to_string()),
            ("--admin", self.admin.to_string()),
            ("--resources", text(self.path("mesh.yaml"))),
            ("--workers", "1".to_owned()),
            ("--drain-deadline", "200ms".to_owned()),
        ];
        let options = options.map(|(name, value)| [name.to_owned(), value]).concat();
        let program = serve("reports", APP_PORT, String::new());
        let mut reports = Runner::start("reports", &self.path("reports.log"), &options, &program)?;
        let (admin, inbound) = (self.admin, self.reports);
        let serves = async |said: &str| {
            listens(said).await?;
            fetch(admin, "/ready").await.map_err(say("its sidecar"))?;
            fetch(inbound, "/healthz").await.map(drop).map_err(say("its application"))
        };
        reports.until(serves).await?;
        self.pids = Pids {
            orders: orders.pid(),
            storage: storage.pid(),
            device: device.pid(),
            sidecar: reports.pid(),
        };
        self.runners = vec![reports, orders, device, storage];
        Ok(())
    }

    /// What they took so far.
    pub fn spent(&self) -> Result<Spent, String> {
        let Pids { orders, storage, device, sidecar } = self.pids;
        let time = |pid| processes::processor_time(pid).map_err(say("the system's count of processor time"));
        Ok(Spent {
            bytes: self.link.received().map_err(say("the link"))?,
            processor: [time(orders)?, time(storage)?, time(device)?, time(sidecar)?],
        })
    }

    /// Lets the device run scans, or not. The sidecar of reports sees the changed file.
    pub fn offload(&self, on: bool) -> Result<(), String> {
        let policy = POLICY.replace("BYTES", &self.bytes().to_string());
        let text = format!("{}{}", self.mesh(), if on { policy } else { String::new() });
        write_whole(&self.path("mesh.yaml"), &text).map_err(say("the resource file"))
    }

    /// What the sidecar of reports has counted so far.
    pub async fn samples(&self) -> Result<Samples, String> {
        samples(self.admin).await
    }

    /// What the device has counted so far. Not while it stands still.
    pub async fn device_samples(&self) -> Result<Samples, String> {
        samples(self.device_admin).await
    }

    /// Stops the device where it stands, or lets it go on.
    pub fn halt(&self, halt: bool) -> Result<i32, String> {
        let pid = Pid::from_raw(self.pids.device).ok_or("the device does not run")?;
        let signal = if halt { Signal::STOP } else { Signal::CONT };
        kill_process(pid, signal).map_err(|error| format!("the device cannot be signalled: {error}"))?;
        Ok(self.pids.device)
    }

    /// Bytes of the orders.
    pub fn bytes(&self) -> u64 {
        std::fs::metadata(self.path("orders.csv")).map_or(0, |file| file.len())
    }

    /// Ends everything in an orderly way.
    pub async fn stop(mut self) {
        self.runners.iter().for_each(Runner::terminate);
        for runner in self.runners.drain(..) {
            runner.stop().await;
        }
    }

    fn near(&self, name: &'static str, arguments: &[String]) -> Result<Runner, String> {
        Runner::spawn(name, &self.path(&format!("{name}.log")), arguments)
    }

    fn far(&self, name: &'static str, arguments: &[String]) -> Result<Runner, String> {
        self.link.far(|| self.near(name, arguments)).map_err(say("the far end"))?
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn device_file(&self) -> String {
        let app = SocketAddr::from((Ipv4Addr::LOCALHOST, FUNCTIONS));
        format!(
            "admin: {}\nservice: orders-csd\nworkers: 1\ndrainDeadline: 200ms\n\
             inbound: [{{listen: '{}', app: '{app}', port: 80, protocol: http}}]\n\
             device: {{class: csd, listen: '{app}', datasets: [{{name: orders, version: '1', path: {}, format: csv}}]}}\n",
            self.device_admin,
            self.device,
            quoted(&self.path("orders.csv")),
        )
    }

    /// All that the sidecar of reports knows, but for who may run what.
    fn mesh(&self) -> String {
        let service = |name: &str, at: SocketAddr| {
            format!(
                "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
                 ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]\n  \
                 endpoints: [{{address: \"{}\", port: {}}}]\n---\n",
                at.ip(),
                at.port()
            )
        };
        [service("reports", self.reports), service("orders", self.host), service("orders-csd", self.device)]
            .concat()
            + ROUTE
    }
}

/// A path in YAML.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "''"))
}

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders}
spec:
  parentRefs: [{kind: Service, name: orders}]
  rules: [{name: scan, backendRefs: [{name: orders, port: 80}]}]
";

const POLICY: &str = "\
---
apiVersion: mesh.lighter.dev/v1
kind: Function
metadata: {name: scan}
spec: {state: readOnly, bytesPerSecond: 500000000, resultPercent: 1}
---
apiVersion: mesh.lighter.dev/v1
kind: Device
metadata: {name: csd}
spec:
  class: csd
  service: {name: orders-csd, port: 80}
  functions: [scan]
  datasets: [{name: orders, version: '1'}]
---
# Where the fewest bytes move, and nowhere else. Whoever is not answered within half a second is answered by the host.
apiVersion: mesh.lighter.dev/v1
kind: OffloadPolicy
metadata: {name: scans}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: orders, sectionName: scan}]
  function: scan
  dataset: {name: orders, version: '1', bytes: BYTES}
  devices: [csd]
  objective: bytes
  explorePercent: 0
  slo: {latency: 2s}
  tryTimeout: 500ms
";
