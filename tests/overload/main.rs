//! What a service does of which three times as much is asked as it can do, behind Lighter and behind Envoy as it comes. With
//! `LIGHTER_FULL=1` the numbers are held against what is promised; otherwise it is shorter, and what is refused is counted.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod app;
mod load;
mod proxies;

use std::time::Duration;

use app::App;
use load::Seen;
use proxies::Envoy;
use support::sidecar::Sidecar;
use support::{full, test, test_where};

fn main() {
    if let Some(status) = app::play() {
        std::process::exit(status);
    }
    support::run(vec![match full() {
        // One after the other: what is measured has the machine for itself.
        true => test_where("three_times_what_a_service_can_do_beside_envoy", beside_envoy),
        false => test("three_times_what_a_service_can_do", behind_lighter),
    }])
}

/// What came of the phases, in order.
struct Story {
    rest: Seen,
    peak: Seen,
    rush: Seen,
    /// The first two seconds after the rush, and what comes then.
    turn: Seen,
    after: Seen,
}

impl Story {
    fn tell(at: std::net::SocketAddr, app: &App) -> Self {
        let phase = Duration::from_secs(if full() { 15 } else { 1 });
        let capacity = app.capacity();
        let ask = |times: f64, time: Duration| load::ask(at, times * capacity, time);
        Story {
            rest: ask(0.2, phase),
            peak: ask(1.0, phase),
            rush: ask(3.0, phase),
            turn: ask(0.5, Duration::from_secs(2)),
            after: ask(0.5, phase),
        }
    }

    fn print(&self, name: &str) {
        let Story { rest, peak, rush, turn, after } = self;
        for (phase, seen) in
            [("rest", rest), ("peak", peak), ("rush", rush), ("turn", turn), ("after", after)]
        {
            println!(
                "{name:>16} {phase:>6}: {:7.1} good a second, p50 {:6.1} ms, p99 {:6.1} ms; {} good, {} refused, {} late, {} failed",
                seen.goodput(),
                seen.quantile(50).as_secs_f64() * 1e3,
                seen.quantile(99).as_secs_f64() * 1e3,
                seen.latencies.len(),
                seen.refused,
                seen.late,
                seen.failed
            );
        }
    }
}

fn lighter(app: &App) -> (Sidecar, Story) {
    let listen = support::process::free_address();
    let resources = support::sidecar::service("shop", "http", &[listen])
        + "---\n{apiVersion: mesh.lighter.dev/v1, kind: TrafficPolicy, metadata: {name: shop}, spec: {targetRefs: [{kind: \
           Service, name: shop}], overload: {}}}\n";
    let own = format!(
        "service: shop\ninbound: [{{listen: '{listen}', app: '{}', port: 80}}]\nworkers: 1\n",
        app.address
    );
    let sidecar = Sidecar::start(&resources, &own);
    let story = Story::tell(listen, app);
    story.print("Lighter");
    (sidecar, story)
}

fn behind_lighter() {
    let app = App::start();
    let (sidecar, Story { rest, peak, rush, turn, after }) = lighter(&app);
    let all = [&rest, &peak, &rush, &turn, &after];
    let refused: usize = all.iter().map(|seen| seen.refused).sum();
    // Every refusal has its cause, and there is no other failure.
    let counted = sidecar.metrics().sum("lighter_overload_refusals_total", &[("service", "default/shop")]);
    assert_eq!(counted, refused as f64);
    assert_eq!(all.iter().map(|seen| seen.failed).sum::<usize>(), 0);
    assert!(rush.refused > 0);
    if !full() {
        return;
    }
    assert_eq!(rest.refused, 0);
    assert!(rush.goodput() > 0.8 * peak.goodput(), "{} of {}", rush.goodput(), peak.goodput());
    assert!(rush.quantile(99) < 5 * rest.quantile(99), "{:?}, {:?}", rush.quantile(99), rest.quantile(99));
    assert!(after.refused * 100 < after.latencies.len(), "two seconds later {} are refused", after.refused);
    assert!(after.quantile(99) < 2 * rest.quantile(99), "{:?}", after.quantile(99));
}

fn beside_envoy() -> Result<(), String> {
    support::envoy::find()?;
    behind_lighter();
    let app = App::start();
    for adapts in [false, true] {
        let envoy = Envoy::before(app.address, adapts)?;
        Story::tell(envoy.address, &app).print(if adapts { "Envoy, adaptive" } else { "Envoy" });
    }
    Ok(())
}
