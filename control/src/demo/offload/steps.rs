//! What is shown over the link.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::NAMES;
use super::bed::{Bed, LINK};
use super::link::Link;
use crate::demo::command;
use crate::demo::load::{Counts, Load};
use crate::demo::report::{Evidence, Step};
use crate::demo::samples::Samples;
use crate::demo::steps::{check, until};

/// Does both steps, and ends what was started for them. Skips them where there can be no such link.
pub async fn execute(folder: &Path, requests: u64, pause: Duration, limit: Duration) -> Vec<Step> {
    let [first, second] = NAMES;
    let link = match Link::new(LINK) {
        Ok(link) => link,
        Err(reason) => return NAMES.map(|name| Step::skipped(name, &reason)).into(),
    };
    let mut bed = match Bed::new(link, folder) {
        Ok(bed) => bed,
        Err(failure) => return broken(failure),
    };
    if let Err(failure) = bed.start().await {
        bed.stop().await;
        return broken(failure);
    }
    let stage = Stage { bed: &bed, requests, pause, limit };
    let (mut offload, mut back) = (Evidence::default(), Evidence::default());
    let went = stage.offload(&mut offload).await;
    let came = stage.back(&mut back).await;
    bed.stop().await;
    vec![Step::done(first, offload, went), Step::done(second, back, came)]
}

fn broken(failure: String) -> Vec<Step> {
    let [first, second] = NAMES;
    let failed = Step::done(first, Evidence::default(), Err(failure));
    vec![failed, Step::skipped(second, "what it needs did not start")]
}

/// What the steps work with.
struct Stage<'a> {
    bed: &'a Bed,
    requests: u64,
    pause: Duration,
    limit: Duration,
}

/// Callers in parallel. Each has one connection.
const CALLERS: usize = 4;

/// Requests by which the host is measured: each fills the link for a while.
const BY_HOST: u64 = 100;

/// By so many times the link has to carry less.
const FEWER: f64 = 50.0;

/// The device as metrics name it.
const DEVICE: &str = "default/csd";

/// A scan for one order in a hundred: by the host, which reads all of them over the link, and then by the device beside them.
impl Stage<'_> {
    async fn offload(&self, evidence: &mut Evidence) -> Result<(), String> {
        evidence.keep("link_bits_per_second", LINK);
        evidence.keep("bytes_of_orders", self.bed.bytes());
        // Every caller's first request opens connections.
        self.phase(CALLERS as u64 * 2).await?;
        let host = self.phase(BY_HOST).await?;
        self.bed.offload(true)?;
        self.by_device(20, async || self.phase(10).await.map(drop)).await?;
        let before = self.bed.samples().await?;
        let device = self.phase(self.requests).await?;
        let after = self.bed.samples().await?;
        evidence.keep("phases", [host.row("host"), device.row("device")]);
        let fewer = host.bytes_each() / device.bytes_each();
        evidence.keep("times_fewer_bytes", (fewer * 10.0).round() / 10.0);
        let rose = |name, place| count(&after, name, place) - count(&before, name, place);
        let [by_host, by_device] =
            ["host", DEVICE].map(|place| rose("lighter_offload_requests_total", place));
        evidence.keep("answered_by", json!({"host": by_host, "device": by_device}));
        let counted = ["host", DEVICE]
            .map(|place| rose("lighter_offload_moved_bytes_total", place))
            .iter()
            .sum::<u64>();
        evidence.keep("moved_bytes_by_reports_sidecar", counted);
        let runs = self.bed.device_samples().await?;
        let runs = runs.count("lighter_device_runs_total", &[("function", "scan"), ("status", "CS_SUCCESS")]);
        evidence.keep("scans_counted_by_device", runs);
        let admin = self.bed.admin.to_string();
        let told = command::lighter(&["explain", "--admin", &admin], &[], "").await?;
        evidence.keep("lighter_explain", told.lines().map(str::trim).collect::<Vec<_>>());
        let all = ["explain", "--admin", &admin, "--last", "1000", "--json"];
        let log = command::lighter(&all, &[], "").await?;
        let again = command::lighter(&["explain", "--check", "-"], &[], &log).await?;
        evidence.keep("lighter_explain_check", again.trim());
        let both = host.counts.and(&device.counts);
        evidence.keep("load", &both);
        unharmed(&both)?;
        check_near("by the host", host.bytes, host.counts.requests * self.bed.bytes())?;
        check_near("by the device", device.bytes, counted)?;
        check(by_device == device.counts.requests && runs >= by_device, || {
            format!("{by_device} of {} requests were answered by the device", device.counts.requests)
        })?;
        check(fewer >= FEWER, || format!("the link carried {fewer:.1} times fewer bytes, not {FEWER}"))
    }

    /// The device stands still: its requests are answered by the host, and go back to it once it goes on.
    async fn back(&self, evidence: &mut Evidence) -> Result<(), String> {
        self.bed.offload(true)?;
        let load = Load::start(self.bed.reports, CALLERS, self.pause);
        let at_device = async || load.measure(10, self.limit).await.map(drop);
        self.by_device(20, at_device).await?;
        let pid = self.bed.halt(true)?;
        let before = self.bed.samples().await?;
        let began = Instant::now();
        let meanwhile = self.by_host(BY_HOST / 2, &before).await;
        let stood = began.elapsed();
        self.bed.halt(false)?;
        let meanwhile = meanwhile?;
        let went_on = Instant::now();
        let at_device = async || load.measure(10, self.limit).await.map(drop);
        self.by_device(20, at_device).await?;
        let took = went_on.elapsed();
        let rest = self.requests.saturating_sub(load.total().requests);
        load.measure(rest.max(10), self.limit).await?;
        let total = load.finish().await;
        evidence.keep("device_stood_still", json!({"pid": pid, "ms": stood.as_millis() as u64}));
        evidence.keep("meanwhile", meanwhile);
        evidence.keep("ms_until_the_device_answered_20_in_a_row", took.as_millis() as u64);
        evidence.keep("longest_ms", total.longest().as_millis() as u64);
        evidence.keep("load", &total);
        unharmed(&total)
    }

    /// Waits until the host has answered so many more, and says what became of requests since.
    async fn by_host(&self, answered: u64, before: &Samples) -> Result<Value, String> {
        let mut seen = (0, 0);
        until(self.limit, async || {
            let now = self.bed.samples().await?;
            let rose = |labels: &[(&str, &str)]| {
                let of = |samples: &Samples| samples.count("lighter_offload_requests_total", labels);
                of(&now) - of(before)
            };
            let host = rose(&[("place", "host"), ("outcome", "answered")]);
            let late = rose(&[("place", DEVICE), ("outcome", "timed_out")]);
            seen = (host, late);
            check(host >= answered && late > 0, || {
                format!("the device stands still, and the host answered only {host}; {late} were late")
            })
        })
        .await?;
        Ok(json!({"answered_by_host": seen.0, "given_up_at_device": seen.1}))
    }

    /// Waits until the device answers so many in a row, while `ask` asks for some.
    async fn by_device(
        &self,
        answered: u64,
        ask: impl AsyncFn() -> Result<(), String>,
    ) -> Result<(), String> {
        let placed = async || -> Result<(u64, u64), String> {
            let samples = self.bed.samples().await?;
            let name = "lighter_offload_requests_total";
            Ok((count(&samples, name, "host"), count(&samples, name, DEVICE)))
        };
        let mut since = placed().await?;
        until(self.limit, async || {
            ask().await?;
            let now = placed().await?;
            if now.0 > since.0 {
                since = now;
            }
            check(now.1 >= since.1 + answered, || "the device does not answer".into())
        })
        .await
    }

    /// Some requests, from one quiet moment to the next.
    async fn phase(&self, requests: u64) -> Result<Phase, String> {
        let before = self.bed.spent()?;
        let load = Load::start(self.bed.reports, CALLERS, self.pause);
        load.measure(requests, self.limit).await?;
        let counts = load.finish().await;
        let after = self.bed.spent()?;
        let took = |which: usize| after.processor[which].saturating_sub(before.processor[which]);
        Ok(Phase {
            counts,
            bytes: after.bytes - before.bytes,
            processor: [took(0), took(1), took(2), took(3)],
        })
    }
}

/// What some requests took.
struct Phase {
    counts: Counts,
    /// Over the link, towards the near end.
    bytes: u64,
    /// Of orders, of the storage, of the device, of the sidecar of reports.
    processor: [Duration; 4],
}

impl Phase {
    fn bytes_each(&self) -> f64 {
        self.bytes as f64 / self.counts.requests.max(1) as f64
    }

    fn row(&self, phase: &str) -> Value {
        let ms = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
        let (mean, p99) = self.counts.latency();
        let [orders, storage, device, sidecar] = self.processor.map(|time| time.as_millis() as u64);
        json!({
            "phase": phase,
            "requests": self.counts.requests,
            "link_bytes": self.bytes,
            "link_bytes_each": self.bytes_each() as u64,
            "mean_ms": ms(mean),
            "p99_ms": ms(p99),
            "processor_ms": {"orders": orders, "storage": storage, "device": device, "reports_sidecar": sidecar},
        })
    }
}

/// What became of requests at a place.
fn count(samples: &Samples, name: &str, place: &str) -> u64 {
    samples.count(name, &[("place", place)])
}

/// No request failed, whoever answered said the same, and no connection was closed on anybody.
fn unharmed(counts: &Counts) -> Result<(), String> {
    let Counts { requests, failed, failures, versions, services_lost, .. } = counts;
    check(*failed == 0, || format!("{failed} of {requests} requests failed: {}", failures.join("; ")))?;
    check(versions.len() == 1, || format!("host and device said different things: {versions:?}"))?;
    check(*services_lost == 0, || format!("{services_lost} connections were closed on reports"))
}

/// What the kernel counted is what is expected, but for the heads of answers, which are up to a sixth of a short one: a device says
/// in them how busy it is and what the answer took.
fn check_near(what: &str, kernel: u64, expected: u64) -> Result<(), String> {
    check(kernel.abs_diff(expected) <= expected / 5, || {
        format!("{what}: the kernel counted {kernel} bytes on the link, and expected were {expected}")
    })
}
