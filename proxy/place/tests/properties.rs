//! The placer in virtual time: what holds whatever is asked, and however it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lighter_place::*;
use proptest::prelude::*;

/// A host that reads its data over a link.
const ON_HOST: Profile = Profile {
    link_bytes_per_second: 1e9,
    data_bytes_per_second: 1e8,
    compute_factor: 1.0,
    slots: 8,
    busy_watts: 100.0,
    joules_per_byte: 1e-8,
    is_data_moved: true,
};

/// A device whose medium is ten times as fast as that link, and whose processor is four times as slow as the host's.
const ON_DEVICE: Profile = Profile {
    data_bytes_per_second: 1e9,
    compute_factor: 4.0,
    slots: 2,
    busy_watts: 8.0,
    is_data_moved: false,
    ..ON_HOST
};

const VERSION: u64 = 7;

fn request(scan_bytes: u64) -> Request {
    Request { work: Work::Versioned(VERSION), bytes_in: 300, scan_bytes }
}

fn holder(place: PlaceId) -> Offer {
    Offer { place, has_function: true, dataset: Some(VERSION) }
}

/// How long a place takes without waiting, by what it is really like.
fn service_seconds(profile: &Profile, request: &Request, cost: &FunctionCost) -> f64 {
    let bytes = (request.bytes_in + request.scan_bytes) as f64;
    request.bytes_in as f64 / profile.link_bytes_per_second
        + request.scan_bytes as f64 / profile.data_bytes_per_second
        + (cost.seconds + cost.seconds_per_byte * bytes) * profile.compute_factor
        + 0.01 * bytes / profile.link_bytes_per_second
}

fn answered() -> Outcome {
    Outcome::Answered(Answer { waited_seconds: Some(0.0), bytes_out: 0 })
}

#[derive(Clone, Debug)]
struct Ask {
    stateful: bool,
    scan_bytes: u64,
    /// Of each device: whether it holds the function, and the data at which version.
    offers: Vec<(bool, Option<u64>)>,
    /// 0: an answer, 1: a refusal, 2: a failure.
    end: u8,
    seconds: f64,
    pause_seconds: f64,
}

fn ask() -> impl Strategy<Value = Ask> {
    let version = prop_oneof![6 => Just(Some(VERSION)), 1 => Just(Some(VERSION + 1)), 1 => Just(None)];
    let offers = proptest::collection::vec((proptest::bool::weighted(0.9), version), 0..12);
    (
        proptest::bool::weighted(0.1),
        0u64..1 << 28,
        offers,
        prop_oneof![6 => Just(0u8), 1 => Just(1), 1 => Just(2)],
        0.0001..0.5f64,
        0.0..0.05f64,
    )
        .prop_map(|(stateful, scan_bytes, offers, end, seconds, pause_seconds)| Ask {
            stateful,
            scan_bytes,
            offers,
            end,
            seconds,
            pause_seconds,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_never_runs_where_it_must_not_and_every_decision_can_be_made_again(
        asks in proptest::collection::vec(ask(), 1..300),
        seed in any::<u64>(),
    ) {
        let mut placer = Placer::new(ON_HOST, seed);
        let devices: Vec<_> = (0..12).map(|_| placer.add_device(ON_DEVICE)).collect();
        // The last one is not the route's.
        let rules = RouteRules::default();
        let route = placer.add_route(rules, devices[..11].iter().copied());
        let (mut now, mut choices, mut explored) = (0.0, 0u32, 0u32);
        let mut ends: BinaryHeap<Reverse<(Time, usize)>> = BinaryHeap::new();
        let mut under_way = Vec::new();
        for ask in &asks {
            now += ask.pause_seconds;
            let at = Time::from_seconds(now);
            while let Some(Reverse((end, index))) = ends.pop() {
                if end > at {
                    ends.push(Reverse((end, index)));
                    break;
                }
                let (ticket, outcome): &(Ticket, Outcome) = &under_way[index];
                placer.ended(ticket, outcome, end);
            }
            let work = if ask.stateful { Work::Stateful } else { Work::Versioned(VERSION) };
            let request = Request { work, bytes_in: 100, scan_bytes: ask.scan_bytes };
            let offers: Vec<_> = ask.offers.iter().zip(&devices).map(|((has_function, dataset), place)| {
                Offer { place: *place, has_function: *has_function, dataset: *dataset }
            }).collect();
            let Placed { ticket, record } = placer.place(route, &request, &offers, at);
            let decision = record.decision;
            prop_assert_eq!(recompute(&record), decision);
            prop_assert_eq!(ticket.place, decision.place);
            if decision.place != HOST {
                let offer = offers.iter().find(|offer| offer.place == decision.place).unwrap();
                prop_assert!(offer.has_function && offer.dataset == Some(VERSION) && !ask.stateful, "{record:?}");
                prop_assert!(decision.place != devices[11], "not of the route");
                prop_assert!(record.inputs.draw < record.inputs.share, "{record:?}");
                let is_chosen = |one: &&Candidate| one.place == decision.place;
                let candidate = record.inputs.candidates.iter().find(is_chosen).unwrap();
                prop_assert_eq!(candidate.standing, Standing::Admissible);
                let (slo, longest) = (f64::from(rules.guard.slo_seconds), decision.timeout_seconds.unwrap());
                prop_assert!(longest >= slo / 4.0 && longest <= slo, "{record:?}");
            } else {
                prop_assert_eq!(decision.timeout_seconds, None);
            }
            prop_assert_eq!(ticket.timeout_seconds, decision.timeout_seconds);
            choices += u32::from(!matches!(decision.reason, Reason::Stateful | Reason::NoDevice));
            explored += u32::from(decision.reason == Reason::Explored);
            let most = choices as f32 * rules.exploration.share + EXPLORATION_BURST;
            prop_assert!(explored as f32 <= most + 1e-3, "{explored} of {choices}");
            let setback = match ask.end {
                1 => Some(Setback::Refused(Refusal::Reserve)),
                2 => Some(Setback::Failed(Failure::Error)),
                _ => None,
            };
            match setback.filter(|_| decision.place != HOST) {
                Some(setback) => {
                    placer.ended(&ticket, &Outcome::SetBack(setback), at);
                    let Placed { ticket, record } = placer.again(route, &request, setback, at);
                    prop_assert_eq!(record.decision.place, HOST, "to the host at once");
                    prop_assert_eq!(record.decision.reason, Reason::Setback(setback));
                    prop_assert_eq!(recompute(&record), record.decision);
                    // A log is as good as the record itself.
                    let line = serde_json::to_string(&record).unwrap();
                    let read: Record = serde_json::from_str(&line).unwrap();
                    prop_assert_eq!(read, record);
                    prop_assert_eq!(recompute(&read), record.decision);
                    placer.ended(&ticket, &answered(), at);
                    // And the next one does not go there.
                    let next = placer.place(route, &request, &offers, at);
                    prop_assert_ne!(next.record.decision.place, decision.place);
                    choices += u32::from(!matches!(next.record.decision.reason, Reason::Stateful | Reason::NoDevice));
                    explored += u32::from(next.record.decision.reason == Reason::Explored);
                    placer.ended(&next.ticket, &answered(), at);
                }
                None => {
                    ends.push(Reverse((Time::from_seconds(now + ask.seconds), under_way.len())));
                    under_way.push((ticket, answered()));
                }
            }
        }
    }

    #[test]
    fn a_route_is_on_the_host_within_a_window_after_its_device_became_slow(
        seed in any::<u64>(),
        per_second in 50.0..2000.0f64,
        slower in 8.0..50.0f64,
    ) {
        let rules = RouteRules::default();
        let (slo, window) = (f64::from(rules.guard.slo_seconds), f64::from(rules.guard.window_seconds));
        // Both have room for all: how long it takes does not depend on how many there are.
        let mut placer = Placer::new(Profile { slots: 10_000, ..ON_HOST }, seed);
        let device = placer.add_device(Profile { slots: 10_000, ..ON_DEVICE });
        let route = placer.add_route(rules, [device]);
        let asked = request(4 << 20);
        let good = service_seconds(&ON_DEVICE, &asked, &rules.cost);
        let on_host = service_seconds(&ON_HOST, &asked, &rules.cost);
        let slow_from = 3.0;
        let (mut placed, mut under_way) = (Vec::new(), Vec::<(Ticket, Outcome)>::new());
        let mut ends: BinaryHeap<Reverse<(Time, usize)>> = BinaryHeap::new();
        let count = (per_second * 8.0) as usize;
        for index in 0..count {
            let now = index as f64 / per_second;
            let at = Time::from_seconds(now);
            while let Some(Reverse((end, index))) = ends.peek().copied().filter(|Reverse((end, _))| *end <= at) {
                ends.pop();
                let (ticket, outcome) = &under_way[index];
                placer.ended(ticket, outcome, end);
                // However many there are, nobody waits.
                placer.report(ticket.place, 0.0, end);
            }
            let Placed { ticket, record } = placer.place(route, &asked, &[holder(device)], at);
            placed.push((now, record));
            let takes = match ticket.place {
                HOST => on_host,
                _ if now < slow_from => good,
                _ => good * slower,
            };
            let longest = ticket.timeout_seconds.unwrap_or(f64::INFINITY);
            let outcome = match takes {
                takes if takes > longest => Outcome::SetBack(Setback::Failed(Failure::TimedOut)),
                _ => answered(),
            };
            ends.push(Reverse((Time::from_seconds(now + takes.min(longest)), under_way.len())));
            under_way.push((ticket, outcome));
        }
        let on_device = |from: f64, to: f64| {
            let within = placed.iter().filter(|(at, _)| (from..to).contains(at));
            let all = within.clone().count() as f64;
            within.filter(|(_, record)| record.decision.place == device).count() as f64 / all
        };
        prop_assert!(on_device(slow_from - 1.0, slow_from) > 0.9, "it was worth it before");
        if good * slower > slo {
            prop_assert!(on_device(slow_from + window, slow_from + 2.0 * window) <= 0.05, "but for a probe or two");
            prop_assert!(on_device(slow_from + 2.0 * window, 8.0) <= 0.05, "and tried now and then");
        }
    }

    #[test]
    fn a_device_that_stalls_makes_no_answer_late_where_the_host_has_room(
        seed in any::<u64>(),
        per_second in 20.0..500.0f64,
        // Of the objective: what the host takes, and the device while it is well.
        host in 0.02..0.25f64,
        device in 0.01..0.12f64,
        varies in 1.0..1.6f64,
    ) {
        // It is the policy that wants the device, however quick both are.
        let rules = RouteRules { objective: Objective::Bytes, ..RouteRules::default() };
        let slo = f64::from(rules.guard.slo_seconds);
        let mut random = fastrand::Rng::with_seed(seed);
        // Both have room for all, and no medium that all have to wait for.
        let wide = Profile { slots: 10_000, data_bytes_per_second: 1e12, ..ON_HOST };
        let mut placer = Placer::new(wide, seed);
        let near = placer.add_device(Profile { is_data_moved: false, ..wide });
        let route = placer.add_route(rules, [near]);
        let asked = request(1 << 20);
        let stalled_from = 3.0;
        // When something happens, and how it ends: none is a request that comes.
        let mut to_come: BinaryHeap<Reverse<(Time, usize)>> = BinaryHeap::new();
        let mut under_way = Vec::<(Ticket, Outcome, f64)>::new();
        let (mut late, mut stalled) = (Vec::new(), 0);
        for index in 0..=(per_second * 6.0) as usize {
            let came = index as f64 / per_second;
            while let Some(Reverse((end, index))) = to_come.peek().copied().filter(|Reverse((end, _))| end.seconds() <= came) {
                to_come.pop();
                let (ticket, outcome, since) = under_way[index];
                placer.ended(&ticket, &outcome, end);
                placer.report(ticket.place, 0.0, end);
                match outcome {
                    Outcome::SetBack(setback) => {
                        stalled += usize::from(end.seconds() > stalled_from);
                        let again = placer.again(route, &asked, setback, end).ticket;
                        prop_assert_eq!(again.place, HOST);
                        let takes = slo * host * (1.0 + (varies - 1.0) * random.f64());
                        to_come.push(Reverse((Time::from_seconds(end.seconds() + takes), under_way.len())));
                        under_way.push((again, answered(), since));
                    }
                    // What was asked before anything was known shows what there is to know.
                    _ if since > 1.0 && end.seconds() - since > slo * 1.000001 => late.push((since, end.seconds())),
                    _ => {}
                }
            }
            let ticket = placer.place(route, &asked, &[holder(near)], Time::from_seconds(came)).ticket;
            let mean = if ticket.place == HOST { host } else { device };
            let takes = slo * mean * (1.0 + (varies - 1.0) * random.f64());
            let (takes, outcome) = match ticket.timeout_seconds {
                Some(longest) if came >= stalled_from || takes > longest => {
                    (longest, Outcome::SetBack(Setback::Failed(Failure::TimedOut)))
                }
                _ => (takes, answered()),
            };
            to_come.push(Reverse((Time::from_seconds(came + takes), under_way.len())));
            under_way.push((ticket, outcome, came));
        }
        prop_assert!(stalled > 0, "or nothing was shown");
        prop_assert!(late.is_empty(), "{late:?} of {stalled}");
    }

    #[test]
    fn with_every_parameter_wrong_by_ten_times_it_converges_within_a_thousand_requests(
        seed in any::<u64>(),
        wrong in proptest::array::uniform5(prop_oneof![Just(0.1), Just(1.0), Just(10.0)]),
        scan_bytes in (1u64 << 12)..(1 << 26),
        speed in 0.2..5.0f64,
    ) {
        let really = Profile { data_bytes_per_second: 2e8 * speed, ..ON_DEVICE };
        let thought = Profile {
            link_bytes_per_second: really.link_bytes_per_second * wrong[0],
            data_bytes_per_second: really.data_bytes_per_second * wrong[1],
            compute_factor: really.compute_factor * wrong[2],
            ..really
        };
        let thought_host = Profile { data_bytes_per_second: ON_HOST.data_bytes_per_second * wrong[3], ..ON_HOST };
        let cost = FunctionCost { seconds: 1e-3, seconds_per_byte: 1e-9 };
        let thought_cost = FunctionCost { seconds: cost.seconds * wrong[4], seconds_per_byte: cost.seconds_per_byte * wrong[4] };
        let guard = GuardRules { slo_seconds: 10.0, ..GuardRules::default() };
        let rules = RouteRules { cost: thought_cost, guard, ..RouteRules::default() };
        let mut placer = Placer::new(thought_host, seed);
        let device = placer.add_device(thought);
        let route = placer.add_route(rules, [device]);
        let asked = request(scan_bytes);
        let takes = [service_seconds(&ON_HOST, &asked, &cost), service_seconds(&really, &asked, &cost)];
        let best = takes[0].min(takes[1]);
        let (mut now, mut good) = (0.0, 0);
        for index in 0..1200 {
            let Placed { ticket, .. } = placer.place(route, &asked, &[holder(device)], Time::from_seconds(now));
            let seconds = takes[usize::from(ticket.place != HOST)];
            now += seconds;
            let bytes_out = (asked.scan_bytes + asked.bytes_in) / 100;
            let answer = Answer { waited_seconds: Some(0.0), bytes_out };
            placer.ended(&ticket, &Outcome::Answered(answer), Time::from_seconds(now));
            // Within the margin and a little more, either is right.
            good += usize::from(index >= 1000 && seconds <= best / 0.87);
        }
        prop_assert!(good >= 190, "{good} of 200, {takes:?}");
    }

    #[test]
    fn places_that_are_about_alike_do_not_take_turns(seed in any::<u64>(), apart in -0.05..0.05f64) {
        let rules = RouteRules::default();
        let mut placer = Placer::new(ON_HOST, seed);
        let device = placer.add_device(ON_HOST);
        let route = placer.add_route(rules, [device]);
        let mut random = fastrand::Rng::with_seed(seed);
        let asked = request(100_000);
        let base = service_seconds(&ON_HOST, &asked, &rules.cost);
        let (mut now, mut side, mut changes) = (0.0, HOST, 0);
        for index in 0..5000 {
            let Placed { ticket, record } = placer.place(route, &asked, &[holder(device)], Time::from_seconds(now));
            let mean = if ticket.place == HOST { base } else { base * (1.0 + apart) };
            now += mean * (0.8 + 0.4 * random.f64());
            placer.ended(&ticket, &answered(), Time::from_seconds(now));
            if index >= 500 && record.decision.reason != Reason::Explored && ticket.place != side {
                (side, changes) = (ticket.place, changes + 1);
            }
        }
        prop_assert!(changes <= 5, "{changes} changes of side");
    }
}

#[test]
fn the_same_seed_makes_the_same_decisions() {
    let run = |seed| {
        let mut placer = Placer::new(ON_HOST, seed);
        let devices: Vec<_> = (0..20).map(|_| placer.add_device(ON_DEVICE)).collect();
        let route = placer.add_route(RouteRules::default(), devices.iter().copied());
        let offers: Vec<_> = devices.iter().map(|device| holder(*device)).collect();
        let mut places = Vec::new();
        for index in 0..500u64 {
            let at = Time::from_seconds(index as f64 * 0.01);
            let Placed { ticket, record } = placer.place(route, &request(index << 12), &offers, at);
            placer.ended(&ticket, &answered(), Time::from_seconds(index as f64 * 0.01 + 0.009));
            places.push(record.decision.place);
        }
        places
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2), "of twenty devices, seven are drawn");
}

#[test]
fn a_device_that_stalled_is_found_without_any_answer() {
    let mut placer = Placer::new(ON_HOST, 1);
    let device = placer.add_device(ON_DEVICE);
    let route = placer.add_route(RouteRules::default(), [device]);
    let asked = request(16 << 20);
    let ask =
        |placer: &mut Placer, at| placer.place(route, &asked, &[holder(device)], Time::from_seconds(at));
    // The host is asked first, which is not known either.
    let on_host = ask(&mut placer, 0.0);
    assert_eq!((on_host.ticket.place, on_host.record.decision.reason), (HOST, Reason::Explored));
    placer.ended(&on_host.ticket, &answered(), Time::from_seconds(0.2));
    let first = (0..9).map(|_| ask(&mut placer, 0.0)).find(|placed| placed.ticket.place == device).unwrap();
    assert_eq!(ask(&mut placer, 0.01).record.inputs.candidates[1].standing, Standing::Unproven);
    placer.ended(&first.ticket, &answered(), Time::from_seconds(0.03));
    assert_eq!(ask(&mut placer, 0.04).ticket.place, device);
    let later = ask(&mut placer, 0.5);
    assert_eq!((later.ticket.place, later.record.decision.reason), (HOST, Reason::NoDevice));
    let words = later.record.explain(|place| format!("place {}", place.number()));
    assert!(words.starts_with("place 0: no device may run it\n  place 0: "), "{words}");
    assert!(words.contains("place 1: not asked: it has not answered for too long"), "{words}");
}

#[test]
fn a_device_that_falls_silent_is_left_alone_until_it_is_heard_of() {
    let mut placer = Placer::new(ON_HOST, 1);
    placer.expect_reports(0.2);
    let device = placer.add_device(ON_DEVICE);
    let route = placer.add_route(RouteRules::default(), [device]);
    let standing = |placer: &mut Placer, at: f64| {
        let Placed { ticket, record } =
            placer.place(route, &request(16 << 20), &[holder(device)], Time::from_seconds(at));
        placer.ended(&ticket, &answered(), Time::from_seconds(at + 0.02));
        record.inputs.candidates[1].standing
    };
    assert_eq!(standing(&mut placer, 9.0), Standing::Admissible, "it may not report at all");
    placer.report(device, 0.0, Time::from_seconds(10.0));
    assert_eq!(standing(&mut placer, 10.5), Standing::Admissible);
    assert_eq!(standing(&mut placer, 10.7), Standing::Silent);
    placer.report(device, 0.0, Time::from_seconds(10.8));
    assert_eq!(standing(&mut placer, 10.9), Standing::Admissible);
}

/// Far below this share of data that is given back, reading near the data pays; far above, it does not.
#[test]
fn the_share_of_data_at_which_a_device_pays_is_found_by_measuring() {
    // A device behind the same link as the host's data, and with the same speed of everything else.
    let device_profile = Profile { compute_factor: 1.0, link_bytes_per_second: 1e8, ..ON_DEVICE };
    let pays = |selectivity: f64| {
        let guard = GuardRules { slo_seconds: 10.0, ..GuardRules::default() };
        let mut placer = Placer::new(ON_HOST, 1);
        let device = placer.add_device(device_profile);
        let route = placer.add_route(RouteRules { guard, ..RouteRules::default() }, [device]);
        let asked = request(10_000_000);
        let (mut now, mut last) = (0.0, HOST);
        for _ in 0..600 {
            let Placed { ticket, record } =
                placer.place(route, &asked, &[holder(device)], Time::from_seconds(now));
            let out = asked.scan_bytes as f64 * selectivity;
            now += if ticket.place == HOST { 0.1 + out / 1e9 } else { 0.01 + out / 1e8 };
            let answer = Answer { waited_seconds: Some(0.0), bytes_out: out as u64 };
            placer.ended(&ticket, &Outcome::Answered(answer), Time::from_seconds(now));
            if record.decision.reason != Reason::Explored {
                last = ticket.place;
            }
        }
        last == device
    };
    // 0.1 + s/100 = 0.01 + s/10, in seconds: break-even at s = 1. Of the margin, some more or less.
    assert_eq!([0.001, 0.1, 0.5, 0.8].map(pays), [true; 4]);
    assert_eq!([1.3, 2.0, 4.0].map(pays), [false; 3]);
}

/// What is not waited for to the end says that it takes longer than was thought, until it is waited for long enough.
#[test]
fn a_device_that_is_thought_ten_times_as_fast_as_it_is_is_not_left_for_ever() {
    // A quarter of the objective on the host, and four fifths on the device, which the policy wants where it is in time.
    let (on_host, really) = (0.025, 0.08);
    let mut placer = Placer::new(ON_HOST, 1);
    let device = placer.add_device(ON_DEVICE);
    let cost = FunctionCost { seconds: really / 10.0 / ON_DEVICE.compute_factor, seconds_per_byte: 0.0 };
    let rules = RouteRules { objective: Objective::Bytes, cost, ..RouteRules::default() };
    let route = placer.add_route(rules, [device]);
    let asked = request(1000);
    let (mut now, mut answers, mut early) = (0.0, 0, 0);
    while now < 60.0 {
        now += 0.1;
        let ticket = placer.place(route, &asked, &[holder(device)], Time::from_seconds(now)).ticket;
        let outcome = match ticket.timeout_seconds {
            Some(longest) if longest < really => {
                early += 1;
                now += longest;
                Outcome::SetBack(Setback::Failed(Failure::TimedOut))
            }
            Some(_) => {
                now += really;
                answers += 1;
                answered()
            }
            None => {
                now += on_host;
                answered()
            }
        };
        placer.ended(&ticket, &outcome, Time::from_seconds(now));
        placer.report(ticket.place, 0.0, Time::from_seconds(now));
    }
    assert!((1..=5).contains(&early) && answers >= 100, "{early} {answers}");
}

#[test]
fn what_an_answer_took_is_time_and_of_it_work() {
    // As long to read as to compute, and as long again to get there and back.
    let profile = Profile { link_bytes_per_second: 1e6, data_bytes_per_second: 1e6, ..ON_HOST };
    let mut placer = Placer::new(profile, 1);
    let cost = FunctionCost { seconds: 0.1, seconds_per_byte: 0.0 };
    let route = placer.add_route(RouteRules { cost, out_share: 0.0, ..RouteRules::default() }, []);
    let asked = Request { work: Work::Stateless, bytes_in: 200_000, scan_bytes: 100_000 };
    let ticket = placer.place(route, &asked, &[], Time::from_seconds(1.0)).ticket;
    let answer = Answer { waited_seconds: Some(1.0), bytes_out: 0 };
    let spent = placer.ended(&ticket, &Outcome::Answered(answer), Time::from_seconds(4.0)).unwrap();
    for (seconds, expected) in
        [(spent.seconds, 3.0), (spent.busy_seconds, 1.0), (spent.processor_seconds, 0.5)]
    {
        assert!((seconds - expected).abs() < 1e-6, "{spent:?}");
    }
    let ticket = placer.place(route, &asked, &[], Time::from_seconds(5.0)).ticket;
    assert_eq!(placer.ended(&ticket, &Outcome::Abandoned, Time::from_seconds(6.0)), None);
}
