//! What this machine can do for Lighter, found out by trying.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use lighter_config::sidecar::InterceptConfig;
use lighter_proxy::intercept;
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;
use rustix::process::Resource;
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::output;

/// Something that this machine has or lacks.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What was looked for.
    pub name: &'static str,
    /// Whether it is there.
    pub ok: bool,
    /// Whether Lighter misses something without it. Otherwise it only goes another way.
    pub needed: bool,
    /// What was found, or why it is missing.
    pub detail: String,
    /// What to do where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<&'static str>,
}

/// Everything that was looked for.
pub fn findings() -> Vec<Finding> {
    let trial = Trial::run();
    vec![
        kernel(),
        Finding::new("network namespaces", trial.network_namespace, "a new one can be made", FIX_NETWORK),
        Finding::new("user namespaces", trial.user_namespace, "a new one can be made", FIX_USER),
        Finding::new("nf_tables", trial.nf_tables, "rules can be set in a new namespace", FIX_TABLES),
        Finding::new("splice", splice(), "bytes pass between sockets inside the kernel", FIX_SPLICE),
        descriptors(),
        super::rdma::finding(),
    ]
}

/// Whether `lighter run` can set a program apart on this machine, or why not.
pub fn isolation() -> Result<(), String> {
    let trial = Trial::run();
    trial
        .network_namespace
        .map_err(|reason| format!("no network namespace can be made: {reason}; {FIX_NETWORK}"))?;
    trial.nf_tables.map_err(|reason| format!("nf_tables: {reason}; {FIX_TABLES}"))
}

/// The hidden command that tries things out.
pub const TRY_OUT: &str = "__try-out";

/// What it does: it makes what the process then ends with.
pub fn try_out() -> miette::Result<Exit> {
    output::line(serde_json::to_string(&Trial::here()).unwrap_or_default())?;
    Ok(Exit::Ok)
}

const FIX_NETWORK: &str = "run as root, or allow user namespaces";
const FIX_USER: &str = "set user.max_user_namespaces above 0 and, where they exist, kernel.unprivileged_userns_clone=1 \
                        and kernel.apparmor_restrict_unprivileged_userns=0; or run as root";
const FIX_TABLES: &str = "load or build in nf_tables, nft_chain_nat and nft_redir; without them use explicit listeners \
                          or the CONNECT port";
const FIX_SPLICE: &str = "allow the splice system call in the sandbox; without it bytes are copied";
const FIX_KERNEL: &str = "use Linux 5.10 or newer";
const FIX_DESCRIPTORS: &str = "raise the hard limit (ulimit -Hn, LimitNOFILE=); two descriptors are needed for each \
                               connection";

/// NAT in nf_tables' family inet came with 5.2. This is the oldest kernel that has it and is still looked after.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Far more than the loopback takes on a busy machine.
const LOOPBACK_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A hard limit below this is too low for a sidecar under load.
const FEWEST_DESCRIPTORS: u64 = 4096;

impl Finding {
    fn new(name: &'static str, tried: Result<(), String>, good: &str, fix: &'static str) -> Self {
        match tried {
            Ok(()) => Finding { name, ok: true, needed: true, detail: good.to_owned(), fix: None },
            Err(reason) => Finding { name, ok: false, needed: true, detail: reason, fix: Some(fix) },
        }
    }

    /// Something that makes Lighter faster where it is there, and that nobody misses elsewhere.
    pub(super) fn optional(name: &'static str, tried: Result<String, String>, fix: &'static str) -> Self {
        let (ok, detail) = match tried {
            Ok(found) => (true, found),
            Err(reason) => (false, reason),
        };
        Finding { name, ok, needed: false, detail, fix: (!ok).then_some(fix) }
    }
}

impl std::fmt::Display for Finding {
    /// `ok       name: detail`, and below it what to do.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = match (self.ok, self.needed) {
            (true, _) => "ok",
            (false, true) => "missing",
            (false, false) => "absent",
        };
        write!(f, "{status:8} {}: {}", self.name, self.detail)?;
        match self.fix {
            Some(fix) => write!(f, "\n         to do: {fix}"),
            None => Ok(()),
        }
    }
}

/// What can be made in namespaces. Tried in a process of its own, because one with threads cannot leave its user
/// namespace, and because what it makes ends with it.
#[derive(Debug, Serialize, Deserialize)]
struct Trial {
    network_namespace: Result<(), String>,
    user_namespace: Result<(), String>,
    nf_tables: Result<(), String>,
}

impl Trial {
    /// Tries in a child.
    fn run() -> Self {
        Self::in_child().unwrap_or_else(|error| {
            let failed = Err(format!("cannot try: {error}"));
            Trial { network_namespace: failed.clone(), user_namespace: failed.clone(), nf_tables: failed }
        })
    }

    fn in_child() -> io::Result<Self> {
        let output = Command::new(std::env::current_exe()?)
            .arg(TRY_OUT)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Tries in this process, which has one thread and does nothing else.
    fn here() -> Self {
        // A privileged process needs no user namespace for a network namespace: that is tried first, and its rules
        // before it gives up its privileges over it.
        let network_namespace = unshare(UnshareFlags::NEWNET);
        let nf_tables = network_namespace.clone().and_then(|()| set_rules());
        let user_namespace = unshare(UnshareFlags::NEWUSER);
        if network_namespace.is_ok() {
            return Trial { network_namespace, user_namespace, nf_tables };
        }
        let network_namespace = user_namespace.clone().and_then(|()| unshare(UnshareFlags::NEWNET));
        let nf_tables = network_namespace.clone().and_then(|()| set_rules());
        Trial { network_namespace, user_namespace, nf_tables }
    }
}

fn unshare(namespaces: UnshareFlags) -> Result<(), String> {
    // SAFETY: descriptors stay shared, so none of this process becomes invalid.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.map_err(|error| match error {
        Errno::NOSPC => "the limit of namespaces is reached (sysctl user.max_*_namespaces)".to_owned(),
        Errno::INVAL => "the kernel does not have them".to_owned(),
        other => io::Error::from(other).to_string(),
    })
}

/// Sets the rules of interception in this process's own network namespace, and takes them away.
fn set_rules() -> Result<(), String> {
    let config = InterceptConfig::default();
    let ports = intercept::Ports { outbound: 15001, inbound: 15006, dns: Some(15053), own: Vec::new() };
    let rules = intercept::install(&config, &ports).map_err(|error| error.to_string())?;
    rules.counters().map_err(|error| error.to_string())?;
    rules.remove().map_err(|error| error.to_string())
}

fn kernel() -> Finding {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let machine = uname.machine().to_string_lossy();
    let new_enough = version(&release).is_some_and(|version| version >= OLDEST_KERNEL);
    Finding {
        name: "kernel",
        ok: new_enough,
        needed: true,
        detail: format!("Linux {release} on {machine}"),
        fix: (!new_enough).then_some(FIX_KERNEL),
    }
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Passes a few bytes from one socket to another through a pipe.
fn splice() -> Result<(), String> {
    const BYTES: &[u8] = b"lighter";
    let pass = || -> io::Result<bool> {
        let (mut before, input) = connected()?;
        let (output, mut after) = connected()?;
        let (pipe_out, pipe_in) = rustix::pipe::pipe()?;
        before.write_all(BYTES)?;
        let none = SpliceFlags::empty();
        let taken = rustix::pipe::splice(&input, None, &pipe_in, None, BYTES.len(), none)?;
        let given = rustix::pipe::splice(&pipe_out, None, &output, None, taken, none)?;
        let mut received = vec![0; given];
        after.read_exact(&mut received)?;
        Ok(received == BYTES)
    };
    match pass() {
        Ok(true) => Ok(()),
        Ok(false) => Err("other bytes arrived than were sent".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Two ends of a connection over the loopback. Where that is down nobody answers, for minutes.
fn connected() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect_timeout(&listener.local_addr()?, LOOPBACK_ANSWERS_WITHIN)?;
    Ok((near, listener.accept()?.0))
}

fn descriptors() -> Finding {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // No limit at all is more than enough.
    let enough = limit.maximum.is_none_or(|hard| hard >= FEWEST_DESCRIPTORS);
    let number = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    Finding {
        name: "descriptors",
        ok: enough,
        needed: true,
        detail: format!(
            "{} at first, raised at start to at most {}",
            number(limit.current),
            number(limit.maximum)
        ),
        fix: (!enough).then_some(FIX_DESCRIPTORS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert!(version("5.9.1") < Some(OLDEST_KERNEL));
        assert_eq!(version("odd"), None);
    }

    #[test]
    fn what_is_missing_comes_with_something_to_do() {
        let finding = Finding::new("splice", Err("Operation not permitted".into()), "good", FIX_SPLICE);
        let text = finding.to_string();
        assert!(text.starts_with("missing  splice: Operation not permitted\n"), "{text}");
        assert!(text.contains("to do: allow the splice"), "{text}");
    }

    #[test]
    fn bytes_pass_between_sockets() {
        assert_eq!(splice(), Ok(()));
    }
}
