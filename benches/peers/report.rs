//! The numbers as Markdown and JSON.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::measure::{Memory, Sample};
use crate::moving::Changes;
use crate::options::Options;
use crate::proxies::Proxy;
use crate::wires::{ENOUGH, Share};
use crate::{Part, Scenario};

/// Everything that one run found.
pub struct Report<'a> {
    pub options: &'a Options,
    pub part: Part,
    pub proxies: Vec<Proxy>,
    /// By scenario and proxy, one of each round.
    pub samples: Vec<Vec<Vec<Sample>>>,
    /// The same of what went over the wires that pairs are named after; nothing for others.
    pub shares: Vec<Vec<Vec<Share>>>,
    /// What requests met while a link changed its wire.
    pub changes: Option<Changes>,
    pub memory: Vec<Memory>,
    /// Of the streams that were opened while links over QUIC were measured: those that went by them, and all.
    pub quic_streams: [f64; 2],
    /// Why somebody takes no part.
    pub missing: Vec<String>,
}

impl Report<'_> {
    /// One table a scenario, and one for memory. Processor time is the proxies' alone.
    pub fn markdown(&self) -> String {
        let (who, own) = match self.part {
            Part::Plain => ("One worker each", "CPU is the proxy's own."),
            Part::Mtls => ("Pairs with mTLS between them, one worker each", "CPU is that of both together."),
            Part::Links => {
                ("Pairs with a link between them, one worker each", "CPU is that of both together.")
            }
        };
        let mut text = format!(
            "{who}, {} rounds of {} s in turns, medians. {own}\n",
            self.options.rounds,
            self.options.time.as_secs_f64()
        );
        for ((scenario, row), shares) in
            self.options.scenarios_of(self.part).zip(&self.samples).zip(&self.shares)
        {
            self.table(&mut text, scenario, row);
            self.wires(&mut text, shares);
        }
        text += &self.changes.as_ref().map(Changes::markdown).unwrap_or_default();
        let _ = write!(
            text,
            "\n**Resident memory**\n\n| | idle MiB | KiB per idle connection ({}) |\n|---|--:|--:|\n",
            self.options.idle
        );
        for (proxy, memory) in self.proxies.iter().zip(&self.memory).filter(|(proxy, _)| !proxy.is_direct()) {
            let _ = writeln!(
                text,
                "| {} | {:.1} | {:.2} |",
                proxy.title(),
                memory.idle / 1024.0,
                memory.per_connection
            );
        }
        let [quic, all] = self.quic_streams;
        if all > 0.0 {
            let share = quic / all * 100.0;
            let _ =
                write!(text, "\nOf what {} was asked, {share:.1} % went over QUIC.\n", crate::proxies::QUIC);
        }
        for reason in &self.missing {
            let _ = write!(text, "\nLeft out: {reason}.\n");
        }
        text
    }

    fn table(&self, text: &mut String, scenario: Scenario, row: &[Vec<Sample>]) {
        let unit = if scenario == Scenario::Tcp { "MiB" } else { "request" };
        let best = if scenario.is_paced() { "; latencies of the best round" } else { "" };
        let names = self.part.yardsticks();
        let (heads, lines): (String, String) =
            names.iter().map(|name| (format!(" × {name} |"), "--:|")).unzip();
        let _ = write!(
            text,
            "\n**{}{best}**\n\n| | CPU µs/{unit} | user | system |{heads} {unit}s/s | p50 µs | p99 µs |\n\
             |---|--:|--:|--:|{lines}--:|--:|--:|\n",
            scenario.title(),
        );
        let yardsticks = names.iter().map(|name| {
            let at = self.proxies.iter().position(|proxy| proxy.name == *name)?;
            Some(Sample::median(&row[at]).cpu)
        });
        let yardsticks: Vec<_> = yardsticks.collect();
        for (proxy, samples) in self.proxies.iter().zip(row) {
            let shown =
                if scenario.is_paced() { Sample::median_of_quiet(samples) } else { Sample::median(samples) };
            let latency = |micros: f64| if micros > 0.0 { format!("{micros:.0}") } else { "–".into() };
            let cpu = |micros: f64| if proxy.is_direct() { "–".into() } else { format!("{micros:.1}") };
            let share = |yardstick: Option<f64>| match yardstick {
                Some(theirs) if !proxy.is_direct() => format!(" {:.2} |", shown.cpu / theirs),
                _ => " – |".into(),
            };
            let shares: String = yardsticks.iter().copied().map(share).collect();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |{shares} {:.0} | {} | {} |",
                proxy.title(),
                cpu(shown.cpu),
                cpu(shown.user),
                cpu(shown.system),
                shown.rate,
                latency(shown.p50),
                latency(shown.p99)
            );
        }
    }

    /// Which part of each round of a row went at least over the wire that the row is named after.
    fn wires(&self, text: &mut String, row: &[Vec<Share>]) {
        let least = self.proxies.iter().zip(row).filter_map(|(proxy, shares)| {
            let Share { wire, least } = Share::least(shares)?;
            Some(format!("{} {:.2} % over {wire}", proxy.name, least * 100.0))
        });
        let least: Vec<_> = least.collect();
        if !least.is_empty() {
            let _ = write!(
                text,
                "\nOf the bytes of every round, as both ends count them, at least: {}.\n",
                least.join(", ")
            );
        }
    }

    /// The rounds of which too much went over other wires than the one that their row is named after.
    pub fn astray(&self) -> Vec<String> {
        let mut astray = Vec::new();
        for (scenario, row) in self.options.scenarios_of(self.part).zip(&self.shares) {
            for (proxy, shares) in self.proxies.iter().zip(row) {
                let few = shares.iter().zip(1..).filter(|(share, _)| share.least < ENOUGH);
                astray.extend(few.map(|(Share { wire, least }, round)| {
                    let (part, scenario, name) = (self.part.name(), scenario.name(), proxy.name);
                    format!(
                        "{part} {scenario} {name}, round {round}: {:.2} % went over {wire}",
                        least * 100.0
                    )
                }));
            }
        }
        astray
    }

    /// Every sample of every round.
    pub fn json(&self) -> Value {
        let scenarios: Map<_, _> = self
            .options
            .scenarios_of(self.part)
            .zip(&self.samples)
            .map(|(scenario, row)| (scenario.name().to_owned(), self.by_proxy(row, |samples| cell(samples))))
            .collect();
        let memory = self.by_proxy(
            &self.memory,
            |memory| {
                json!({"idle_kib": memory.idle, "own_kib": memory.own, "per_connection_kib": memory.per_connection})
            },
        );
        let versions: Map<_, _> =
            self.proxies.iter().map(|proxy| (proxy.name.to_owned(), proxy.version.clone().into())).collect();
        json!({
            "versions": versions,
            "scenarios": scenarios,
            "memory": memory,
            "quic_streams": self.quic_streams,
            "changes": self.changes.as_ref().map(Changes::json),
            "left_out": self.missing,
        })
    }

    fn by_proxy<T>(&self, each: &[T], show: impl Fn(&T) -> Value) -> Value {
        let pairs = self.proxies.iter().zip(each);
        pairs.map(|(proxy, one)| (proxy.name.to_owned(), show(one))).collect::<Map<_, _>>().into()
    }
}

/// What all parts found.
pub fn json(options: &Options, parts: Map<String, Value>) -> String {
    let all = json!({
        "rounds": options.rounds,
        "seconds": options.time.as_secs_f64(),
        "idle_connections": options.idle,
        "parts": parts,
    });
    format!("{all:#}\n")
}

fn cell(samples: &[Sample]) -> Value {
    let best = Sample::median_of_quiet(samples);
    json!({
        "median": sample(&Sample::median(samples)),
        "best": {"p50_us": best.p50, "p99_us": best.p99},
        "rounds": samples.iter().map(sample).collect::<Vec<_>>(),
    })
}

fn sample(sample: &Sample) -> Value {
    json!({
        "rate": sample.rate,
        "cpu_us": sample.cpu,
        "user_us": sample.user,
        "system_us": sample.system,
        "p50_us": sample.p50,
        "p99_us": sample.p99,
    })
}
