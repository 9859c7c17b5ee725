use proptest::prelude::*;

use super::*;

const PROFILE: Profile = Profile {
    link_bytes_per_second: 1.25e9,
    data_bytes_per_second: 1e9,
    compute_factor: 1.0,
    slots: 8,
    busy_watts: 5.0,
    joules_per_byte: 0.0,
    is_data_moved: false,
};
const RULES: MoveRules = MoveRules { horizon_seconds: 600.0, margin: 0.5, settle_seconds: 30.0 };
/// How often it is decided, in seconds.
const ROUND: f64 = 2.0;

fn seat(name: &str, compute_factor: f64) -> Seat {
    let profile = Profile { compute_factor, ..PROFILE };
    Seat { name: name.into(), profile, runs: Some((8, 0)), queue_seconds: 0.0 }
}

/// 50 requests a second, of 80 ms each where it is.
fn seated(places: Vec<Seat>) -> Seated {
    Seated {
        name: "default/shop".into(),
        rules: RULES,
        at: 0,
        rate: 50.0,
        in_flight: 0,
        seconds: Some(0.08),
        blackout_seconds: 0.5,
        state_bytes: 16 << 20,
        is_moving: false,
        places,
    }
}

/// A Service whose requests take what they take, and that moves when it is decided.
struct World {
    mover: Mover,
    service: Seated,
    /// How long a request takes at each place.
    takes: Vec<f64>,
    now: f64,
    moves: Vec<usize>,
}

impl World {
    fn new(service: Seated, takes: &[f64]) -> Self {
        World { mover: Mover::default(), service, takes: takes.into(), now: 0.0, moves: Vec::new() }
    }

    /// One round, in which what is measured is so many times what it takes.
    fn round(&mut self, noise: f64) -> Decided {
        self.now += ROUND;
        self.service.seconds = Some(self.takes[self.service.at] * noise);
        let now = Time::from_seconds(self.now);
        let decided = self.mover.decide(std::slice::from_ref(&self.service), false, now)[0];
        if let (None, Some(best)) = (decided.stays, decided.best) {
            self.mover.asked(&self.service, &best);
            self.mover.ended(&self.service.name, true, &self.service.rules, now);
            self.service.at = best.to;
            self.moves.push(best.to);
        }
        decided
    }

    /// So many seconds without noise. The last that was decided.
    fn pass(&mut self, seconds: f64) -> Decided {
        let mut last = self.round(1.0);
        for _ in 1..(seconds / ROUND) as u32 {
            last = self.round(1.0);
        }
        last
    }

    fn stays(&mut self, seconds: f64) -> Option<Stays> {
        self.pass(seconds).stays
    }
}

/// Eight times as slow as the other place.
fn slow_and_fast() -> World {
    World::new(seated(vec![seat("slow", 8.0), seat("fast", 1.0)]), &[0.08, 0.01])
}

#[test]
fn it_moves_once_to_where_requests_take_less_and_stays_there() {
    let mut world = slow_and_fast();
    assert_eq!(world.stays(2.0), Some(Stays::Unmeasured));
    assert_eq!(world.stays(4.0), Some(Stays::Settling));
    world.pass(40.0);
    assert_eq!(world.moves, [1]);
    let mut paid = Vec::new();
    for _ in 0..500 {
        paid.extend(world.round(1.0).has_paid);
    }
    assert_eq!((world.moves.len(), paid), (1, vec![true]));
}

#[test]
fn gain_and_cost_are_what_callers_wait() {
    let mut world = slow_and_fast();
    let best = world.pass(10.0).best.unwrap();
    assert!((best.gain_seconds - 50.0 * 600.0 * 0.07).abs() < 1e-6, "{best:?}");
    // 25 requests wait for a quarter of a second each, ten times as bad; the copy is next to nothing.
    assert!((best.cost_seconds - 62.5).abs() < 0.5, "{best:?}");
    assert_eq!(best.to, 1);
}

#[test]
fn each_rule_counts() {
    let after = |change: fn(&mut Seated), seconds| {
        let mut world = slow_and_fast();
        change(&mut world.service);
        (world.stays(seconds), world.moves.len())
    };
    assert_eq!(after(|_| {}, 20.0), (Some(Stays::Settling), 0));
    assert_eq!(after(|service| service.rules.settle_seconds = 0.0, 20.0).1, 1, "settle");
    // 3.5 s a second of horizon, and it costs 62.5 s.
    let short =
        |service: &mut Seated| (service.rules.horizon_seconds, service.rules.settle_seconds) = (1.0, 0.0);
    assert_eq!(after(short, 20.0), (Some(Stays::NotPaid), 0), "horizon");
    let tight =
        |service: &mut Seated| (service.rules.horizon_seconds, service.rules.settle_seconds) = (20.0, 0.0);
    assert_eq!(after(tight, 20.0), (Some(Stays::NotPaid), 0), "margin");
    let without = |service: &mut Seated| {
        service.rules = MoveRules { horizon_seconds: 20.0, margin: 0.0, settle_seconds: 0.0 };
    };
    assert_eq!(after(without, 20.0).1, 1);
}

#[test]
fn who_is_hardly_asked_moves_as_well_and_who_is_not_asked_does_not() {
    let mut world = World::new(seated(vec![seat("slow", 8.0), seat("fast", 1.0)]), &[4.0, 0.5]);
    world.service.rate = 0.0;
    assert_eq!(world.stays(600.0), Some(Stays::Idle));
    // One ends in every third round.
    let asks = |round: u32, world: &mut World| {
        world.service.rate = if round.is_multiple_of(3) { 0.5 } else { 0.0 };
        world.round(1.0)
    };
    let mut rounds = 0;
    while world.moves.is_empty() && rounds < 300 {
        asks(rounds, &mut world);
        rounds += 1;
    }
    assert_eq!(world.moves, [1]);
    world.service.rate = 0.0;
    assert_eq!(world.stays(60.0), Some(Stays::Idle));
}

#[test]
fn who_waits_for_what_is_under_way_is_not_idle() {
    // Three at a time that take 20 s and end together: in between none ends for longer than idle takes.
    let moves = |in_flight| {
        let mut world = World::new(seated(vec![seat("slow", 8.0), seat("fast", 1.0)]), &[20.0, 2.5]);
        let mut seen = Vec::new();
        for round in 0..300 {
            world.service.rate = if round % 10 == 9 { 3.0 / ROUND } else { 0.0 };
            world.service.in_flight = in_flight;
            seen.extend(world.round(1.0).stays);
        }
        (world.moves, seen.contains(&Stays::Idle))
    };
    assert_eq!(moves(3), (vec![1], false));
    assert_eq!(moves(0), (vec![], true));
}

#[test]
fn what_a_place_has_to_do_counts() {
    let stays = |change: fn(&mut Seat)| {
        let mut world = slow_and_fast();
        change(&mut world.service.places[1]);
        world.stays(60.0)
    };
    // 50 runs of 10 ms a second are half a run at any time.
    assert_eq!(stays(|seat| seat.runs = Some((1, 1))), Some(Stays::NoCandidate));
    assert_eq!(stays(|seat| seat.runs = Some((0, 0))), Some(Stays::NoCandidate));
    assert_eq!(stays(|seat| seat.queue_seconds = 0.1), Some(Stays::NotPaid));
    let alone = World::new(seated(vec![seat("slow", 8.0)]), &[0.08]).stays(60.0);
    assert_eq!(alone, Some(Stays::NoCandidate));
}

#[test]
fn a_move_that_did_not_pay_is_undone_and_makes_the_next_one_harder() {
    // By what is said of it the other place is eight times as fast, and it is twice as slow.
    let mut world = World::new(seated(vec![seat("a", 8.0), seat("b", 1.0)]), &[0.08, 0.16]);
    let mut paid = Vec::new();
    let mut when = Vec::new();
    for _ in 0..2000 {
        let before = world.moves.len();
        paid.extend(world.round(1.0).has_paid);
        if world.moves.len() > before {
            when.push(world.now);
        }
    }
    assert_eq!(world.moves, [1, 0], "there and back, and not again");
    assert_eq!(paid, [false, true]);
    let (to, back) = (when[0], when[1] - when[0]);
    assert!(back >= 2.0 * RULES.settle_seconds && back > to, "{when:?}");
}

#[test]
fn after_a_failure_it_waits_for_longer_each_time() {
    let mut world = slow_and_fast();
    let mut tries = Vec::new();
    for _ in 0..1000 {
        world.now += ROUND;
        let now = Time::from_seconds(world.now);
        let decided = world.mover.decide(std::slice::from_ref(&world.service), false, now)[0];
        if decided.stays.is_none() {
            tries.push(world.now);
            world.mover.asked(&world.service, &decided.best.unwrap());
            world.mover.ended("default/shop", false, &RULES, now);
        }
    }
    let pauses: Vec<f64> = tries.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(pauses.len() >= 4 && pauses.windows(2).all(|two| two[1] > 1.5 * two[0]), "{pauses:?}");
    assert!(pauses[0] >= RULES.settle_seconds, "{pauses:?}");
}

#[test]
fn one_moves_at_a_time_and_it_is_the_one_that_brings_most() {
    let (mut mover, slow) = (Mover::default(), slow_and_fast().service);
    let more = Seated { name: "default/more".into(), rate: 60.0, ..slow.clone() };
    let mut services = [slow, more];
    let mut last = Vec::new();
    for round in 1..=25 {
        last = mover.decide(&services, false, Time::from_seconds(f64::from(round) * ROUND));
        if last.iter().any(|decided| decided.stays.is_none()) {
            break;
        }
    }
    assert_eq!([last[0].stays, last[1].stays], [Some(Stays::Moving), None]);
    services[1].is_moving = true;
    let next = mover.decide(&services, false, Time::from_seconds(60.0));
    assert!(next.iter().all(|decided| decided.stays == Some(Stays::Moving)), "{next:?}");
    // In the midst of its move nobody serves it, so that it is not among them.
    let other = std::slice::from_ref(&services[0]);
    assert_eq!(mover.decide(other, true, Time::from_seconds(62.0))[0].stays, Some(Stays::Moving));
    assert_eq!(mover.decide(other, false, Time::from_seconds(64.0))[0].stays, None);
}

#[test]
fn what_is_known_is_kept_while_nobody_serves() {
    let mut world = slow_and_fast();
    while world.moves.is_empty() {
        world.round(1.0);
    }
    world.now += 4.0;
    assert!(world.mover.decide(&[], false, Time::from_seconds(world.now)).is_empty());
    let paid: Vec<bool> = (0..30).filter_map(|_| world.round(1.0).has_paid).collect();
    assert_eq!(paid, [true]);
}

#[test]
fn who_moves_it_otherwise_teaches_as_well() {
    let mut world = World::new(seated(vec![seat("a", 4.0), seat("b", 4.0)]), &[0.08, 0.01]);
    world.pass(100.0);
    assert!(world.moves.is_empty(), "nothing is known of `b` but that it is like `a`");
    world.service.at = 1;
    assert_eq!(world.pass(60.0).has_paid, None);
    world.service.at = 0;
    world.pass(60.0);
    assert_eq!(world.moves, [1], "where it was faster");
}

#[test]
fn what_a_place_was_like_is_known_when_it_is_gone() {
    let mut world = slow_and_fast();
    while world.moves.is_empty() {
        world.round(1.0);
    }
    // Its requests take as long as before, and the old place has ended.
    (world.takes, world.service.at) = (vec![0.08], 0);
    world.service.places.remove(0);
    let paid: Vec<bool> = (0..30).filter_map(|_| world.round(1.0).has_paid).collect();
    assert_eq!(paid, [false]);
    // Another is said to be like it, which it is not: it is an eighth.
    let known = &world.mover.services[&world.service.name];
    assert!((known.factors["fast"] - 8.0).abs() < 1e-6, "{known:?}");
}

#[test]
fn what_was_promised_of_one_place_is_not_asked_of_another() {
    let mut world = slow_and_fast();
    world.service.places.push(seat("other", 8.0));
    world.takes.push(0.08);
    while world.moves.is_empty() {
        world.round(1.0);
    }
    // Somebody moves it on before it is judged.
    world.round(1.0);
    world.service.at = 2;
    let paid = |world: &mut World| (0..10).filter_map(|_| world.round(1.0).has_paid).count();
    assert_eq!(paid(&mut world), 0);
    // And back.
    world.service.at = 1;
    assert_eq!(paid(&mut world) + paid(&mut world), 0);
}

#[test]
fn what_was_not_looked_at_is_not_taken_for_known() {
    let mut world = slow_and_fast();
    world.service.rate = 1.0;
    world.round(1.0);
    world.now += 1000.0;
    assert_eq!(world.stays(2.0), Some(Stays::Unmeasured), "ten requests are known");
}

#[test]
fn who_waited_for_the_move_says_nothing_of_the_place() {
    let mut world = slow_and_fast();
    while world.moves.is_empty() {
        world.round(1.0);
    }
    world.round(100.0);
    world.round(100.0);
    let paid: Vec<bool> = (0..20).filter_map(|_| world.round(1.0).has_paid).collect();
    assert_eq!(paid, [true]);
}

#[test]
fn what_waits_here_is_not_what_takes_long_there() {
    let mut world = World::new(seated(vec![seat("here", 1.0), seat("there", 1.0)]), &[0.08, 0.02]);
    world.service.places[0].queue_seconds = 0.06;
    let best = world.pass(10.0).best.unwrap();
    assert!((best.request_seconds[1] - 0.02).abs() < 1e-6, "{best:?}");
    world.service.places[0].queue_seconds = 60.0;
    let best = world.pass(2.0).best.unwrap();
    assert!((best.request_seconds[1] - 0.008).abs() < 1e-6, "{best:?}");
}

proptest! {
    /// Whatever is said and measured: nothing moves that brings no more than it costs by the margin, nor where nobody asks.
    #[test]
    fn nothing_moves_that_does_not_pay(
        factors in proptest::collection::vec(prop_oneof![0.0..100.0, Just(f64::NAN), Just(f64::INFINITY)], 1..5),
        rates in proptest::collection::vec(prop_oneof![Just(0.0), 0.0..1000.0, Just(f64::NAN), Just(-1.0)], 1..60),
        seconds in prop_oneof![0.0..10.0, Just(f64::NAN), Just(f64::INFINITY)],
        blackout_seconds in prop_oneof![0.0..100.0, Just(f64::NAN)],
        state_bytes in any::<u64>(),
        horizon_seconds in 0.0..1000.0,
        margin in 0.0..10.0,
        running in 0u32..12,
    ) {
        let places: Vec<Seat> = factors.iter().enumerate().map(|(number, factor)| {
            Seat { runs: Some((8, running)), ..seat(&format!("p{number}"), *factor) }
        }).collect();
        let rules = MoveRules { horizon_seconds, margin, settle_seconds: 4.0 };
        let mut service = Seated { rules, seconds: Some(seconds), blackout_seconds, state_bytes, ..seated(places) };
        let mut mover = Mover::default();
        for (round, rate) in rates.iter().enumerate() {
            service.rate = *rate;
            let decided = mover.decide(std::slice::from_ref(&service), false, Time::from_seconds(round as f64 * ROUND))[0];
            if decided.stays.is_none() {
                let best = decided.best.unwrap();
                let lately = &rates[round.saturating_sub(4)..=round];
                prop_assert!(lately.iter().any(|rate| *rate > 0.0) && best.to != service.at);
                prop_assert!(best.gain_seconds > best.cost_seconds * (1.0 + margin), "{best:?}");
                prop_assert!(best.request_seconds[1] < best.request_seconds[0]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However wrong what is said of places is, and however what is measured swings: in two hours hardly more moves than there are
    /// places, and most of them early.
    #[test]
    fn it_does_not_go_back_and_forth(
        said in proptest::collection::vec(0.2f64..5.0, 3),
        takes in proptest::collection::vec(0.005f64..0.05, 3),
        seed in any::<u64>(),
    ) {
        let places = said.iter().enumerate().map(|(number, factor)| {
            Seat { runs: None, ..seat(&format!("p{number}"), *factor) }
        });
        let mut world = World::new(seated(places.collect()), &takes);
        let mut draw = seed | 1;
        let mut half = 0;
        for round in 0..3600 {
            draw ^= draw << 13;
            draw ^= draw >> 7;
            draw ^= draw << 17;
            world.round(0.7 + 0.6 * (draw >> 11) as f64 / (1u64 << 53) as f64);
            if round == 1800 {
                half = world.moves.len();
            }
        }
        prop_assert!(world.moves.len() <= 8, "{:?}", world.moves);
        prop_assert!(world.moves.len() - half <= 2, "{:?}", world.moves);
    }
}
