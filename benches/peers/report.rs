//! The numbers as Markdown and JSON.

use std::fmt::Write;

use serde_json::json;

use crate::measure::{Memory, Sample};
use crate::options::Options;
use crate::proxies::Proxy;

/// Everything that one run found.
pub struct Report<'a> {
    options: &'a Options,
    proxies: &'a [Proxy],
    samples: &'a [Vec<Vec<Sample>>],
    memory: &'a [Memory],
    missing: &'a [String],
}

impl<'a> Report<'a> {
    pub fn new(
        options: &'a Options,
        proxies: &'a [Proxy],
        samples: &'a [Vec<Vec<Sample>>],
        memory: &'a [Memory],
        missing: &'a [String],
    ) -> Self {
        Report { options, proxies, samples, memory, missing }
    }

    /// One table a scenario, and one for memory. Processor time is the proxy's alone.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "One worker each, {} rounds of {} s in turns, medians. CPU is the proxy's own.\n",
            self.options.rounds,
            self.options.time.as_secs_f64()
        );
        for (scenario, row) in self.options.scenarios.iter().zip(self.samples) {
            let unit = if scenario.name() == "tcp" { "MiB" } else { "request" };
            let _ = write!(
                text,
                "\n**{}**\n\n| | CPU µs/{unit} | user | system | {unit}s/s | p50 µs | p99 µs |\n|---|--:|--:|--:|--:|--:|--:|\n",
                scenario.title()
            );
            for (proxy, samples) in self.proxies.iter().zip(row) {
                let median = Sample::median(samples);
                let latency = |micros: f64| if micros > 0.0 { format!("{micros:.0}") } else { "–".into() };
                let cpu = |micros: f64| if proxy.is_direct() { "–".into() } else { format!("{micros:.1}") };
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {} | {:.0} | {} | {} |",
                    proxy.title(),
                    cpu(median.cpu),
                    cpu(median.user),
                    cpu(median.system),
                    median.rate,
                    latency(median.p50),
                    latency(median.p99)
                );
            }
        }
        let _ = write!(
            text,
            "\n**Resident memory**\n\n| | idle MiB | KiB per idle connection ({}) |\n|---|--:|--:|\n",
            self.options.idle
        );
        for (proxy, memory) in self.proxies.iter().zip(self.memory).filter(|(proxy, _)| !proxy.is_direct()) {
            let _ = writeln!(
                text,
                "| {} | {:.1} | {:.2} |",
                proxy.title(),
                memory.idle / 1024.0,
                memory.per_connection
            );
        }
        for reason in self.missing {
            let _ = write!(text, "\nLeft out: {reason}.\n");
        }
        text
    }

    /// Every sample of every round.
    pub fn json(&self) -> String {
        let scenarios: serde_json::Map<_, _> = self
            .options
            .scenarios
            .iter()
            .zip(self.samples)
            .map(|(scenario, row)| {
                let cells: serde_json::Map<_, _> = self
                    .proxies
                    .iter()
                    .zip(row)
                    .map(|(proxy, samples)| {
                        let rounds: Vec<_> = samples.iter().map(sample).collect();
                        let cell = json!({"median": sample(&Sample::median(samples)), "rounds": rounds});
                        (proxy.name.to_owned(), cell)
                    })
                    .collect();
                (scenario.name().to_owned(), cells.into())
            })
            .collect();
        let memory: serde_json::Map<_, _> = self
            .proxies
            .iter()
            .zip(self.memory)
            .map(|(proxy, memory)| {
                let value = json!({"idle_kib": memory.idle, "per_connection_kib": memory.per_connection});
                (proxy.name.to_owned(), value)
            })
            .collect();
        let versions: serde_json::Map<_, _> =
            self.proxies.iter().map(|proxy| (proxy.name.to_owned(), proxy.version.clone().into())).collect();
        let all = json!({
            "rounds": self.options.rounds,
            "seconds": self.options.time.as_secs_f64(),
            "idle_connections": self.options.idle,
            "versions": versions,
            "scenarios": scenarios,
            "memory": memory,
            "left_out": self.missing,
        });
        format!("{all:#}\n")
    }
}

fn sample(sample: &Sample) -> serde_json::Value {
    json!({
        "rate": sample.rate,
        "cpu_us": sample.cpu,
        "user_us": sample.user,
        "system_us": sample.system,
        "p50_us": sample.p50,
        "p99_us": sample.p99,
    })
}
