//! What answers say of endpoints: errors in a row, and who does worse than the others. In virtual time.

use lighter_config::snapshot::{Comparison, Outliers};

use super::*;

const MS: Duration = Duration::from_millis(1);

fn judged(count: usize, outliers: Outliers) -> Cluster {
    build(&port(&vec![1; count], TrafficPolicy { outliers, ..TrafficPolicy::default() }), None)
}

fn answer(cluster: &Cluster, index: usize, status: u16, latency: Duration, now: Instant) {
    Cluster::take(&cluster.endpoints()[index], now).finish(Outcome::of(status), latency, now);
}

fn out(cluster: &Cluster, now: Instant) -> Vec<usize> {
    let endpoints = cluster.endpoints().iter().enumerate();
    endpoints
        .filter(|(_, endpoint)| endpoint.state(now) != State::InService)
        .map(|(index, _)| index)
        .collect()
}

#[test]
fn errors_in_a_row_eject_where_a_policy_says_so() {
    let now = Instant::now();
    let cluster = judged(3, Outliers { errors: 3, ..Outliers::default() });
    for status in [500, 503, 200, 501, 502] {
        answer(&cluster, 1, status, MS, now);
    }
    assert_eq!(out(&cluster, now), [] as [usize; 0]);
    answer(&cluster, 1, 504, MS, now);
    assert_eq!(out(&cluster, now), [1]);
    // Another error keeps it out, and a good answer brings it back.
    let later = now + Duration::from_secs(11);
    let probe = cluster.endpoints()[1].begin(cluster.group.clock(later)).unwrap();
    probe.finish(Outcome::of(500), MS, later);
    assert_eq!(out(&cluster, later + Duration::from_secs(19)), [1]);
    let later = later + Duration::from_secs(21);
    let probe = cluster.endpoints()[1].begin(cluster.group.clock(later)).unwrap();
    probe.finish(Outcome::of(404), MS, later);
    assert_eq!(out(&cluster, later), [] as [usize; 0]);

    let gateway = judged(3, Outliers { gateway_errors: 2, ..Outliers::default() });
    for status in [500, 502, 500, 503] {
        answer(&gateway, 1, status, MS, now);
    }
    assert_eq!(out(&gateway, now), [] as [usize; 0], "a 500 is none of a gateway");
    answer(&gateway, 1, 504, MS, now);
    assert_eq!(out(&gateway, now), [1]);

    let silent = judged(3, Outliers::default());
    (0..100).for_each(|_| answer(&silent, 1, 503, MS, now));
    assert_eq!(out(&silent, now), [] as [usize; 0]);
}

#[test]
fn a_status_of_grpc_counts_as_the_one_of_http_that_it_stands_for() {
    assert_eq!(Outcome::of_grpc(14), Outcome::of(503));
    assert_eq!(Outcome::of_grpc(13), Outcome::of(500));
    assert_eq!(Outcome::of_grpc(5), Outcome::of(404));
    assert_eq!(Outcome::of_grpc(0), Outcome::of(200));
}

#[test]
fn who_fails_more_often_than_the_others_is_ejected_once_an_interval_is_over() {
    let success_rate = Some(Comparison { factor: 1.5, hosts: 5, volume: 20 });
    let cluster = judged(6, Outliers { success_rate, ..Outliers::default() });
    let mut now = Instant::now();
    for round in 0..30 {
        for index in 0..6 {
            answer(&cluster, index, if index == 4 && round % 2 == 0 { 500 } else { 200 }, MS, now);
        }
    }
    assert_eq!(out(&cluster, now), [] as [usize; 0]);
    now += Duration::from_secs(11);
    answer(&cluster, 0, 200, MS, now);
    assert_eq!(out(&cluster, now), [4]);
    assert_eq!(cluster.endpoints()[4].metrics.read().ejections, 1);
}

#[test]
fn who_takes_longer_than_the_others_is_ejected_and_no_more_than_may_be() {
    let latency = Some(Comparison { factor: 3.0, hosts: 3, volume: 10 });
    let cluster = judged(5, Outliers { latency, ..Outliers::default() });
    let mut now = Instant::now();
    let slow = |index: usize| if index < 2 { 50 * MS } else { 5 * MS };
    for _ in 0..20 {
        (0..5).for_each(|index| answer(&cluster, index, 200, slow(index), now));
    }
    now += Duration::from_secs(11);
    answer(&cluster, 4, 200, 5 * MS, now);
    assert_eq!(out(&cluster, now), [0, 1]);

    let alone = judged(2, Outliers { latency, ..Outliers::default() });
    for _ in 0..20 {
        (0..2).for_each(|index| answer(&alone, index, 200, slow(index * 2), now));
    }
    now += Duration::from_secs(11);
    answer(&alone, 1, 200, 5 * MS, now);
    assert_eq!(out(&alone, now), [] as [usize; 0], "two are too few to be compared");
}

proptest! {
    #[test]
    fn no_kind_of_fault_ejects_more_than_may_be(
        count in 1usize..8,
        percent in 0u8..=100,
        ends in prop::collection::vec((0usize..8, 0usize..4, 0u64..4_000), 1..300),
    ) {
        let comparison = Some(Comparison { factor: 1.2, hosts: 2, volume: 1 });
        let outliers = Outliers {
            errors: 2,
            gateway_errors: 1,
            success_rate: comparison,
            latency: comparison,
            ..Outliers::default()
        };
        let policy = TrafficPolicy { max_ejected_percent: percent, outliers, ..TrafficPolicy::default() };
        let cluster = build(&port(&vec![1; count], policy), None);
        let mut now = Instant::now();
        for (which, end, pause) in ends {
            now += Duration::from_millis(pause);
            let outcome = [Outcome::Answered, Outcome::Erred, Outcome::Gateway, Outcome::Failed][end];
            let picked = Cluster::take(&cluster.endpoints()[which % count], now);
            picked.finish(outcome, Duration::from_millis(pause), now);
            let out = cluster.endpoints().iter().filter(|endpoint| endpoint.health.is_out()).count();
            let most = (count * usize::from(percent) / 100).max(usize::from(count >= 2));
            prop_assert!(out <= most, "{} of {} with {} %", out, count, percent);
        }
    }
}
