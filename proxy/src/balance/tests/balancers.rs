//! Balancers other than the usual one.

use lighter_config::probe::Probe;
use lighter_config::snapshot::{Balancer, Balancing, HealthCheck, SlowStart};

use super::*;

fn by(balancer: Balancer, weights: &[u32]) -> Cluster {
    let balancing = Balancing { balancer, ..Balancing::default() };
    build(&port(weights, TrafficPolicy { balancing, ..TrafficPolicy::default() }), None)
}

#[test]
fn every_balancer_respects_weights_and_leaves_alone_who_is_ejected() {
    for balancer in Balancer::ALL {
        let cluster = by(balancer, &[1, 2, 5]);
        let now = Instant::now();
        let mut counts = [0u32; 3];
        for number in 0..8_000u64 {
            let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let picked = cluster.pick(None, balancer.hashes().then_some(hash), now).unwrap();
            counts[index(&cluster, &picked)] += 1;
            picked.finish(Outcome::Answered, Duration::from_millis(1), now);
        }
        for (count, fair) in counts.iter().zip([1_000, 2_000, 5_000]) {
            assert!(count.abs_diff(fair) < 450, "{}: {counts:?}", balancer.label());
        }
        eject(&cluster, 2, now);
        for number in 0..200 {
            let picked = cluster.pick(None, balancer.hashes().then_some(number << 55), now).unwrap();
            assert_ne!(index(&cluster, &picked), 2, "{}", balancer.label());
        }
    }
}

#[test]
fn the_fewest_requests_decide_and_not_the_latency() {
    let slow = |at: usize| Duration::from_millis(if at == 0 { 100 } else { 2 });
    // One after the other, nobody has any: a slow one does not lose its share for that alone.
    let shares = shares(&by(Balancer::LeastRequest, &[1, 1, 1]), slow, 1, 6_000);
    assert!(shares.iter().all(|share| (0.28..0.39).contains(share)), "{shares:?}");
    let shares = self::shares(&by(Balancer::LeastRequest, &[1, 1, 1]), slow, 32, 6_000);
    assert!(shares[0] < 0.1, "{shares:?}");
}

#[test]
fn turns_go_on_where_they_were_after_a_change_that_is_not_theirs() {
    for weight in [1, 100] {
        let balancing = Balancing { balancer: Balancer::RoundRobin, ..Balancing::default() };
        let mut port = port(&[weight; 3], TrafficPolicy { balancing, ..TrafficPolicy::default() });
        let mut cluster = build(&port, None);
        assert_eq!(cluster.weight(1), weight);
        let now = Instant::now();
        let mut turns = Vec::new();
        for round in 0..9 {
            port.policy.connect_timeout = Duration::from_secs(round + 1);
            cluster = build(&port, Some(&cluster));
            turns.push(index(&cluster, &cluster.pick(None, None, now).unwrap()));
        }
        assert!(turns.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 3), "{weight}: {turns:?}");
    }
}

#[test]
fn the_same_hash_goes_to_the_same_endpoint_and_a_retry_to_another() {
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        let cluster = by(balancer, &[1; 5]);
        let now = Instant::now();
        for hash in (0..64).map(|number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let first = cluster.pick(None, Some(hash), now).unwrap();
            let again = cluster.pick(None, Some(hash), now).unwrap();
            assert_eq!(first.endpoint.id, again.endpoint.id);
            let other = cluster.pick(Some(&closed(&first.endpoint)), Some(hash), now).unwrap();
            assert_ne!(first.endpoint.id, other.endpoint.id);
        }
        // Without a hash, anywhere.
        let spread = shares(&cluster, |_| Duration::from_millis(1), 1, 5_000);
        assert!(spread.iter().all(|share| (0.15..0.25).contains(share)), "{spread:?}");
    }
}

#[test]
fn a_new_endpoint_begins_with_a_part_of_its_share() {
    let slow_start = Some(SlowStart { window: Duration::from_secs(10), min_percent: 10 });
    for balancer in [Balancer::RoundRobin, Balancer::Random, Balancer::LeastRequest, Balancer::PeakEwma] {
        let balancing = Balancing { balancer, slow_start, ..Balancing::default() };
        let mut port = port(&[1, 1, 1], TrafficPolicy { balancing, ..TrafficPolicy::default() });
        let third = port.endpoints.pop().unwrap();
        let before = build(&port, None);
        before.endpoints().iter().for_each(|endpoint| endpoint.entered.store(1, Relaxed));
        port.endpoints.push(third);
        let cluster = build(&port, Some(&before));
        let came = Instant::now() + Duration::from_secs(100);
        let entered = cluster.group.clock(came);
        cluster.endpoints()[2].entered.store(entered, Relaxed);
        let share = |seconds: u64| {
            let now = came + Duration::from_secs(seconds);
            let picks = (0..3_000).filter(|_| {
                let picked = cluster.pick(None, None, now).unwrap();
                let is_third = index(&cluster, &picked) == 2;
                picked.finish(Outcome::Answered, Duration::from_millis(1), now);
                is_third
            });
            picks.count() as f64 / 3_000.0
        };
        let (cold, half, warm) = (share(0), share(5), share(10));
        assert!(cold < 0.09, "{}: {cold}", balancer.label());
        assert!((0.12..0.27).contains(&half), "{}: {half}", balancer.label());
        assert!((0.29..0.38).contains(&warm), "{}: {warm}", balancer.label());
    }
}

#[test]
fn who_is_unwell_gets_nothing_unless_hardly_anybody_is_well() {
    let health_check = Some(Arc::new(HealthCheck { probe: Probe::default(), panic_percent: 50 }));
    // Draws without a preference, so that whoever may be used is.
    let balancing = Balancing { balancer: Balancer::Random, ..Balancing::default() };
    let policy = TrafficPolicy { health_check, balancing, ..TrafficPolicy::default() };
    let cluster = build(&port(&[1; 4], policy), None);
    let now = Instant::now();
    let used = || {
        let picks = (0..200).map(|_| index(&cluster, &cluster.pick(None, None, now).unwrap()));
        picks.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    cluster.endpoints()[0].is_well(false);
    cluster.endpoints()[3].is_well(false);
    assert_eq!(used(), [1, 2]);
    // An answer that was on its way says nothing.
    Cluster::take(&cluster.endpoints()[0], now).finish(Outcome::Answered, Duration::ZERO, now);
    assert_eq!(used(), [1, 2]);
    cluster.endpoints()[1].is_well(false);
    assert_eq!(used(), [0, 1, 2, 3], "one of four is less than half of them");
    cluster.endpoints()[0].is_well(true);
    assert_eq!(used(), [0, 2]);
}
