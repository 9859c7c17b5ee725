//! Starts and ends the proxies, each with one worker and a configuration as alike as they allow: upstream connections
//! kept, no access log.

mod config;
mod pairs;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::{self, Cpu};
use crate::options::Options;
use crate::ports::free_ports;
use crate::{Part, Scenario, grpc, http1, moving, stream};
use config::Place;
use pairs::Ends;
pub use pairs::{MOVES, QUIC};

/// The ports of an upstream, or of a proxy before it.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub http: u16,
    pub grpc: u16,
    pub tcp: u16,
    /// Where a proxy is told to change the wires of its links.
    pub admin: Option<u16>,
    /// Where the service's end of a pair says what its links carried.
    pub far_admin: Option<u16>,
}

/// Writes what a proxy needs into a folder: its ports, its processes, its version; or why it cannot take part.
type Start = fn(&Upstreams, &Path) -> Started;
type Started = Result<(Ports, Vec<Command>, String), String>;

/// The upstreams that every proxy leads to.
pub struct Upstreams {
    ports: Ports,
    /// Who the two ends of a pair are.
    ends: Ends,
}

/// A proxy that runs, or nothing at all: the direct way.
pub struct Proxy {
    pub name: &'static str,
    pub version: String,
    pub ports: Ports,
    children: Vec<Child>,
    folder: tempfile::TempDir,
}

impl Upstreams {
    pub fn start() -> Self {
        let (http, grpc, tcp) = (http1::upstream(), grpc::upstream(), stream::upstream());
        let ports = Ports { http, grpc, tcp, admin: None, far_admin: None };
        Upstreams { ports, ends: Ends::new() }
    }
}

impl Ports {
    /// Three ports that nobody has at the moment.
    fn free() -> Self {
        let [http, grpc, tcp] = free_ports();
        Ports { http, grpc, tcp, admin: None, far_admin: None }
    }
}

impl Proxy {
    /// Processor time so far, of all its processes.
    pub fn cpu(&self) -> Cpu {
        self.children.iter().map(|child| measure::cpu(child.id())).fold(Cpu::default(), |sum, one| Cpu {
            total: sum.total + one.total,
            user: sum.user + one.user,
            system: sum.system + one.system,
        })
    }

    /// Its processes.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.children.iter().map(Child::id)
    }

    /// Resident memory in KiB, of all its processes; see [`measure::resident`].
    pub fn resident(&self, what: &str) -> f64 {
        self.children.iter().map(|child| measure::resident(child.id(), what)).sum()
    }

    pub fn is_direct(&self) -> bool {
        self.children.is_empty()
    }

    /// The name as the tables show it.
    pub fn title(&self) -> String {
        match self.version.as_str() {
            "" => self.name.to_owned(),
            version => format!("{} {version}", self.name),
        }
    }

    pub fn stop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The wire that its links are to have, where it is named after one.
    pub fn wire(&self) -> Option<&'static str> {
        pairs::WIRE_OF.iter().find(|(name, _)| *name == self.name).map(|(_, wire)| *wire)
    }

    /// How many streams it opened on links over QUIC, and on all.
    pub fn streams(&self) -> [f64; 2] {
        let Some(admin) = self.ports.admin else { return [0.0; 2] };
        let metrics = moving::ask(admin, "GET", "/metrics");
        ["lighter_quic_streams_total", "lighter_link_streams_total"].map(|name| {
            let sample = format!("{name}{{side=\"opener\"}} ");
            let count = metrics.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok());
            count.unwrap_or(0.0)
        })
    }

    /// Waits until what `ask` asks goes over QUIC, where that is what the proxy is there for.
    pub fn wait_until_over_quic(&self, ask: impl Fn()) {
        if self.name != QUIC {
            return;
        }
        let start = Instant::now();
        loop {
            let before = self.streams();
            ask();
            if self.streams()[0] > before[0] {
                return;
            }
            let late = start.elapsed() > Duration::from_secs(20);
            assert!(!late, "{} does not go over QUIC: {}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The last lines of what the processes said.
    fn log(&self) -> String {
        let logs = (0..self.children.len()).map(|at| self.folder.path().join(format!("log-{at}")));
        let text: String = logs.filter_map(|log| std::fs::read_to_string(log).ok()).collect();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }

    fn wait_until_it_carries(mut self, scenarios: &[Scenario]) -> Result<Self, String> {
        let start = Instant::now();
        let ports = self.ports;
        while let Some(missing) = scenarios.iter().find(|scenario| !scenario.probe(ports)) {
            for child in &mut self.children {
                if let Ok(Some(status)) = child.try_wait() {
                    return Err(format!("{} ended at its start ({status}): {}", self.name, self.log()));
                }
            }
            if start.elapsed() > Duration::from_secs(20) {
                return Err(format!("{} does not carry {}: {}", self.name, missing.name(), self.log()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(self)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts what is there and asked for. What is not there is named with its reason. A Lighter that does not start is a
/// failure, not a reason.
pub fn start_all(part: Part, upstreams: &Upstreams, options: &Options) -> (Vec<Proxy>, Vec<String>) {
    let (mut running, mut missing) = (Vec::new(), Vec::new());
    let all: &[(&'static str, Start)] = match part {
        Part::Plain => &[
            ("direct", direct),
            ("lighter", lighter),
            ("lighter-pair", lighter_pair),
            ("haproxy", haproxy),
            ("nginx", nginx),
            ("envoy", envoy),
        ],
        Part::Mtls => &pairs::ALL,
        Part::Links => &pairs::WIRES,
    };
    // The idle connections, for memory, ask for small answers.
    let mut scenarios: Vec<_> = options.scenarios_of(part).collect();
    scenarios.push(Scenario::Small);
    for (name, start) in all.iter().copied().filter(|(name, _)| options.wants(name)) {
        let started = launch(name, start, upstreams);
        match started.and_then(|proxy| proxy.wait_until_it_carries(&scenarios)) {
            Ok(proxy) => running.push(proxy),
            Err(reason) if name.starts_with("lighter") => panic!("{reason}"),
            Err(reason) => missing.push(reason),
        }
    }
    (running, missing)
}

fn launch(name: &'static str, start: Start, upstreams: &Upstreams) -> Result<Proxy, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (ports, commands, version) = start(upstreams, folder.path())?;
    let mut children = Vec::new();
    for (at, mut command) in commands.into_iter().enumerate() {
        let log = std::fs::File::create(folder.path().join(format!("log-{at}")))
            .map_err(|error| error.to_string())?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        children.push(command.spawn().map_err(|error| format!("{name} does not start: {error}"))?);
    }
    Ok(Proxy { name, version, ports, children, folder })
}

fn direct(upstreams: &Upstreams, _folder: &Path) -> Started {
    Ok((upstreams.ports, Vec::new(), String::new()))
}

fn lighter(upstreams: &Upstreams, folder: &Path) -> Started {
    let ports = Ports::free();
    let resources = config::resources(upstreams.ports, "");
    let command = sidecar(folder, "out", &resources, &config::outbound(ports, free_ports()))?;
    Ok((ports, vec![command], lighter_version()?))
}

/// The caller's sidecar and the service's, as every request in a mesh passes both.
fn lighter_pair(upstreams: &Upstreams, folder: &Path) -> Started {
    let (ports, between) = (Ports::free(), Ports::free());
    let resources = config::resources(between, "");
    let near = sidecar(folder, "out", &resources, &config::outbound(ports, free_ports()))?;
    let far = sidecar(folder, "in", &resources, &config::inbound(between, upstreams.ports, free_ports()))?;
    Ok((ports, vec![near, far], String::new()))
}

fn sidecar(folder: &Path, name: &str, resources: &str, own: &str) -> Result<Command, String> {
    let resources = write(folder, &format!("{name}-resources.yaml"), resources)?;
    let own = format!("resources: [{}]\n{own}", resources.display());
    let own = write(folder, &format!("{name}.yaml"), &own)?;
    let mut command = Command::new(lighter_binary());
    command.args(["proxy", "--config"]).arg(own);
    Ok(command)
}

fn haproxy(upstreams: &Upstreams, folder: &Path) -> Started {
    let ports = Ports::free();
    let (command, version) = one_haproxy(Place::plain(ports, upstreams.ports), folder, "haproxy")?;
    Ok((ports, vec![command], version))
}

fn nginx(upstreams: &Upstreams, folder: &Path) -> Started {
    let ports = Ports::free();
    let (command, version) = one_nginx(Place::plain(ports, upstreams.ports), folder, "nginx")?;
    Ok((ports, vec![command], version))
}

fn envoy(upstreams: &Upstreams, folder: &Path) -> Started {
    let ports = Ports::free();
    let (command, version) = one_envoy(Place::plain(ports, upstreams.ports), folder, "envoy")?;
    Ok((ports, vec![command], version))
}

/// One process of HAProxy, whose files are called `name`, and its version.
fn one_haproxy(place: Place<'_>, folder: &Path, name: &str) -> Result<(Command, String), String> {
    let binary = find("HAPROXY", &["haproxy", "/usr/sbin/haproxy"])?;
    let file = write(folder, &format!("{name}.cfg"), &config::haproxy(place))?;
    let mut command = Command::new(&binary);
    command.arg("-db").arg("-f").arg(file);
    Ok((command, version(&binary, "-v", "version ")))
}

fn one_nginx(place: Place<'_>, folder: &Path, name: &str) -> Result<(Command, String), String> {
    let binary = find("NGINX", &["nginx", "/usr/sbin/nginx"])?;
    let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    if !module.exists() {
        return Err("nginx has no stream module (libnginx-mod-stream)".into());
    }
    let own = folder.join(name);
    std::fs::create_dir(&own).map_err(|error| format!("{}: {error}", own.display()))?;
    let file = write(&own, "nginx.conf", &config::nginx(place, &own, module))?;
    let mut command = Command::new(&binary);
    command.arg("-p").arg(&own).arg("-e").arg(own.join("error.log")).arg("-c").arg(file);
    Ok((command, version(&binary, "-v", "nginx/")))
}

fn one_envoy(place: Place<'_>, folder: &Path, name: &str) -> Result<(Command, String), String> {
    let binary = crate::envoy::find()?;
    let file = write(folder, &format!("{name}.yaml"), &config::envoy(place))?;
    let mut command = Command::new(&binary);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]).arg(file);
    // `version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`
    let text = version(&binary, "--version", "version: ");
    Ok((command, text.split('/').nth(1).unwrap_or_default().to_owned()))
}

fn lighter_binary() -> PathBuf {
    std::env::var_os("LIGHTER").map_or_else(|| env!("CARGO_BIN_EXE_lighter").into(), PathBuf::from)
}

fn lighter_version() -> Result<String, String> {
    let binary = lighter_binary();
    Ok(version(&binary, "version", "lighter "))
}

fn find(variable: &str, names: &[&str]) -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = names.iter().find_map(|name| {
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
    });
    found.ok_or_else(|| format!("{} is not installed", variable.to_lowercase()))
}

/// What stands behind `mark` in what the program says of itself.
fn version(binary: &Path, flag: &str, mark: &str) -> String {
    let Ok(output) = Command::new(binary).arg(flag).output() else { return String::new() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let Some((_, rest)) = text.split_once(mark) else { return String::new() };
    rest.trim_start().split(|c: char| c.is_whitespace() || c == '-').next().unwrap_or_default().to_owned()
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}
