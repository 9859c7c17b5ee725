//! Endpoints near the caller take its requests, and others as these fall away.

use lighter_config::snapshot::Nearness;

use super::*;

/// Endpoints in these zones of one region, seen from zone `a`.
fn zones(zones: &[&str], policy: TrafficPolicy) -> Cluster {
    let mut port = port(&vec![1; zones.len()], policy);
    for (endpoint, zone) in port.endpoints.iter_mut().zip(zones) {
        endpoint.locality = in_zone(zone);
    }
    Cluster::build(&port, &in_zone("a"), None)
}

fn in_zone(zone: &str) -> Locality {
    let (region, zone) = zone.split_once('/').unwrap_or(("eu", zone));
    Locality { region: region.into(), zone: zone.into(), ..Locality::default() }
}

fn near(overprovisioning: u32) -> TrafficPolicy {
    let nearness = Some(Nearness { within: 2, overprovisioning });
    TrafficPolicy { nearness, max_ejected_percent: 100, ..TrafficPolicy::default() }
}

/// Which share goes to endpoints in zone `a`; they are the first.
fn local(cluster: &Cluster, count: usize, now: Instant) -> f64 {
    let picks = (0..4_000).filter(|_| {
        let picked = cluster.pick(None, None, now).unwrap();
        let is_local = index(cluster, &picked) < count;
        picked.finish(Outcome::Answered, Duration::from_millis(1), now);
        is_local
    });
    picks.count() as f64 / 4_000.0
}

#[test]
fn those_that_are_near_take_everything_and_spill_over_as_they_fall_away() {
    let cluster = zones(&["a", "a", "a", "a", "b", "b", "us/a"], near(140));
    let now = Instant::now();
    assert_eq!(local(&cluster, 4, now), 1.0);
    eject(&cluster, 0, now);
    assert_eq!(local(&cluster, 4, now), 1.0, "three of four are enough, by 1.4");
    eject(&cluster, 1, now);
    let share = local(&cluster, 4, now);
    assert!((0.66..0.74).contains(&share), "half of them take 0.7: {share}");
    eject(&cluster, 2, now);
    let share = local(&cluster, 4, now);
    assert!((0.31..0.39).contains(&share), "a quarter takes 0.35: {share}");
    eject(&cluster, 3, now);
    assert_eq!(local(&cluster, 4, now), 0.0);
    // Those of the region come before those of another.
    for _ in 0..500 {
        assert_ne!(index(&cluster, &cluster.pick(None, None, now).unwrap()), 6);
    }
    let text = cluster.group.metrics.clone();
    assert!(text.failovers() == 0);
}

#[test]
fn without_a_policy_it_does_not_matter_where_they_are() {
    let cluster = zones(&["a", "b", "us/a"], TrafficPolicy::default());
    let share = local(&cluster, 1, Instant::now());
    assert!((0.28..0.39).contains(&share), "{share}");
}

#[test]
fn priorities_spill_over_likewise() {
    let mut port = port(&[1; 4], near(140));
    port.endpoints[2].priority = 1;
    port.endpoints[3].priority = 1;
    let cluster = Cluster::build(&port, &Locality::default(), None);
    let now = Instant::now();
    assert_eq!(local(&cluster, 2, now), 1.0);
    eject(&cluster, 0, now);
    let share = local(&cluster, 2, now);
    assert!((0.66..0.74).contains(&share), "{share}");
    assert!(cluster.group.metrics.failovers() > 0);
}

#[test]
fn when_all_are_few_they_share_what_there_is() {
    // A fifth here and a fifth there: each gets half.
    let cluster = zones(&["a", "a", "a", "a", "a", "b", "b", "b", "b", "b"], near(100));
    let now = Instant::now();
    for index in [1, 2, 3, 4, 6, 7, 8, 9] {
        eject(&cluster, index, now);
    }
    let share = local(&cluster, 5, now);
    assert!((0.44..0.56).contains(&share), "{share}");
}
