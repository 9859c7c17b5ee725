//! Where the processor time of a pair goes: the system calls of a request, and in what code its time is spent.
//!
//! The calls are counted by strace, which slows everything down, so that more comes at once than otherwise; the time is
//! sampled by perf while nothing else looks.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::measure::Sample;
use crate::proxies::Proxy;
use crate::{Scenario, warm_up};

/// What one unit of a load costs with one proxy.
pub struct Profile {
    /// Calls of each name.
    calls: BTreeMap<String, f64>,
    /// Microseconds in each of [`GROUPS`].
    times: Vec<f64>,
}

/// Measures `proxy` under a load twice, for as long as `time` each.
pub fn take(scenario: Scenario, proxy: &Proxy, time: Duration) -> Profile {
    warm_up(scenario, proxy, time / 5);
    let folder = tempfile::tempdir().expect("a folder for what strace and perf write");
    let pids: Vec<String> = proxy.pids().map(|pid| pid.to_string()).collect();

    let counted = folder.path().join("calls");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&counted);
    strace.args(pids.iter().flat_map(|pid| ["-p", pid]));
    let watcher = watch(&mut strace);
    let units = scenario.load(proxy, time).units;
    end(watcher);

    let sampled = folder.path().join("samples");
    let mut perf = Command::new("perf");
    perf.args(["record", "-q", "-e", "cpu-clock", "-F", "2000", "-p", &pids.join(","), "-o"]).arg(&sampled);
    let watcher = watch(&mut perf);
    let before = proxy.cpu();
    let load = scenario.load(proxy, time);
    let cpu = Sample::new(load, before, proxy.cpu()).cpu;
    end(watcher);

    let shares = shares(&sampled);
    let calls = std::fs::read_to_string(counted).unwrap_or_default();
    Profile {
        calls: calls_in(&calls).map(|(name, count)| (name, count / units.max(1.0))).collect(),
        times: shares.iter().map(|share| share * cpu).collect(),
    }
}

/// A table of what was found, one column a proxy.
pub fn table(scenario: Scenario, found: &[(&str, Profile)]) -> String {
    let (heads, lines): (String, String) =
        found.iter().map(|(name, _)| (format!(" {name} |"), "--:|")).unzip();
    let mut text = format!("\n**{}**\n\n| |{heads}\n|---|{lines}", scenario.title());
    let mut row = |name: &str, number: &dyn Fn(&Profile) -> f64| {
        let numbers: Vec<f64> = found.iter().map(|(_, profile)| number(profile)).collect();
        if numbers.iter().any(|number| *number >= 0.05) {
            let cells: String = numbers.iter().map(|number| format!(" {number:.2} |")).collect();
            let _ = write!(text, "\n| {name} |{cells}");
        }
    };
    let names: std::collections::BTreeSet<&String> =
        found.iter().flat_map(|(_, profile)| profile.calls.keys()).collect();
    for name in names {
        row(&format!("`{name}`, calls"), &|profile| profile.calls.get(name).copied().unwrap_or(0.0));
    }
    for (at, (name, _)) in GROUPS.iter().enumerate() {
        row(&format!("{name}, µs"), &|profile| profile.times[at]);
    }
    row("all, µs", &|profile| profile.times.iter().sum());
    text + "\n"
}

fn watch(command: &mut Command) -> Child {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    // Until it is attached.
    std::thread::sleep(Duration::from_millis(300));
    child
}

fn end(mut watcher: Child) {
    let pid = Pid::from_raw(watcher.id() as i32).expect("a process has a number");
    kill_process(pid, Signal::INT).expect("it runs");
    watcher.wait().expect("it ends");
}

/// Lines of a count and a name, between lines of other kinds.
fn calls_in(text: &str) -> impl Iterator<Item = (String, f64)> {
    text.lines().filter_map(|line| {
        let (count, name) = line.trim().split_once(char::is_whitespace)?;
        Some((name.trim().to_owned(), count.parse().ok()?)).filter(|(name, _)| name != "total")
    })
}

/// What share of the samples each of the groups has.
fn shares(samples: &Path) -> Vec<f64> {
    let mut perf = Command::new("perf");
    perf.args(["report", "--no-children", "--sort", "sym", "--percent-limit", "0", "-i"]).arg(samples);
    let output = perf.output().expect("perf is there");
    let mut shares = vec![0.0; GROUPS.len()];
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some((share, symbol)) = line.trim().split_once('%') else { continue };
        let (Ok(share), Some((side, name))) = (share.parse::<f64>(), symbol.trim().split_once(' ')) else {
            continue;
        };
        let kernel = side == "[k]";
        let of = |(group, marks): &(&str, &[&str])| {
            group.starts_with("kernel") == kernel && marks.iter().any(|mark| name.contains(mark))
        };
        let at = GROUPS.iter().position(of).expect("the last of each side takes all");
        shares[at] += share / 100.0;
    }
    shares
}

/// What a sample's function belongs to: the first of its side one of whose marks is in its name.
const GROUPS: [(&str, &[&str]); 7] = [
    ("user: sealing and opening", &["aes", "gcm", "aead"]),
    ("user: copies of memory", &["memmove", "memcpy", "memset"]),
    ("user: all else", &[""]),
    ("kernel: copies", &["_copy_to_iter", "_copy_from_iter", "copy_user"]),
    // On a virtual processor a wake costs where interrupts are let in again.
    (
        "kernel: wakes and switches",
        &["spin_unlock_irq", "finish_task_switch", "try_to_wake", "schedule", "default_wake"],
    ),
    (
        "kernel: TCP and interrupts behind it",
        &["tcp", "ip_", "skb", "softirq", "dev_", "inet", "sock_def", "netif", "loopback"],
    ),
    ("kernel: all else", &[""]),
];
