use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use lighter_config::name::ServiceName;
use lighter_config::snapshot::{Backend, Locality, Protocol, RouteTable, TrafficPolicy};
use proptest::prelude::*;

use super::outlier::State;
use super::*;
use crate::error::Cause;

mod answers;
mod balancers;
mod nearness;

/// A port of a Service of its own, so that counters are not shared between tests.
fn port(weights: &[u32], policy: TrafficPolicy) -> Port {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("service-{}", NEXT.fetch_add(1, Relaxed));
    let key = ServicePort { service: ServiceName::new("balance", &name), port: 80 };
    let endpoints = weights.iter().enumerate().map(|(index, weight)| EndpointSpec {
        address: address(index),
        weight: *weight,
        priority: 0,
        locality: Locality::default(),
        secure: None,
        wires: None,
    });
    Port {
        name: None,
        protocol: Protocol::Http,
        target_port: 80,
        routes: RouteTable::default(),
        tcp: Vec::<Backend>::new(),
        tcp_route: "default".into(),
        endpoints: endpoints.collect(),
        policy,
        mtls: lighter_config::snapshot::Mtls::default(),
        guards: Vec::new(),
        key,
    }
}

/// Seen from nowhere.
fn build(port: &Port, old: Option<&Cluster>) -> Cluster {
    Cluster::build(port, &Locality::default(), old)
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, (index / 250) as u8], 1000 + (index % 250) as u16))
}

fn cluster(weights: &[u32]) -> Cluster {
    build(&port(weights, TrafficPolicy::default()), None)
}

fn index(cluster: &Cluster, picked: &Picked) -> usize {
    cluster.endpoints().iter().position(|endpoint| Arc::ptr_eq(endpoint, &picked.endpoint)).unwrap()
}

fn eject(cluster: &Cluster, index: usize, now: Instant) {
    for _ in 0..3 {
        Cluster::take(&cluster.endpoints()[index], now).finish(Outcome::Failed, Duration::ZERO, now);
    }
}

/// A connection to it broke.
fn closed(endpoint: &Arc<Endpoint>) -> Avoid {
    Avoid::after(endpoint.clone(), Cause::UpstreamClosed)
}

/// Nobody listens there.
fn refused(endpoint: &Arc<Endpoint>) -> Avoid {
    Avoid::after(endpoint.clone(), Cause::ConnectRefused)
}

/// Runs `requests` one after another at a steady rate, each with the latency that its endpoint has, and at most
/// `concurrency` at once. Returns each endpoint's share.
fn shares(
    cluster: &Cluster,
    latency: impl Fn(usize) -> Duration,
    concurrency: usize,
    requests: u32,
) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut now = Instant::now();
    let mut open: Vec<(Instant, Duration, Picked)> = Vec::new();
    let mut counts = vec![0u32; cluster.endpoints().len()];
    for request in 0..requests {
        while open.len() >= concurrency {
            let next = (0..open.len()).min_by_key(|at| open[*at].0).unwrap();
            let (end, latency, picked) = open.swap_remove(next);
            now = now.max(end);
            picked.finish(Outcome::Answered, latency, now);
        }
        now += Duration::from_micros(10);
        let picked = cluster.pick_with(None, None, now, |below| rng.u64(..below)).unwrap();
        let at = index(cluster, &picked);
        // What comes before the first answers says nothing about shares.
        if request > requests / 10 {
            counts[at] += 1;
        }
        let latency = latency(at).mul_f64(0.9 + 0.2 * rng.f64());
        open.push((now + latency, latency, picked));
    }
    let total: u32 = counts.iter().sum();
    counts.iter().map(|count| f64::from(*count) / f64::from(total)).collect()
}

#[test]
fn equal_endpoints_share_equally() {
    for concurrency in [1, 4, 64] {
        let shares = shares(&cluster(&[1; 5]), |_| Duration::from_millis(2), concurrency, 20_000);
        for share in &shares {
            assert!((0.17..0.23).contains(share), "concurrency {concurrency}: {shares:?}");
        }
    }
}

#[test]
fn weights_are_respected_among_equals() {
    for concurrency in [1, 4, 64] {
        let shares = shares(&cluster(&[9, 1]), |_| Duration::from_millis(2), concurrency, 20_000);
        assert!((0.86..0.94).contains(&shares[0]), "concurrency {concurrency}: {shares:?}");
        let shares = self::shares(&cluster(&[3, 2, 1]), |_| Duration::from_millis(2), concurrency, 20_000);
        for (share, expected) in shares.iter().zip([0.5, 1.0 / 3.0, 1.0 / 6.0]) {
            assert!((share - expected).abs() < 0.04, "concurrency {concurrency}: {shares:?}");
        }
    }
}

#[test]
fn a_slow_endpoint_loses_its_share() {
    let slow = |at: usize| Duration::from_millis(if at == 0 { 100 } else { 2 });
    for weights in [&[1, 1, 1][..], &[8, 1, 1], &[1, 2, 2]] {
        let shares = shares(&cluster(weights), slow, 16, 20_000);
        assert!(shares[0] < 0.05, "{weights:?}: {shares:?}");
    }
}

#[test]
fn no_endpoint_is_a_cause_of_its_own() {
    assert_eq!(cluster(&[]).pick(None, None, Instant::now()).err(), Some(Cause::NoEndpoint));
}

#[test]
fn a_retry_goes_elsewhere_if_there_is_an_elsewhere() {
    let cluster = cluster(&[1, 1, 5]);
    let now = Instant::now();
    for endpoint in cluster.endpoints() {
        for avoid in [closed(endpoint), refused(endpoint)] {
            for _ in 0..200 {
                assert_ne!(cluster.pick(Some(&avoid), None, now).unwrap().endpoint.id, endpoint.id);
            }
        }
    }
    let alone = self::cluster(&[1]);
    let only = &alone.endpoints()[0];
    for avoid in [closed(only), refused(only)] {
        assert_eq!(alone.pick(Some(&avoid), None, now).unwrap().endpoint.id, only.id);
    }
}

#[test]
fn a_retry_prefers_the_endpoint_that_failed_to_one_that_is_ejected() {
    let cluster = cluster(&[1, 1]);
    let now = Instant::now();
    eject(&cluster, 1, now);
    let alive = &cluster.endpoints()[0];
    assert_eq!(cluster.pick(Some(&closed(alive)), None, now).unwrap().endpoint.id, alive.id);
}

#[test]
fn a_retry_prefers_an_ejected_endpoint_to_one_at_which_nobody_is() {
    let cluster = cluster(&[1, 1]);
    let now = Instant::now();
    eject(&cluster, 1, now);
    let [gone, back] = cluster.endpoints() else { unreachable!() };
    let picked = cluster.pick(Some(&refused(gone)), None, now).unwrap();
    assert_eq!(picked.endpoint.id, back.id);
    // Its answer brings it back, before its time is over.
    picked.finish(Outcome::Answered, Duration::ZERO, now);
    assert_eq!(back.state(now), State::InService);
}

#[test]
fn an_ejected_endpoint_gets_one_request_and_heals() {
    let cluster = cluster(&[1, 1, 1]);
    let mut now = Instant::now();
    eject(&cluster, 0, now);
    let dead = cluster.endpoints()[0].clone();
    assert_eq!(dead.metrics.read().ejections, 1);
    for _ in 0..300 {
        let picked = cluster.pick(None, None, now).unwrap();
        assert_ne!(picked.endpoint.id, dead.id);
        picked.finish(Outcome::Answered, Duration::from_millis(1), now);
    }
    now += Duration::from_secs(10);
    let mut open = Vec::new();
    for _ in 0..300 {
        open.push(cluster.pick(None, None, now).unwrap());
    }
    assert_eq!(open.iter().filter(|picked| picked.endpoint.id == dead.id).count(), 1);
    for picked in open {
        picked.finish(Outcome::Answered, Duration::from_millis(1), now);
    }
    assert_eq!(dead.state(now), State::InService);
    let picks = (0..300).map(|_| cluster.pick(None, None, now).unwrap());
    let again = picks.filter(|picked| picked.endpoint.id == dead.id).count();
    assert!(again > 30, "{again} of 300");
}

#[test]
fn an_abandoned_probe_leaves_room_for_another() {
    let cluster = cluster(&[1, 1]);
    let mut now = Instant::now();
    eject(&cluster, 0, now);
    now += Duration::from_secs(10);
    for _ in 0..5 {
        let picked = cluster.pick(None, None, now).unwrap();
        assert_eq!(picked.endpoint.id, cluster.endpoints()[0].id);
        drop(picked);
    }
    assert_eq!(cluster.endpoints()[0].in_flight(), 0);
}

#[test]
fn when_all_are_ejected_any_takes_the_request_and_an_answer_ends_it() {
    let policy = TrafficPolicy { max_ejected_percent: 100, ..TrafficPolicy::default() };
    let cluster = build(&port(&[1, 1], policy), None);
    let now = Instant::now();
    let before = cluster.group.metrics.panics();
    eject(&cluster, 0, now);
    eject(&cluster, 1, now);
    let picked = cluster.pick(None, None, now).unwrap();
    let endpoint = picked.endpoint.clone();
    picked.finish(Outcome::Answered, Duration::from_millis(1), now);
    assert_eq!(cluster.group.metrics.panics(), before + 1);
    assert_eq!(endpoint.state(now), State::InService);
}

#[test]
fn a_configuration_change_keeps_health_load_and_identity() {
    let policy = TrafficPolicy::default();
    let before = build(&port(&[1, 1, 1], policy.clone()), None);
    let now = Instant::now();
    eject(&before, 0, now);
    let open = Cluster::take(&before.endpoints()[1], now);
    let after = Port { key: before.key.clone(), ..port(&[5, 1], policy.clone()) };
    let after = build(&after, Some(&before));
    assert_eq!((after.weight(0), after.weight(1)), (5, 1));
    assert_eq!(after.endpoints()[0].id, before.endpoints()[0].id);
    assert_eq!(after.endpoints()[0].state(now), State::Ejected);
    assert_eq!(after.endpoints()[1].in_flight(), 1);
    drop(open);
    assert_eq!(after.endpoints()[1].in_flight(), 0);
    // The floor counts what is there now: of two, one is ejected, so the other stays.
    eject(&after, 1, now);
    assert_eq!(after.endpoints()[1].state(now), State::InService);
}

#[test]
fn an_address_that_is_listed_twice_is_one_endpoint() {
    let mut port = port(&[1, 2], TrafficPolicy::default());
    port.endpoints.push(EndpointSpec {
        address: address(0),
        weight: 7,
        priority: 0,
        locality: Locality::default(),
        secure: None,
        wires: None,
    });
    let cluster = build(&port, None);
    assert_eq!(cluster.endpoints().len(), 2);
    assert_eq!((cluster.weight(0), cluster.weight(1)), (1, 2));
}

#[test]
fn a_workloads_own_application_is_never_ejected() {
    let key = ServicePort { service: ServiceName::new("default", "own"), port: 80 };
    let cluster = Cluster::local(key, "127.0.0.1:9".parse().unwrap());
    let now = Instant::now();
    for _ in 0..100 {
        cluster.pick(None, None, now).unwrap().finish(Outcome::Failed, Duration::ZERO, now);
    }
    assert_eq!(cluster.endpoints()[0].state(now), State::InService);
}

/// One endpoint for each number, which is its priority.
fn tiers(priorities: &[u32]) -> Cluster {
    let mut port = port(&vec![1; priorities.len()], TrafficPolicy::default());
    for (endpoint, priority) in port.endpoints.iter_mut().zip(priorities) {
        endpoint.priority = *priority;
    }
    build(&port, None)
}

#[test]
fn the_first_priority_with_an_endpoint_in_service_takes_everything() {
    let cluster = tiers(&[7, 0, 0, 7]);
    let now = Instant::now();
    let priorities = |cluster: &Cluster, now| -> HashSet<u32> {
        let picks = (0..100).map(|_| cluster.pick(None, None, now).unwrap());
        picks.map(|picked| cluster.priority(index(cluster, &picked))).collect()
    };
    assert_eq!(priorities(&cluster, now), HashSet::from([0]));
    eject(&cluster, 0, now);
    assert_eq!(priorities(&cluster, now), HashSet::from([0]), "one is left");
    eject(&cluster, 1, now);
    assert_eq!(priorities(&cluster, now), HashSet::from([7]));
    assert_eq!(cluster.group.metrics.failovers(), 100);
    // One request shows that the first is back.
    let later = now + Duration::from_secs(11);
    let first = cluster.pick(None, None, later).unwrap();
    assert_eq!(cluster.priority(index(&cluster, &first)), 0);
    first.finish(Outcome::Answered, Duration::ZERO, later);
    assert_eq!(priorities(&cluster, later), HashSet::from([0]));
}

#[test]
fn a_retry_goes_to_the_next_priority_rather_than_to_who_just_failed() {
    let cluster = tiers(&[0, 1]);
    let failed = cluster.endpoints()[0].clone();
    let picked = cluster.pick(Some(&closed(&failed)), None, Instant::now()).unwrap();
    assert_eq!(index(&cluster, &picked), 1);
}

#[test]
fn the_last_priority_keeps_its_floor() {
    let cluster = tiers(&[0, 1]);
    let now = Instant::now();
    eject(&cluster, 1, now);
    assert_eq!(cluster.endpoints()[1].state(now), State::InService, "it is the only one of its priority");
    eject(&cluster, 0, now);
    assert_eq!(cluster.endpoints()[0].state(now), State::Ejected);
}

#[derive(Clone, Debug)]
enum Step {
    Pick { avoid: Option<usize> },
    Finish { which: usize, outcome: u8, latency: u64 },
    Wait { millis: u64 },
    Rebuild { keep: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::option::of(0usize..6).prop_map(|avoid| Step::Pick { avoid }),
        6 => (any::<usize>(), 0u8..8, 0u64..5_000)
            .prop_map(|(which, outcome, latency)| Step::Finish { which, outcome, latency }),
        2 => (0u64..30_000).prop_map(|millis| Step::Wait { millis }),
        1 => any::<u8>().prop_map(|keep| Step::Rebuild { keep }),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    #[test]
    fn whatever_happens_the_promises_of_the_balancer_hold(
        steps in steps(),
        seed: u64,
        weights in prop::collection::vec(1u32..4, 6),
        percent in 0u8..=100,
    ) {
        let policy = TrafficPolicy { max_ejected_percent: percent, ..TrafficPolicy::default() };
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut now = Instant::now();
        let mut cluster = build(&port(&weights, policy.clone()), None);
        let mut open: Vec<Picked> = Vec::new();
        let mut probes: HashMap<u32, usize> = HashMap::new();
        // Endpoints seen to be ejected, and until when, by what the policy promises at least.
        let mut ejected: HashMap<u32, Instant> = HashMap::new();
        for step in steps {
            match step {
                Step::Pick { avoid } => {
                    let avoid = avoid.and_then(|at| cluster.endpoints().get(at)).cloned();
                    let failed = avoid.as_ref().map(if rng.bool() { closed } else { refused });
                    let Ok(picked) = cluster.pick_with(failed.as_ref(), None, now, |below| rng.u64(..below)) else {
                        prop_assert!(cluster.endpoints().is_empty());
                        continue;
                    };
                    let id = picked.endpoint.id;
                    let others_available = cluster.endpoints().iter().any(|endpoint| {
                        endpoint.id != id && endpoint.health.is_available(cluster.group.clock(now))
                            && avoid.as_ref().is_none_or(|avoid| avoid.id != endpoint.id)
                    });
                    if others_available {
                        prop_assert!(avoid.as_ref().is_none_or(|avoid| avoid.id != id));
                        prop_assert!(ejected.get(&id).is_none_or(|until| now >= *until));
                    }
                    if picked.probe {
                        let probes = probes.entry(id).or_default();
                        *probes += 1;
                        prop_assert_eq!(*probes, 1, "one probe at a time");
                    }
                    open.push(picked);
                }
                Step::Finish { which, outcome, latency } if !open.is_empty() => {
                    let picked = open.swap_remove(which % open.len());
                    let endpoint = picked.endpoint.clone();
                    if picked.probe {
                        probes.insert(endpoint.id, 0);
                    }
                    let before = endpoint.metrics.read().ejections;
                    let outcome = match outcome {
                        0..=1 => Outcome::Answered,
                        2..=6 => Outcome::Failed,
                        _ => Outcome::Abandoned,
                    };
                    picked.finish(outcome, Duration::from_millis(latency), now);
                    if endpoint.metrics.read().ejections > before {
                        ejected.insert(endpoint.id, now + policy.eject_for);
                        probes.insert(endpoint.id, 0);
                    }
                    if endpoint.state(now) == State::InService {
                        ejected.remove(&endpoint.id);
                        probes.insert(endpoint.id, 0);
                    }
                }
                Step::Finish { .. } => {}
                Step::Wait { millis } => now += Duration::from_millis(millis),
                Step::Rebuild { keep } => {
                    let mut port = port(&weights, policy.clone());
                    port.key = cluster.key.clone();
                    let mut at = 0;
                    port.endpoints.retain(|_| {
                        at += 1;
                        keep & (1 << (at - 1)) != 0
                    });
                    cluster = build(&port, Some(&cluster));
                }
            }
            // Everyone that is open is counted, and nobody else.
            for endpoint in cluster.endpoints() {
                let count = open.iter().filter(|picked| picked.endpoint.id == endpoint.id).count();
                prop_assert_eq!(endpoint.in_flight() as usize, count);
            }
        }
        drop(open);
        for endpoint in cluster.endpoints() {
            prop_assert_eq!(endpoint.in_flight(), 0);
        }
    }

    #[test]
    fn the_share_that_may_be_ejected_is_never_passed(
        count in 1usize..12,
        percent in 0u8..=100,
        failures in prop::collection::vec((0usize..12, 0u64..8_000), 1..400),
    ) {
        let policy = TrafficPolicy { max_ejected_percent: percent, ..TrafficPolicy::default() };
        let cluster = build(&port(&vec![1; count], policy), None);
        let mut now = Instant::now();
        for (which, pause) in failures {
            now += Duration::from_millis(pause);
            let endpoint = &cluster.endpoints()[which % count];
            let picked = endpoint.begin(cluster.group.clock(now)).unwrap_or_else(|| Cluster::take(endpoint, now));
            picked.finish(Outcome::Failed, Duration::ZERO, now);
            let out = cluster.endpoints().iter().filter(|endpoint| endpoint.health.is_out()).count();
            let most = (count * usize::from(percent) / 100).max(usize::from(count >= 2));
            prop_assert!(out <= most, "{} of {} with {} %", out, count, percent);
        }
    }
}

#[test]
fn workers_that_pick_and_finish_at_once_lose_no_count() {
    let cluster = cluster(&[1, 1, 1, 1]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread);
                let mut now = Instant::now();
                for _ in 0..5_000 {
                    now += Duration::from_micros(rng.u64(..50_000));
                    let picked = cluster.pick_with(None, None, now, |below| rng.u64(..below)).unwrap();
                    let outcome = [Outcome::Answered, Outcome::Failed, Outcome::Abandoned][rng.usize(..3)];
                    picked.finish(outcome, Duration::from_micros(rng.u64(..1000)), now);
                    // While nobody ejects: an endpoint that was counted may come back and another one go out before
                    // that is counted too.
                    let _still = cluster.group.deciding.lock().unwrap();
                    let out = cluster.endpoints().iter().filter(|endpoint| endpoint.health.is_out()).count();
                    assert!(out <= 2, "{out} of 4 ejected");
                }
            });
        }
    });
    assert!(cluster.endpoints().iter().all(|endpoint| endpoint.in_flight() == 0));
}
