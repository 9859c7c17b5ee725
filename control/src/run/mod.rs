//! `lighter run`: an unchanged program with a sidecar beside it on a plain host.
//!
//! Three processes: this one is the sidecar, until [another](successor) takes its place, and stays in the host's network
//! namespace, where it dials other workloads and is dialled by them. One is inside the program's own network namespace
//! and makes there what has to belong to it ([`inside`]). The third is the program. It keeps its user, directory,
//! environment, descriptors, arguments and process group; what it can notice is:
//!
//! * its network namespace: one interface, and every connection is redirected; no abstract Unix sockets of the host;
//! * without privileges, a user namespace in which only its own user and group have names, so that set-user-ID
//!   programs (`sudo`, `ping`) gain nothing;
//! * on hosts with systemd-resolved or nscd, a mount namespace in which their sockets are covered, because they would
//!   answer lookups that have to become DNS queries;
//! * its parent, and that it is killed when its parent is.

mod channel;
mod inside;
mod join;
mod life;
pub(crate) mod namespace;
mod options;
mod resolver;
mod sidecar;
mod signals;
mod sockets;
mod status;
mod successor;
mod supervisor;

pub use namespace::WORKLOAD;
pub use options::Args;

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use lighter_config::sidecar::InterceptConfig;
use lighter_proxy::dial::Here;
use lighter_proxy::intercept::{self, Installed, InterceptError, Ports};
use lighter_proxy::telemetry::logging;
use lighter_proxy::worker::Sockets;
use miette::IntoDiagnostic;
use rustix::process::WaitOptions;

use crate::exit::Exit;

use channel::{Channel, Report};
use inside::{Inside, Plan};
use life::{Life, Sidecars};
use options::Options;
use sidecar::Sidecar;
use signals::{PASSED_ON, Signals};
use status::Status;
use successor::Heritage;
use supervisor::Supervisor;

/// Runs the program until it ends. Must be called while this process has one thread.
pub fn execute(args: Args) -> miette::Result<Exit> {
    // Standard error is the program's: little is said there.
    logging::install("warn", false).into_diagnostic()?;
    if args.successor {
        return successor::serve(args).into_diagnostic().map(|()| Exit::Ok);
    }
    let options = match Options::from(args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("lighter run: {error}");
            return Ok(Exit::Usage);
        }
    };
    Ok(match run(options) {
        Ok(status) => Exit::Status(status),
        Err(error) => {
            eprintln!("lighter run: {error}");
            Exit::Internal
        }
    })
}

/// Why the program was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
enum RunError {
    /// The process inside could not do its part.
    #[error("{0}")]
    Inside(String),
    /// It is gone.
    #[error("the process inside the namespace has died")]
    InsideGone,
    /// A socket of the sidecar's own.
    #[error("cannot listen on {address}: {source}")]
    Listen { address: std::net::SocketAddr, source: io::Error },
    /// A call that does not fail on a healthy system.
    #[error("{0}")]
    System(#[from] io::Error),
}

fn run(options: Options) -> Result<u8, RunError> {
    let Options { mut config, command, grace, status_file } = options;
    let (signals, mask) = Signals::hold(&PASSED_ON)?;
    let intercept = config.intercept.take().unwrap_or_default();
    // There is no way into the namespace but by the sidecar, and none out of it.
    let intercept = inside_intercept(intercept);
    let ports = Ports { dns: intercept.dns.then_some(intercept::nft::DNS_PORT), ..Ports::of(&config) };
    let workers = config.workers.max(1);
    let plan = Plan { command, intercept: intercept.clone(), ports, workers, mask, grace };
    let inside = inside::start(plan)?;
    let made = Made::receive(&inside.control)?;
    let mut status = Status::new(status_file, &made, inside.pid);

    let admin = listen(config.admin)?;
    status.admin = Some(admin.local_addr()?);
    config.admin = admin.local_addr()?;
    status.listen = config.inbound.iter().map(|inbound| inbound.listen).collect();
    status.service = config.service.clone();
    let Inside { control, sockets, pid } = inside;
    let inside_sockets = Arc::new(sockets::Inside::new(sockets, pid)?);
    let heritage = Heritage { inside: pid, admin: config.admin, rules: made.rules.try_clone()? };
    let rules = Installed::from_fd(made.rules)?;
    let dials = inside_sockets.clone();
    let sockets = Sockets {
        outbound: made.outbound,
        dns: made.dns,
        admin: Some(admin),
        rules: Some(rules),
        ..Sockets::default()
    };
    let sidecar =
        Sidecar::on_thread(move |hooks| hooks.start(config, sockets, Arc::new(Here::default()), dials))?;
    let counters = Installed::from_fd(heritage.rules.try_clone()?)?;
    let life = Life {
        control,
        signals,
        heritage,
        status: &mut status,
        supervisor: Supervisor::new(grace),
        sidecars: Sidecars::new(sidecar),
        probe: Some(Box::new(move || probe(&intercept, &inside_sockets))),
        inside_gone: false,
    };
    let ended = life.live();
    status.rules = counters.counters().unwrap_or_default();
    status.ended(ended.as_ref().ok().copied());
    // Its channel is closed by now: it takes what is left of the application with it.
    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
    ended
}

/// Proves that a connection made inside arrives at the sidecar.
fn probe(intercept: &InterceptConfig, inside: &sockets::Inside) -> Result<(), InterceptError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(intercept::probe::run(intercept, |address| inside.take(address, FIRST_SOCKET)))
}

fn inside_intercept(configured: InterceptConfig) -> InterceptConfig {
    let mut exclude_cidrs = configured.exclude_cidrs;
    // What the application says to itself, and what the sidecar says to it.
    exclude_cidrs.extend(WORKLOAD.map(|address| (address, if address.is_ipv4() { 32 } else { 128 })));
    InterceptConfig { outbound: true, inbound: false, exclude_cidrs, ..configured }
}

fn listen(address: std::net::SocketAddr) -> Result<TcpListener, RunError> {
    intercept::listen::tcp(address).map_err(|source| RunError::Listen { address, source })
}

/// Longest wait for the very first socket made inside, which proves that any can be.
const FIRST_SOCKET: Duration = Duration::from_secs(10);

/// What the process inside handed over.
struct Made {
    netns: u64,
    user_namespace: bool,
    outbound: Vec<TcpListener>,
    dns: Vec<(UdpSocket, TcpListener)>,
    rules: OwnedFd,
}

impl Made {
    fn receive(control: &Channel) -> Result<Self, RunError> {
        let (report, mut descriptors) = control.receive::<Report>()?.ok_or(RunError::InsideGone)?;
        let (netns, user_namespace, outbound) = match report {
            Report::Ready { netns, user_namespace, outbound } => (netns, user_namespace, outbound),
            Report::Failed(reason) => return Err(RunError::Inside(reason)),
            other => return Err(RunError::Inside(format!("{other:?} before anything was made"))),
        };
        let missing = || RunError::Inside("a socket is missing".into());
        let rules = descriptors.pop().ok_or_else(missing)?;
        if descriptors.len() < outbound {
            return Err(missing());
        }
        let mut pairs = descriptors.split_off(outbound).into_iter();
        let outbound = descriptors.into_iter().map(TcpListener::from).collect();
        let mut dns = Vec::new();
        while let (Some(udp), Some(tcp)) = (pairs.next(), pairs.next()) {
            dns.push((udp.into(), tcp.into()));
        }
        Ok(Made { netns, user_namespace, outbound, dns, rules })
    }
}
