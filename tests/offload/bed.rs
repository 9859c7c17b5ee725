//! A testbed: a caller and a host here, a device and the data there, and a thin link between them.
//!
//! Both ends are network namespaces of the test's own. What the link carries is counted by the kernel.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::support::namespace;
use crate::support::process::{Program, find, free_port, listens, python};
use crate::support::quota::Quota;
use crate::support::sidecar::{Sidecar, service};

const NEAR: [u8; 4] = [198, 18, 70, 1];
const FAR: [u8; 4] = [198, 18, 70, 2];

/// The test's thread is at the near end, but for what is done [`Bed::far`].
pub struct Bed {
    pub folder: TempDir,
    near: OwnedFd,
    far: OwnedFd,
    tools: Tools,
    _storage: Program,
    _host: Program,
    /// Where the data is kept, behind the link.
    pub storage: SocketAddr,
    pub host: SocketAddr,
    pub device: SocketAddr,
    /// The device. None: it was killed.
    pub sidecar: Option<Sidecar>,
    quota: Option<Quota>,
    /// What the device says of itself beside its data.
    section: String,
    _alone: MutexGuard<'static, ()>,
}

struct Tools {
    ip: PathBuf,
    tc: PathBuf,
}

/// What kind of device is emulated.
pub struct Emulated<'e> {
    pub class: &'e str,
    pub media_bytes_per_second: Option<u64>,
    pub runs: u32,
}

impl Emulated<'_> {
    fn section(&self) -> String {
        let media = self.media_bytes_per_second.map(|bytes| format!(", mediaBytesPerSecond: {bytes}"));
        format!("class: {}, limits: {{runs: {}}}{}", self.class, self.runs, media.unwrap_or_default())
    }
}

/// How many rows: each has a number from 0 to 999 as `amount`, evenly.
pub struct Rows(pub usize);

impl Bed {
    /// One whose data set `orders` has so many rows, or why there is none. The thread of the test moves.
    pub fn new(rows: &Rows) -> Result<Self, String> {
        Self::emulating(rows, &Emulated { class: "csd", media_bytes_per_second: None, runs: 4 })
    }

    /// The same with another device.
    pub fn emulating(rows: &Rows, emulated: &Emulated<'_>) -> Result<Self, String> {
        namespace::root()?;
        let tools = Tools { ip: find("ip")?, tc: find("tc")? };
        let python = python("http.server")?;
        // What is measured on one is not disturbed by another.
        static ONE: Mutex<()> = Mutex::new(());
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("orders.csv"), rows.text()).unwrap();
        std::fs::write(folder.path().join("host.py"), include_str!("host.py")).unwrap();
        // The tests of a suite share a process, so the namespaces are the thread's.
        namespace::enter();
        namespace::raise("lo", &[]);
        let near = own();
        namespace::enter();
        namespace::raise("lo", &[]);
        let far = own();
        namespace::link_to(near.as_raw_fd(), "far0", "near0");
        namespace::raise("far0", &[(FAR.into(), 24)]);
        let bed = |name: &str| run(Command::new(&tools.ip).args(["link", "set", name, "mtu", "9000"]));
        bed("far0");
        let (port, device) = (free_port(), SocketAddr::from((FAR, free_port())));
        let mut command = Command::new(&python);
        command.args(["-m", "http.server", "--bind", "198.18.70.2", "--directory"]).arg(folder.path());
        let mut storage = Program::start(with(command, &port.to_string()), folder.path());
        go(&near);
        namespace::raise("near0", &[(NEAR.into(), 24)]);
        bed("near0");
        storage.wait_until("it listens", || listens(SocketAddr::from((FAR, port))));
        let host = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(&python);
        command.arg(folder.path().join("host.py")).arg(host.port().to_string());
        let mut program = Program::start(with(command, &format!("http://198.18.70.2:{port}")), folder.path());
        program.wait_until("it listens", || listens(host));
        let mut bed = Bed {
            folder,
            near,
            far,
            tools,
            _storage: storage,
            _host: program,
            storage: SocketAddr::from((FAR, port)),
            host,
            device,
            sidecar: None,
            quota: None,
            section: emulated.section(),
            _alone: alone,
        };
        bed.start_device();
        Ok(bed)
    }

    /// Starts the device, which holds the data.
    pub fn start_device(&mut self) {
        let (at, file) = (self.device, self.folder.path().join("orders.csv"));
        self.sidecar = Some(self.far(|| {
            let app = SocketAddr::from(([127, 0, 0, 1], free_port()));
            let own = format!(
                "service: orders-csd\nworkers: 1\ninbound: [{{listen: '{at}', app: '{app}', port: 80}}]\ndevice: {{listen: \
                 '{app}', {}, datasets: [{{name: orders, version: '7', path: {}, format: csv}}]}}\n",
                self.section,
                file.display()
            );
            Sidecar::start(&service("orders-csd", "http", &[]), &own)
        }));
    }

    /// Does something at the far end.
    pub fn far<T>(&self, what: impl FnOnce() -> T) -> T {
        go(&self.far);
        let done = what();
        go(&self.near);
        done
    }

    /// The link carries so much towards the near end from now on, in megabits a second.
    pub fn shape(&self, mbit: u32) {
        let rate = format!("{mbit}mbit");
        let words = [
            "qdisc", "replace", "dev", "far0", "root", "tbf", "rate", &rate, "burst", "128kb", "latency",
            "400ms",
        ];
        self.far(|| run(Command::new(&self.tools.tc).args(words)));
    }

    /// Bytes that TCP has carried over the link to the near end, as the kernel counts them: without the heads of packets.
    pub fn received(&self) -> u64 {
        let out =
            Command::new(&self.tools.ip).args(["-s", "-j", "link", "show", "dev", "near0"]).output().unwrap();
        let links: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let rx = |what: &str| links[0]["stats64"]["rx"][what].as_u64().unwrap();
        // Of Ethernet, IPv4, and TCP with time stamps.
        rx("bytes") - rx("packets") * (14 + 20 + 32)
    }

    /// The size of the data set.
    pub fn bytes(&self) -> u64 {
        std::fs::metadata(self.folder.path().join("orders.csv")).unwrap().len()
    }

    pub fn device_pid(&self) -> u32 {
        self.sidecar.as_ref().expect("the device runs").program.pid()
    }

    /// Processor time of the device so far, that of runs which have ended included.
    pub fn device_cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.device_pid())).unwrap();
        // Behind the name, which may have blanks in it: the 14th and 15th of all are user's and system's.
        let behind = stat.rsplit_once(") ").unwrap().1;
        let ticks: u64 = behind.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// The device has this part of a processor from now on, or why it cannot be held to that.
    pub fn slow_down(&mut self, part: f64) -> Result<(), String> {
        if self.quota.is_none() {
            self.quota = Some(Quota::of(&[self.device_pid()])?);
        }
        self.quota.as_ref().map_or(Ok(()), |quota| quota.set(part))
    }

    /// A measured count of the device.
    pub fn counted(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.far(|| self.sidecar.as_ref().expect("the device runs").metrics().sum(name, labels))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Its group is left before that is taken away.
        self.sidecar = None;
    }
}

impl Rows {
    fn text(&self) -> String {
        let mut text = String::from("id,amount,note\n");
        for id in 0..self.0 {
            // Prime to a thousand, so that all numbers come equally often, in no order.
            text.push_str(&format!("{id},{},xxxxxxxxxxxxxxxx\n", id * 577 % 1000));
        }
        text
    }
}

fn own() -> OwnedFd {
    std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
}

fn go(to: &OwnedFd) {
    move_into_link_name_space(to.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn with(mut command: Command, word: &str) -> Command {
    command.arg(word);
    command
}

fn run(command: &mut Command) {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
