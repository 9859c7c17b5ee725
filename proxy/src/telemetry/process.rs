//! What the system knows of this process: read from /proc at a scrape.

use std::fs;

use super::exposition::{Exposition, Family, Kind, Unit};

/// What was found. A field that could not be read is not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// User CPU time in seconds.
    pub(super) user_seconds: Option<f64>,
    /// System CPU time in seconds.
    pub(super) system_seconds: Option<f64>,
    /// Resident memory in bytes.
    pub(super) resident_bytes: Option<u64>,
    /// Virtual memory in bytes.
    pub(super) virtual_bytes: Option<u64>,
    /// Threads.
    pub(super) threads: Option<u64>,
    /// Open file descriptors.
    pub(super) open_fds: Option<u64>,
    /// The soft limit on them.
    pub(super) max_fds: Option<u64>,
    /// When it started, in seconds since 1970.
    pub(super) start_seconds: Option<f64>,
}

impl Process {
    /// Looks now.
    pub(super) fn read() -> Self {
        let mut process = Process::default();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as u64;
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
            process.user_seconds = Some(stat.user as f64 / ticks);
            process.system_seconds = Some(stat.system as f64 / ticks);
            process.threads = Some(stat.threads);
            process.virtual_bytes = Some(stat.virtual_bytes);
            process.resident_bytes = Some(stat.resident_pages * page);
            process.start_seconds = boot_time().map(|boot| boot + stat.start as f64 / ticks);
        }
        // The folder's own descriptor, open while it is read, does not count.
        process.open_fds =
            fs::read_dir("/proc/self/fd").ok().map(|fds| (fds.count() as u64).saturating_sub(1));
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        process.max_fds = Some(limit.current.unwrap_or(u64::MAX));
        process
    }
}

/// CPU time of this process so far, user and system; 0 if the system does not say.
pub fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse);
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    stat.map_or(0.0, |stat| (stat.user + stat.system) as f64 / ticks)
}

pub(super) fn collect(out: &mut Exposition) {
    let process = Process::read();
    if let (Some(user), Some(system)) = (process.user_seconds, process.system_seconds) {
        out.sample(&CPU, "", user + system);
        out.sample(&CPU_MODE, "mode=\"user\"", user);
        out.sample(&CPU_MODE, "mode=\"system\"", system);
    }
    for (family, value) in [
        (&RESIDENT, process.resident_bytes),
        (&VIRTUAL, process.virtual_bytes),
        (&THREADS, process.threads),
        (&OPEN_FDS, process.open_fds),
        (&MAX_FDS, process.max_fds),
    ] {
        if let Some(value) = value {
            out.sample(family, "", value);
        }
    }
    if let Some(start) = process.start_seconds {
        out.sample(&START, "", start);
    }
}

/// Some fields of /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug, PartialEq)]
struct Stat {
    user: u64,
    system: u64,
    threads: u64,
    start: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name, in parentheses, may itself hold spaces and parentheses. What follows is field 3 and on.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Stat {
            user: field(14)?,
            system: field(15)?,
            threads: field(20)?,
            start: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// When the machine started, in seconds since 1970.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

static CPU: Family = Family::new(
    Kind::Counter,
    Unit::Seconds,
    "process_cpu_seconds",
    "CPU time of this process, user and system.",
);
static CPU_MODE: Family = Family::new(
    Kind::Counter,
    Unit::Seconds,
    "lighter_process_cpu_seconds",
    "CPU time of this process by mode.",
);
static RESIDENT: Family =
    Family::new(Kind::Gauge, Unit::Bytes, "process_resident_memory_bytes", "Resident memory.");
static VIRTUAL: Family =
    Family::new(Kind::Gauge, Unit::Bytes, "process_virtual_memory_bytes", "Virtual memory.");
static THREADS: Family = Family::new(Kind::Gauge, Unit::None, "process_threads", "Threads.");
static OPEN_FDS: Family = Family::new(Kind::Gauge, Unit::None, "process_open_fds", "Open file descriptors.");
static MAX_FDS: Family =
    Family::new(Kind::Gauge, Unit::None, "process_max_fds", "Soft limit on open file descriptors.");
static START: Family = Family::new(
    Kind::Gauge,
    Unit::Seconds,
    "process_start_time_seconds",
    "When this process started, since 1970.",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194304 1 0 0 0 7 8 0 0 20 0 3 0 900 4096000 250 1 2 3";
        let stat = Stat {
            user: 7,
            system: 8,
            threads: 3,
            start: 900,
            virtual_bytes: 4_096_000,
            resident_pages: 250,
        };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse("42 (x"), None);
    }

    #[test]
    fn this_process_is_found() {
        let process = Process::read();
        assert!(process.resident_bytes.unwrap() > 100_000);
        assert!(process.threads.unwrap() >= 1);
        assert!(process.open_fds.unwrap() >= 3);
        assert!(process.start_seconds.unwrap() > 1e9);
    }
}
