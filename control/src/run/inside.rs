//! The process inside the application's network namespace: it makes the namespace, the rules and every socket that
//! has to belong to it, starts the application, passes signals on, and reaps whatever the application leaves behind.
//!
//! It has one thread and no runtime. It ends when the sidecar closes its channel or dies, and takes with it what is
//! left of the application.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use lighter_config::sidecar::InterceptConfig;
use lighter_proxy::intercept::{self, InterceptError, Ports};
use lighter_proxy::listeners::Kernel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use socket2::{Domain, Protocol, Socket, Type};

use super::channel::{Channel, Made, Order, Report, Wanted};
use super::namespace::{self, Namespace, NamespaceError};
use super::resolver::Cover;
use super::signals::{Mask, PASSED_ON, Signals};

/// What is made inside.
pub(super) struct Plan {
    /// The program and its arguments.
    pub(super) command: Vec<OsString>,
    /// Which rules.
    pub(super) intercept: InterceptConfig,
    /// The ports that the rules lead to.
    pub(super) ports: Ports,
    /// How many listeners for outbound connections.
    pub(super) workers: usize,
    /// The signals that the application finds held back: those that this command found so.
    pub(super) mask: Mask,
    /// How long the application may take to stop when the sidecar has died.
    pub(super) grace: Duration,
}

/// The process inside, seen from the sidecar.
pub(super) struct Inside {
    /// For orders and reports. Closing it ends the process.
    pub(super) control: Channel,
    /// For sockets.
    pub(super) sockets: Channel,
    /// Its process.
    pub(super) pid: Pid,
}

/// Starts it. The calling process must have one thread.
pub(super) fn start(plan: Plan) -> io::Result<Inside> {
    let (control, control_inside) = Channel::pair()?;
    let (sockets, sockets_inside) = Channel::pair()?;
    let sidecar = rustix::process::getpid();
    // SAFETY: this process has one thread, so no lock is held by another that would not exist in the child.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop((control, sockets));
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                run(plan, sidecar, &control_inside, sockets_inside);
            }));
            // SAFETY: ends this process without running what the parent registered for its own end.
            unsafe { libc::_exit(i32::from(ended.is_err())) }
        }
        pid => {
            let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Inside { control, sockets, pid })
        }
    }
}

fn run(plan: Plan, sidecar: Pid, control: &Channel, sockets: Channel) {
    let ready = match prepare(&plan, sidecar) {
        Ok(ready) => ready,
        Err(error) => return drop(control.send(&Report::Failed(error.to_string()), &[])),
    };
    let (namespace, signals) = match ready.hand_over(control) {
        Ok(left) => left,
        Err(error) => {
            return drop(control.send(&Report::Failed(format!("cannot hand over sockets: {error}")), &[]));
        }
    };
    let mut keeper = Keeper { plan, namespace, sidecar, app: None };
    keeper.serve(control, sockets, &signals);
    keeper.end(&signals);
}

/// Why nothing can be started inside.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Intercept(#[from] InterceptError),
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
}

struct Ready {
    namespace: Namespace,
    listeners: Vec<std::net::TcpListener>,
    dns: Vec<(std::net::UdpSocket, std::net::TcpListener)>,
    rules: OwnedFd,
    signals: Signals,
}

impl Ready {
    /// Gives the sockets to the sidecar. Copies that stayed open here would make a port look served that is not.
    fn hand_over(self, control: &Channel) -> io::Result<(Namespace, Signals)> {
        let mut descriptors: Vec<BorrowedFd<'_>> = self.listeners.iter().map(AsFd::as_fd).collect();
        descriptors.extend(self.dns.iter().flat_map(|(udp, tcp)| [udp.as_fd(), tcp.as_fd()]));
        descriptors.push(self.rules.as_fd());
        let report = Report::Ready {
            netns: self.namespace.inode,
            user_namespace: self.namespace.user,
            outbound: self.listeners.len(),
        };
        control.send(&report, &descriptors)?;
        Ok((self.namespace, self.signals))
    }
}

fn prepare(plan: &Plan, sidecar: Pid) -> Result<Ready, PrepareError> {
    let failed = |step| move |error: io::Error| PrepareError::System(step, error);
    // The end of the channel tells too, but only to a process that reads it.
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| failed("cannot watch the sidecar")(error.into()))?;
    rustix::process::set_child_subreaper(Some(sidecar))
        .map_err(|error| failed("cannot adopt orphans")(error.into()))?;
    let mut held = PASSED_ON.to_vec();
    held.push(libc::SIGCHLD);
    let (signals, _) = Signals::hold(&held).map_err(failed("cannot read signals"))?;

    // Whether there will be IPv6 is known only inside; what is covered must be known before.
    let mounts = !Cover::needed(true).is_empty() || !Cover::needed(false).is_empty();
    let namespace = namespace::enter(mounts)?;
    if mounts {
        let cover = Cover::needed(namespace.ipv6);
        cover.apply().map_err(failed("cannot lead name lookups to the sidecar"))?;
    }
    let rules = intercept::install(&plan.intercept, &plan.ports)?.into_fd();
    let listen = failed("cannot listen inside the namespace");
    let listeners = intercept::listen::outbound(plan.ports.outbound, plan.workers).map_err(listen)?;
    let dns = match plan.ports.dns {
        Some(port) => intercept::listen::dns(port).map_err(listen)?,
        None => Vec::new(),
    };
    Ok(Ready { namespace, listeners, dns, rules, signals })
}

struct Keeper {
    plan: Plan,
    namespace: Namespace,
    sidecar: Pid,
    app: Option<Pid>,
}

impl Keeper {
    /// Does as it is told until the sidecar is gone.
    fn serve(&mut self, control: &Channel, sockets: Channel, signals: &Signals) {
        // One for each sidecar.
        let mut sockets = vec![sockets];
        loop {
            let mut watched = vec![PollFd::new(control, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            watched.extend(sockets.iter().map(|channel| PollFd::new(channel, PollFlags::IN)));
            match poll(&mut watched, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            let mut has = watched.iter().map(|one| !one.revents().is_empty()).collect::<Vec<_>>().into_iter();
            let (told, signalled) = (has.next() == Some(true), has.next() == Some(true));
            if signalled && self.on_signals(control, signals) {
                return;
            }
            sockets.retain(|channel| has.next() != Some(true) || make_sockets(channel));
            if told {
                match control.receive::<Order>() {
                    Ok(Some((Order::Start, _))) => self.start(control),
                    Ok(Some((Order::Signal(number), _))) => self.pass_on(number),
                    Ok(Some((Order::Sockets, channel))) => {
                        sockets.extend(channel.into_iter().map(Channel::over))
                    }
                    Ok(None) | Err(_) => return,
                }
            }
        }
    }

    /// Takes what signals came, and says whether the sidecar has died.
    fn on_signals(&mut self, control: &Channel, signals: &Signals) -> bool {
        let mut orphaned = false;
        while let Some(signal) = signals.next() {
            // Others come to the whole process group or control group; the sidecar passes its own on.
            orphaned |= signal.number == libc::SIGTERM
                && rustix::process::getppid().is_none_or(|parent| parent != self.sidecar);
        }
        if let Some(status) = self.reap() {
            let _ = control.send(&Report::Ended(status), &[]);
        }
        orphaned
    }

    /// Starts the application in this process's place in the process group, with this command's own descriptors,
    /// directory, environment, user and signal mask.
    fn start(&mut self, control: &Channel) {
        let Some((program, arguments)) = self.plan.command.split_first() else { return };
        let mut command = Command::new(program);
        command.args(arguments);
        let (mask, allowed, user) = (self.plan.mask, self.namespace.capabilities, self.namespace.user);
        let keeper = rustix::process::getpid();
        let before_exec = move || {
            mask.restore()?;
            // If this process is killed nobody is left to reap the application, and no rule to carry it.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() != Some(keeper) {
                return Err(io::ErrorKind::NotConnected.into());
            }
            if user { namespace::bound(allowed) } else { Ok(()) }
        };
        // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
        unsafe { command.pre_exec(before_exec) };
        let report = match command.spawn() {
            // Not waited for by this handle: `reap` waits for every child.
            Ok(child) => {
                self.app = Pid::from_raw(child.id() as i32);
                Report::Started(child.id())
            }
            Err(error) => {
                let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
                Report::NotStarted(format!("{}: {error}", program.to_string_lossy()), status)
            }
        };
        let _ = control.send(&report, &[]);
    }

    fn pass_on(&self, number: i32) {
        // While the application is not reaped its number belongs to nobody else.
        if let Some((app, signal)) = self.app.zip(Signal::from_named_raw(number)) {
            let _ = rustix::process::kill_process(app, signal);
        }
    }

    /// Reaps every child that ended, and gives the application's status if it was among them.
    fn reap(&mut self) -> Option<u8> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if Some(pid) == self.app {
                self.app = None;
                ended = Some(shell_status(status));
            }
        }
        ended
    }

    /// Ends what is left: asks first, and kills what does not listen.
    fn end(mut self, signals: &Signals) {
        let patience = if self.app.is_some() { self.plan.grace } else { LEFT_BEHIND };
        let deadline = Instant::now() + patience;
        for child in children() {
            let _ = rustix::process::kill_process(child, Signal::TERM);
        }
        while Instant::now() < deadline {
            self.reap();
            if children().is_empty() {
                return;
            }
            let mut watched = [PollFd::new(signals, PollFlags::IN)];
            let left = deadline.saturating_duration_since(Instant::now()).min(Duration::from_millis(100));
            let _ = poll(&mut watched, Timespec::try_from(left).ok().as_ref());
            while signals.next().is_some() {}
        }
        // Each that is killed may leave us children of its own.
        for _ in 0..GENERATIONS {
            let left = children();
            if left.is_empty() {
                return;
            }
            for child in left {
                let _ = rustix::process::kill_process(child, Signal::KILL);
                let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
            }
        }
    }
}

/// Answers one request for sockets, and says whether more can come.
fn make_sockets(channel: &Channel) -> bool {
    let Ok(Some((wanted, _))) = channel.receive::<Wanted>() else { return false };
    let domain = if wanted.ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let kind = Type::STREAM.nonblocking().cloexec();
    let made: Result<Vec<OwnedFd>, io::Error> = match wanted.listeners {
        true => Kernel::open().map(|kernel| vec![kernel.into_fd()]),
        false => (0..wanted.count)
            .map(|_| Socket::new(domain, kind, Some(Protocol::TCP)).map(OwnedFd::from))
            .collect(),
    };
    let (answer, sockets) = match made {
        Ok(sockets) => (Made { errno: None }, sockets),
        Err(error) => (Made { errno: Some(error.raw_os_error().unwrap_or(libc::EIO)) }, Vec::new()),
    };
    let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    channel.send(&answer, &descriptors).is_ok()
}

/// The status by which a shell tells how a process ended.
fn shell_status(status: WaitStatus) -> u8 {
    let status = status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0));
    // A process's status has eight bits, and a signal's number seven.
    status as u8
}

/// Children of this process, ended or not.
fn children() -> Vec<Pid> {
    let own = rustix::process::getpid();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let process = |entry: io::Result<std::fs::DirEntry>| {
        let pid = Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?)?;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
        // After the name, which may contain anything: state, parent.
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        (Pid::from_raw(parent)? == own).then_some(pid)
    };
    entries.filter_map(process).collect()
}

/// For what the application left running when it ended.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// More than any sane tree of processes is deep.
const GENERATIONS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_and_others_are_not() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        assert!(children().contains(&pid));
        assert!(!children().contains(&rustix::process::getpid()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children().contains(&pid));
    }
}
