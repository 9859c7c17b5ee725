//! The command line of `lighter run`, made into a sidecar's configuration.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lighter_config::sidecar::{InboundConfig, SidecarConfig};
use lighter_config::snapshot::Protocol;

use super::join::Join;
use super::namespace::WORKLOAD;

/// Run an unchanged program with a sidecar beside it.
///
/// The program has a network namespace of its own. Names of Services resolve to virtual addresses, every TCP
/// connection that it makes goes through the sidecar, and callers reach it through the sidecar. It must listen on
/// all addresses (0.0.0.0 or ::), not on 127.0.0.1 alone: that is nobody's but its own. Needs root or user
/// namespaces.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The Service that the program is an instance of; without it, it only calls others
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// The namespace of short names
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// A port on which the program listens; may be given again
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u16>,
    /// Where callers reach that port on this host, for each --port in turn [default: 0.0.0.0:PORT]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<SocketAddr>,
    /// Where the sidecars of callers open links on this host, if they are to: many requests over one connection
    #[arg(long, value_name = "ADDRESS")]
    link: Option<SocketAddr>,
    /// A file or folder with resources; may be given again
    #[arg(long, value_name = "PATH")]
    resources: Vec<PathBuf>,
    #[command(flatten)]
    join: Join,
    /// The sidecar's own file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Admin and metrics [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Worker threads [default: one per two cores]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=100))]
    workers: Option<u16>,
    /// Longest drain after SIGTERM, as in 30s [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    drain_deadline: Option<Duration>,
    /// How long the program may take to stop before it is killed
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    stop_grace: Duration,
    /// Write facts about this run as JSON
    #[arg(long, value_name = "FILE", hide = true)]
    status_file: Option<PathBuf>,
    /// Take over from a sidecar of this command, which is at the other end of standard input
    #[arg(long, hide = true)]
    pub(super) successor: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What the command line means.
pub(super) struct Options {
    pub(super) config: SidecarConfig,
    pub(super) command: Vec<OsString>,
    pub(super) grace: Duration,
    pub(super) status_file: Option<PathBuf>,
}

impl Options {
    /// Fails with what to do about it.
    pub(super) fn from(args: Args) -> Result<Self, String> {
        // Several runs on one host must not meet on one port.
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let usual = SidecarConfig { admin: free, ..SidecarConfig::default() };
        let mut config = match &args.config {
            Some(file) => SidecarConfig::read_or(file, usual).map_err(|errors| errors.to_string())?,
            None => usual,
        };
        if let Some(file) = &args.config {
            out_of_reach(&config).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        config.inbound.extend(inbound(&args.ports, &args.listen)?);
        config.link = args.link.or(config.link);
        config.service = args.service.or(config.service);
        config.namespace = args.namespace.unwrap_or(config.namespace);
        config.resources.extend(args.resources);
        args.join.apply(&mut config)?;
        config.admin = args.admin.unwrap_or(config.admin);
        config.workers = args.workers.map_or(config.workers, usize::from);
        config.drain_deadline = args.drain_deadline.unwrap_or(config.drain_deadline);
        if config.service.is_none() && !config.inbound.is_empty() {
            return Err("--port needs --service: callers know the program by its Service".into());
        }
        Ok(Options { config, command: args.command, grace: args.stop_grace, status_file: args.status_file })
    }
}

/// Refuses what the sidecar would open on the host for its program, which is not there.
fn out_of_reach(config: &SidecarConfig) -> Result<(), String> {
    let field = match config {
        SidecarConfig { listeners, .. } if !listeners.is_empty() => "listeners",
        SidecarConfig { connect: Some(_), .. } => "connect",
        SidecarConfig { handover: Some(_), .. } => {
            return Err("`handover` is of no use in `lighter run`, which hands over by itself: POST /handover to the admin port".into());
        }
        SidecarConfig { device: Some(_), .. } => {
            return Err("`device` is of no use in `lighter run`, whose service is the program: `lighter proxy` runs functions".into());
        }
        _ => return Ok(()),
    };
    Err(format!(
        "`{field}` is of no use in `lighter run`: it would listen on this host, and the program has a network of its own; \
         whatever the program connects to goes through the sidecar without it"
    ))
}

fn inbound(ports: &[u16], listen: &[SocketAddr]) -> Result<Vec<InboundConfig>, String> {
    if listen.len() > ports.len() {
        return Err(format!("{} --listen for {} --port", listen.len(), ports.len()));
    }
    let listen = listen.iter().copied().map(Some).chain(std::iter::repeat(None));
    let inbound = ports.iter().zip(listen).map(|(port, listen)| InboundConfig {
        listen: listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port))),
        app: SocketAddr::new(WORKLOAD[0], *port),
        port: None,
        protocol: Protocol::Auto,
    });
    Ok(inbound.collect())
}

/// `500ms`, `30s`, `2m`, `1h`; a day at most.
fn duration(text: &str) -> Result<Duration, String> {
    let form = || "a number and ms, s, m or h, as in 30s".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if digits == 0 {
        return Err(form());
    }
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        _ => return Err(form()),
    };
    // Digits that are no number are too many.
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match millis.map(Duration::from_millis) {
        Some(time) if time <= LONGEST => Ok(time),
        _ => Err("a day (24h) is the most".into()),
    }
}

/// Nobody waits longer on purpose.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// What a command line with these options means, and `--config` with a file of this text.
    fn from(text: Option<&str>, more: &[&str]) -> Result<Options, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sidecar.yaml");
        let mut line = vec!["run"];
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
            line.extend(["--config", file.to_str().unwrap()]);
        }
        line.extend(more);
        line.extend(["--", "true"]);
        Options::from(<Line as clap::Parser>::parse_from(line).args)
    }

    #[test]
    fn each_port_has_its_listener() {
        let listen = ["127.0.0.1:9101".parse().unwrap()];
        let inbound = inbound(&[80, 81], &listen).unwrap();
        assert_eq!(inbound[0].listen, listen[0]);
        assert_eq!(inbound[1].listen, "0.0.0.0:81".parse().unwrap());
        assert_eq!(inbound[1].app, "198.18.0.1:81".parse().unwrap());
        assert!(super::inbound(&[], &listen).is_err());
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("30").is_err() && duration("s").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn a_time_is_a_day_at_most() {
        assert_eq!(duration("24h"), Ok(LONGEST));
        for long in
            ["25h", "86400001ms", "18446744073709551615s", "5124095576030432h", "99999999999999999999s"]
        {
            assert!(duration(long).is_err(), "{long}");
        }
    }

    #[test]
    fn what_the_program_could_not_reach_is_refused_by_name() {
        for (field, text) in [
            ("listeners", "listeners: [{listen: '127.0.0.1:81', service: a}]\n"),
            ("connect", "connect: 127.0.0.1:15080\n"),
        ] {
            let error = from(Some(text), &[]).err().unwrap();
            assert!(error.contains(&format!("`{field}`")) && error.contains("sidecar.yaml"), "{error}");
        }
        assert!(from(Some("probe: 127.0.0.1:15021\n"), &[]).is_ok(), "a kubelet is on the host");
    }

    #[test]
    fn admin_takes_a_free_port_unless_told_otherwise() {
        let admin = |text, more: &[&str]| from(text, more).unwrap().config.admin.to_string();
        assert_eq!(admin(None, &[]), "127.0.0.1:0");
        assert_eq!(admin(Some("workers: 1\n"), &[]), "127.0.0.1:0");
        assert_eq!(admin(Some(""), &[]), "127.0.0.1:0");
        assert_eq!(admin(Some("admin: 127.0.0.1:15000\n"), &[]), "127.0.0.1:15000");
        assert_eq!(admin(Some("admin: 127.0.0.1:15000\n"), &["--admin", "127.0.0.1:7"]), "127.0.0.1:7");
    }
}
