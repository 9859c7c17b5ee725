use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lighter_config::snapshot::{GrpcStatus, Retry, RetryBudget, RetryOn, TrafficPolicy};
use proptest::prelude::*;

use super::budget::Budget;
use super::{Came, Condition, Refusal, Request, Rules, Tries, Verdict};

/// Rules, time, and what the route has seen.
struct World {
    rules: Rules,
    tries: Tries,
    now: Instant,
    seen: u64,
}

const WHOLE: Request<'static> = Request { method: b"GET", whole: true, left: None, on_device: false };

impl World {
    /// With a budget that never is the reason.
    fn new(retry: Retry) -> Self {
        World::with(retry, RetryBudget { percent: 100, min_per_second: 1_000_000 })
    }

    fn with(retry: Retry, retry_budget: RetryBudget) -> Self {
        let now = Instant::now();
        let policy = TrafficPolicy { retry, retry_budget, ..TrafficPolicy::default() };
        let rules = Rules::new(&policy, None, Arc::new(Budget::new(now, 0)), true);
        World { rules, tries: Tries::default(), now, seen: 0 }
    }

    fn decide(&mut self, came: Came, request: Request<'_>) -> Verdict {
        let seen = self.seen;
        // The longest pause that may be drawn.
        self.rules.decide(&mut self.tries, came, request, self.now, || seen, |most| most)
    }

    /// One request that fails so at every try. Returns how many other tries it had.
    fn request(&mut self, came: Came) -> u32 {
        self.seen += 1;
        self.tries = Tries::default();
        let mut again = 0;
        while let Verdict::Again(..) = self.decide(came, WHOLE) {
            again += 1;
        }
        again
    }
}

fn answer(status: u16) -> Came {
    Came::Answer { status, grpc: None, wait: None }
}

fn gateway() -> Retry {
    Retry { attempts: 2, on: RetryOn { gateway_error: true, ..RetryOn::default() }, ..Retry::default() }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn by_default_only_what_does_no_harm_is_tried_once_more() {
    let mut world = World::new(Retry::default());
    assert_eq!(world.decide(Came::Broken, WHOLE), Verdict::Last);
    assert_eq!(world.decide(Came::Late, WHOLE), Verdict::Last);
    assert_eq!(world.decide(answer(502), WHOLE), Verdict::Last);
    let cut = Request { whole: false, ..WHOLE };
    assert_eq!(world.decide(Came::Unread, cut), Verdict::Last);
    let post = Request { method: b"POST", ..WHOLE };
    assert_eq!(world.decide(Came::Unread, post), Verdict::Again(Duration::ZERO, Condition::Unread));
    assert_eq!(world.decide(Came::Unread, post), Verdict::Last);
}

#[test]
fn what_asks_for_no_change_is_asked_of_another_that_is_able() {
    let again = Verdict::Again(Duration::ZERO, Condition::Status);
    let mut world = World::new(Retry::default());
    assert_eq!(world.decide(answer(503), WHOLE), again);
    assert_eq!(world.decide(answer(503), WHOLE), Verdict::Last, "once");
    let fresh = |came, request| World::new(Retry::default()).decide(came, request);
    for method in [&b"POST"[..], b"PUT", b"DELETE"] {
        assert_eq!(fresh(answer(503), Request { method, ..WHOLE }), Verdict::Last);
    }
    assert_eq!(fresh(answer(503), Request { method: b"HEAD", ..WHOLE }), again);
    assert_eq!(fresh(answer(503), Request { whole: false, ..WHOLE }), Verdict::Last);
    // It says itself when to come back, or with what status a call ended.
    let waits = Came::Answer { status: 503, grpc: None, wait: Some(MS) };
    assert_eq!(fresh(waits, WHOLE), Verdict::Last);
    assert_eq!(fresh(Came::Answer { status: 503, grpc: Some(14), wait: None }, WHOLE), Verdict::Last);
    // There is no other one.
    let mut alone = World::new(Retry::default());
    alone.rules.elsewhere = false;
    assert_eq!(alone.decide(answer(503), WHOLE), Verdict::Last);
    // Somebody said what is tried again: that, and nothing else.
    let said = Retry { on: RetryOn { reset: true, ..RetryOn::default() }, ..Retry::default() };
    assert_eq!(World::new(said).decide(answer(503), WHOLE), Verdict::Last);
    let mut never = World::new(Retry::default());
    never.rules.safe = false;
    assert_eq!(never.decide(answer(503), WHOLE), Verdict::Last);
    let mut poor = World::with(Retry::default(), RetryBudget { percent: 0, min_per_second: 0 });
    assert_eq!(poor.decide(answer(503), WHOLE), Verdict::Refused(Refusal::Budget));
}

#[test]
fn what_may_have_run_is_repeated_only_by_methods_that_may_run_twice() {
    let post = Request { method: b"POST", ..WHOLE };
    for came in [Came::Broken, Came::Late, answer(503)] {
        assert_eq!(World::new(gateway()).decide(came, post), Verdict::Last, "{came:?}");
        let said = Retry { methods: Some(vec!["POST".into()]), ..gateway() };
        assert!(matches!(World::new(said).decide(came, post), Verdict::Again(..)), "{came:?}");
    }
}

#[test]
fn pauses_double_to_their_limit_and_tries_have_an_end() {
    let mut world = World::new(Retry { attempts: 5, backoff_max: 100 * MS, ..gateway() });
    for pause in [25, 50, 100, 100, 100] {
        assert_eq!(world.decide(answer(502), WHOLE), Verdict::Again(pause * MS, Condition::Status));
    }
    assert_eq!(world.decide(answer(502), WHOLE), Verdict::Refused(Refusal::Attempts));
    assert_eq!(world.tries.called(), 5);
}

#[test]
fn an_answer_that_asks_for_patience_gets_it_within_bounds() {
    let asks = |wait| Came::Answer { status: 503, grpc: None, wait: Some(wait) };
    let mut world = World::new(gateway());
    let second = Duration::from_secs(1);
    assert_eq!(world.decide(asks(second), WHOLE), Verdict::Again(second + 25 * MS, Condition::Status));
    assert_eq!(world.decide(asks(second + MS), WHOLE), Verdict::Refused(Refusal::Time));
    let mut deaf = World::new(Retry { retry_after: None, ..gateway() });
    assert_eq!(deaf.decide(asks(Duration::MAX), WHOLE), Verdict::Again(25 * MS, Condition::Status));
    // Nobody waits for what comes too late.
    let late = Request { left: Some(20 * MS), ..WHOLE };
    assert_eq!(World::new(gateway()).decide(answer(503), late), Verdict::Refused(Refusal::Time));
}

#[test]
fn statuses_count_as_they_are_named() {
    let policy = Retry {
        codes: vec![429, 500],
        grpc: vec![GrpcStatus::Unavailable],
        methods: Some(vec!["GET".into(), "POST".into()]),
        ..Retry::default()
    };
    let decide = |came| World::new(policy.clone()).decide(came, WHOLE);
    assert_eq!(decide(answer(429)), Verdict::Again(25 * MS, Condition::Status));
    assert_eq!(decide(answer(503)), Verdict::Last);
    let grpc = |code| Came::Answer { status: 200, grpc: Some(code), wait: None };
    assert_eq!(decide(grpc(14)), Verdict::Again(25 * MS, Condition::GrpcStatus));
    assert_eq!(decide(grpc(13)), Verdict::Last);
    assert_eq!(decide(grpc(0)), Verdict::Last);
}

#[test]
fn a_body_that_is_gone_is_the_reason_once_something_calls() {
    let cut = Request { whole: false, ..WHOLE };
    assert_eq!(World::new(gateway()).decide(answer(503), cut), Verdict::Refused(Refusal::Body));
    assert_eq!(World::new(gateway()).decide(answer(404), cut), Verdict::Last);
}

#[test]
fn an_outage_is_made_worse_by_a_fifth_and_no_more() {
    let mut world = World::with(Retry { attempts: 3, ..gateway() }, RetryBudget::default());
    let mut again = 0;
    for _ in 0..10_000 {
        world.now += MS;
        again += world.request(answer(503));
    }
    assert!((1_900..=2_003).contains(&again), "{again}");
}

#[test]
fn a_few_may_always_be_tried_again() {
    let mut world = World::with(gateway(), RetryBudget::default());
    world.now += Duration::from_secs(60);
    // Two of one request, one of the next.
    let again: Vec<u32> = (0..4).map(|_| world.request(answer(503))).collect();
    assert_eq!(again, [2, 1, 0, 0]);
    world.now += Duration::from_secs(1);
    assert_eq!(world.request(answer(503)), 2);
    let mut none = World::with(gateway(), RetryBudget { percent: 0, min_per_second: 0 });
    assert_eq!((0..100).map(|_| none.request(answer(503))).sum::<u32>(), 0);
}

#[test]
fn what_no_endpoint_read_costs_nothing() {
    let on = RetryOn { connect_failure: true, ..RetryOn::default() };
    let mut world = World::with(Retry { on, ..gateway() }, RetryBudget { percent: 0, min_per_second: 0 });
    // One by itself, and two by the policy.
    assert_eq!(world.request(Came::Unread), 3);
    // It changes nothing, but it may have been read.
    assert_eq!(world.request(Came::Dropped), 0);
}

#[test]
fn what_was_saved_fades_within_a_second() {
    let mut world = World::with(gateway(), RetryBudget { percent: 20, min_per_second: 0 });
    // An hour of a thousand requests a second, all well.
    world.seen = 3_600_000;
    world.now += Duration::from_secs(3600);
    let again: u32 = (0..1000).map(|_| world.request(answer(503))).sum();
    assert!((190..=210).contains(&again), "{again}");
}

#[test]
fn workers_share_one_budget() {
    let start = Instant::now();
    let (budget, seen) = (Budget::new(start, 0), AtomicU64::new(0));
    let limit = RetryBudget { percent: 20, min_per_second: 0 };
    let taken: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (1..=5_000u64)
                        .filter(|n| {
                            seen.fetch_add(1, Relaxed);
                            budget.take(&limit, start + Duration::from_micros(*n), || seen.load(Relaxed))
                        })
                        .count() as u64
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert!((1..=4_000).contains(&taken), "{taken}");
}

proptest! {
    /// Whatever comes when: never more than the share of all requests and what there always may be.
    #[test]
    fn no_order_of_failures_gets_more_than_the_budget(
        percent in 0u8..=100,
        min_per_second in 0u32..20,
        steps in proptest::collection::vec((0u64..400, 0u64..50, 0u32..60), 1..100),
    ) {
        let limit = RetryBudget { percent, min_per_second };
        let start = Instant::now();
        let budget = Budget::new(start, 0);
        let (mut now, mut seen, mut taken) = (start, 0u64, 0u64);
        for (millis, requests, failures) in steps {
            now += millis as u32 * MS;
            seen += requests;
            taken += (0..failures).filter(|_| budget.take(&limit, now, || seen)).count() as u64;
        }
        let always = u64::from(min_per_second) as f64 * (1.0 + (now - start).as_secs_f64());
        let most = seen as f64 * f64::from(percent) / 100.0;
        prop_assert!(taken as f64 <= most + always + 1e-6, "{taken} of {seen}, {most} and {always}");
        if min_per_second == 0 {
            prop_assert!(taken as f64 <= most);
        }
    }
}

#[test]
fn what_a_device_failed_goes_to_the_host_once_whatever_the_policy_says() {
    let on_device = Request { on_device: true, method: b"POST", ..WHOLE };
    let fresh = |came, request| World::new(Retry::default()).decide(came, request);
    for came in [Came::Unread, Came::Dropped, Came::Broken, Came::Late, answer(500), answer(503)] {
        let mut world = World::with(Retry::default(), RetryBudget { percent: 0, min_per_second: 0 });
        assert_eq!(world.decide(came, on_device), Verdict::Again(Duration::ZERO, came.condition()));
        // What the host fails at then is tried again as that of any route.
        let next = world.decide(came, on_device);
        assert_eq!(next, world_at_host(came), "{came:?}");
    }
    assert_eq!(fresh(answer(404), on_device), Verdict::Last);
    assert_eq!(fresh(Came::Broken, Request { whole: false, ..on_device }), Verdict::Refused(Refusal::Body));
}

fn world_at_host(came: Came) -> Verdict {
    let mut world = World::with(Retry::default(), RetryBudget { percent: 0, min_per_second: 0 });
    world.decide(came, Request { method: b"POST", ..WHOLE })
}
