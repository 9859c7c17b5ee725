use proptest::prelude::*;

use super::*;
use crate::objective::Objective;
use crate::request::Work;

const RULES: PlanRules = PlanRules { idle_seconds: 60.0, settle_seconds: 10.0 };
const MB: u64 = 1 << 20;

fn function(name: &str, megabytes: u64) -> SiteFunction {
    SiteFunction {
        name: name.into(),
        memory_bytes: megabytes * MB,
        is_active: false,
        is_waited_for: false,
        runs: 0,
        run_seconds: 0.0,
        in_flight: 0,
    }
}

fn site(name: &str, megabytes: u64, functions: &[(&str, u64)]) -> Site {
    Site {
        name: name.into(),
        memory_bytes: Some(megabytes * MB),
        slots: 4,
        allowed: 4,
        functions: functions.iter().map(|(name, megabytes)| function(name, *megabytes)).collect(),
    }
}

/// Wants `function` at these sites, each with what it is worth there; a run takes 10 ms.
fn want(function: &str, at: &[(usize, f64)]) -> Want {
    let foreseen = |(site, worth): &(usize, f64)| Foreseen { site: *site, seconds: 0.01, worth: *worth };
    Want {
        policy: format!("default/{function}").into(),
        function: function.into(),
        rate: 0.0,
        at: at.iter().map(foreseen).collect(),
    }
}

/// Sites that do what they are told, in seconds that pass when a test says so.
struct World {
    planner: Planner,
    sites: Vec<Site>,
    wants: Vec<Want>,
    now: f64,
}

impl World {
    fn new(sites: Vec<Site>, wants: Vec<Want>) -> Self {
        let mut world = World { planner: Planner::new(RULES), sites, wants, now: 0.0 };
        world.round(&[]);
        world
    }

    /// Two seconds with so many requests a second for each want, which run where their function is active, if it is anywhere.
    fn round(&mut self, rates: &[u64]) -> Vec<Vec<Planned>> {
        self.now += 2.0;
        for (number, want) in self.wants.iter_mut().enumerate() {
            let requests = 2 * rates.get(number).copied().unwrap_or(0);
            want.rate = requests as f64 / 2.0;
            let active: Vec<usize> = want.at.iter().map(|at| at.site).collect();
            let active: Vec<usize> = active
                .into_iter()
                .filter(|site| {
                    self.sites[*site]
                        .functions
                        .iter()
                        .any(|held| held.name == want.function && held.is_active)
                })
                .collect();
            for site in &active {
                let held = self.sites[*site].functions.iter_mut().find(|held| held.name == want.function);
                if let Some(held) = held {
                    held.runs = requests.div_ceil(active.len() as u64);
                    held.run_seconds = held.runs as f64 * 0.01;
                }
            }
        }
        let planned = self.planner.plan(&self.sites, &self.wants, Time::from_seconds(self.now));
        for (site, planned) in self.sites.iter_mut().zip(&planned) {
            for function in &mut site.functions {
                let said = planned.iter().find(|said| said.function == function.name).unwrap();
                function.is_active = said.because.is_active();
                (function.runs, function.run_seconds) = (0, 0.0);
                function.is_waited_for &= !function.is_active;
            }
        }
        planned
    }

    fn active(&self) -> Vec<Vec<&str>> {
        self.sites
            .iter()
            .map(|site| site.functions.iter().filter(|held| held.is_active).map(|held| &*held.name).collect())
            .collect()
    }
}

fn because(planned: &[Vec<Planned>], site: usize, function: &str) -> Because {
    planned[site].iter().find(|said| &*said.function == function).map(|said| said.because).unwrap()
}

#[test]
fn what_nobody_wants_is_active_nowhere_and_comes_back_when_it_is_wanted() {
    let mut world = World::new(vec![site("a", 100, &[("scan", 10)])], vec![want("scan", &[(0, 0.1)])]);
    assert_eq!(world.active(), [Vec::<&str>::new()]);
    let planned = world.round(&[5]);
    assert_eq!(because(&planned, 0, "scan"), Because::Wanted);
    (0..20).for_each(|_| drop(world.round(&[5])));
    assert_eq!(world.active(), [["scan"]]);
    let mut rounds = 0;
    while world.active() == [["scan"]] {
        world.round(&[0]);
        rounds += 1;
    }
    assert_eq!(rounds, 30, "a minute after the last request");
    assert_eq!(because(&world.round(&[0]), 0, "scan"), Because::Idle);
    world.round(&[1]);
    assert_eq!(world.active(), [["scan"]]);
}

#[test]
fn what_is_waited_for_goes_before_all_else() {
    let functions = [("scan", 60), ("infer", 60)];
    let mut world = World::new(vec![site("a", 100, &functions)], vec![want("scan", &[(0, 9.0)])]);
    world.round(&[1000]);
    assert_eq!(world.active(), [["scan"]]);
    world.sites[0].functions[1].is_waited_for = true;
    assert_eq!(because(&world.round(&[1000]), 0, "infer"), Because::NoRoom, "it waits only now");
    let planned = world.round(&[1000]);
    assert_eq!(
        (because(&planned, 0, "infer"), because(&planned, 0, "scan")),
        (Because::Waited, Because::NoRoom)
    );
    assert_eq!(world.active(), [["infer"]]);
}

#[test]
fn what_is_in_use_makes_room_for_who_has_waited_and_they_take_turns() {
    let mut world = World::new(vec![site("a", 100, &[("one", 60), ("two", 60)])], Vec::new());
    let mut round = |waits: [bool; 2], runs: [u64; 2]| {
        world.now += 0.5;
        for (function, (waits, runs)) in world.sites[0].functions.iter_mut().zip(waits.into_iter().zip(runs))
        {
            (function.is_waited_for, function.runs) = (waits && !function.is_active, runs);
        }
        let planned = world.planner.plan(&world.sites, &[], Time::from_seconds(world.now));
        let because = ["one", "two"].map(|name| because(&planned, 0, name));
        for (function, because) in world.sites[0].functions.iter_mut().zip(because) {
            function.is_active = because.is_active();
        }
        because
    };
    assert_eq!(round([true, false], [0, 0]), [Because::Waited, Because::Idle], "there is room");
    assert_eq!(round([false, true], [9, 0]), [Because::Used, Because::NoRoom]);
    assert_eq!(round([false, true], [9, 0]), [Because::Used, Because::NoRoom]);
    assert_eq!(
        round([false, true], [9, 0]),
        [Because::NoRoom, Because::Waited],
        "it has waited for a second"
    );
    assert_eq!(round([true, false], [0, 9]), [Because::NoRoom, Because::Used]);
    assert_eq!(round([true, false], [0, 9]), [Because::NoRoom, Because::Used]);
    assert_eq!(round([true, false], [0, 9]), [Because::Waited, Because::NoRoom]);
}

#[test]
fn what_has_yet_to_come_everywhere_is_not_given_up() {
    let mut world = World::new(vec![site("a", 100, &[("scan", 10)])], Vec::new());
    let held = |waits, active, in_flight| SiteFunction {
        is_waited_for: waits,
        is_active: active,
        in_flight,
        ..function("scan", 10)
    };
    let mut round = |held: SiteFunction| {
        world.now += 0.1;
        world.sites[0].functions[0] = held;
        because(&world.planner.plan(&world.sites, &[], Time::from_seconds(world.now)), 0, "scan")
    };
    assert_eq!(round(held(true, false, 0)), Because::Waited);
    // One instance has it, and answers; another one has it only in a moment. Or whoever waited has left.
    assert_eq!(round(held(false, false, 0)), Because::Used);
    assert_eq!(round(held(false, true, 1)), Because::Used);
    // Another instance has come, without it.
    assert_eq!(round(held(false, false, 0)), Because::Used);
}

#[test]
fn memory_goes_to_what_brings_most_for_it() {
    let functions = [("scan", 60), ("infer", 60)];
    let mut world = World::new(
        vec![site("a", 100, &functions)],
        vec![want("scan", &[(0, 0.1)]), want("infer", &[(0, 0.1)])],
    );
    world.round(&[10, 1]);
    assert_eq!(world.active(), [["scan"]]);
    // A little more is no reason to change.
    (0..20).for_each(|_| drop(world.round(&[10, 11])));
    assert_eq!(world.active(), [["scan"]]);
    (0..2).for_each(|_| drop(world.round(&[10, 20])));
    assert_eq!(world.active(), [["infer"]]);
    // It has just become so.
    world.round(&[100, 1]);
    assert_eq!(world.active(), [["infer"]]);
    (0..10).for_each(|_| drop(world.round(&[100, 1])));
    assert_eq!(world.active(), [["scan"]]);
}

#[test]
fn there_are_as_many_sites_as_requests_need_and_then_fewer_again() {
    let sites = ["a", "b", "c"].map(|name| site(name, 100, &[("scan", 10)])).to_vec();
    let mut world = World::new(sites, vec![want("scan", &[(0, 0.1), (1, 0.2), (2, 0.1)])]);
    world.round(&[10]);
    assert_eq!(world.active(), [vec![], vec!["scan"], vec![]], "where it is worth most");
    // Four runs at once of 10 ms, of which a part is left free: 280 a second.
    world.round(&[500]);
    assert_eq!(world.active(), [vec!["scan"], vec!["scan"], vec![]]);
    world.round(&[800]);
    assert_eq!(world.active(), [["scan"], ["scan"], ["scan"]]);
    (0..60).for_each(|_| drop(world.round(&[10])));
    assert_eq!(world.active().iter().flatten().count(), 1);
}

#[test]
fn a_site_whose_limits_leave_nothing_gets_nothing() {
    let mut sites = ["a", "b"].map(|name| site(name, 100, &[("scan", 10)]));
    sites[0].allowed = 0;
    let mut world = World::new(sites.to_vec(), vec![want("scan", &[(0, 0.9), (1, 0.1)])]);
    let planned = world.round(&[10]);
    assert_eq!(
        (because(&planned, 0, "scan"), because(&planned, 1, "scan")),
        (Because::HeldBack, Because::Wanted)
    );
    // Its main task has gone, and the other one's has come.
    (world.sites[0].allowed, world.sites[1].allowed) = (4, 0);
    world.round(&[10]);
    assert_eq!(world.active()[0], ["scan"]);
    (0..40).for_each(|_| drop(world.round(&[10])));
    assert_eq!(world.active(), [vec!["scan"], vec![]]);
    // Half of what there was is left, and elsewhere all of it.
    (world.sites[0].allowed, world.sites[1].allowed) = (1, 4);
    world.wants[0].at[1].worth = 0.9;
    let planned = world.round(&[10]);
    assert_eq!(
        (because(&planned, 0, "scan"), because(&planned, 1, "scan")),
        (Because::Lingers, Because::Wanted)
    );
}

#[test]
fn what_callers_do_not_choose_makes_room_for_others() {
    let functions = [("scan", 60), ("infer", 60)];
    let mut world = World::new(
        vec![site("a", 100, &functions)],
        vec![want("scan", &[(0, 5.0)]), want("infer", &[(0, 0.01)])],
    );
    world.round(&[10, 10]);
    assert_eq!(world.active(), [["scan"]]);
    // Its requests stay on the host, whatever was foreseen.
    for _ in 0..40 {
        world.now += 2.0;
        world.wants.iter_mut().for_each(|want| want.rate = 10.0);
        let planned = world.planner.plan(&world.sites, &world.wants, Time::from_seconds(world.now));
        for function in &mut world.sites[0].functions {
            let said = planned[0].iter().find(|said| said.function == function.name).unwrap();
            function.is_active = said.because.is_active();
            function.runs = u64::from(function.is_active && &*function.name == "infer");
        }
    }
    assert_eq!(world.active(), [["infer"]]);
}

#[test]
fn what_no_policy_is_about_stays_while_it_is_used() {
    // There is one, whose callers ask for nothing.
    let mut world = World::new(vec![site("a", 100, &[("scan", 10)])], vec![want("scan", &[(0, 1.0)])]);
    world.sites[0].functions[0].is_waited_for = true;
    world.round(&[]);
    assert_eq!(world.active(), [["scan"]]);
    for _ in 0..100 {
        world.now += 2.0;
        world.sites[0].functions[0].runs = 1;
        let planned = world.planner.plan(&world.sites, &world.wants, Time::from_seconds(world.now));
        assert_eq!(because(&planned, 0, "scan"), Because::Used);
    }
    (0..31).for_each(|_| drop(world.round(&[])));
    assert_eq!(world.active(), [Vec::<&str>::new()]);
}

#[test]
fn a_device_near_its_data_is_worth_what_the_host_would_wait_for() {
    let host = Profile {
        link_bytes_per_second: 1e9,
        data_bytes_per_second: 1e7,
        compute_factor: 1.0,
        slots: 64,
        busy_watts: 10.0,
        joules_per_byte: 1e-8,
        is_data_moved: true,
    };
    let device = Profile { data_bytes_per_second: 1e9, compute_factor: 4.0, is_data_moved: false, ..host };
    let request = Request { work: Work::Stateless, bytes_in: 0, scan_bytes: 10_000_000 };
    let cost = FunctionCost { seconds: 0.0, seconds_per_byte: 1e-9 };
    let foresee = |at: &Profile, objective: Objective| {
        foresee((&host, at), &objective.weights(), &request, (&cost, 0.01))
    };
    let (seconds, worth) = foresee(&device, Objective::Latency);
    assert!((seconds - 0.0501).abs() < 1e-4, "{seconds}");
    assert!((worth - 0.9599).abs() < 1e-3, "{worth}");
    assert!(foresee(&device, Objective::Bytes).1 > 0.9);
    let slow = Profile { compute_factor: 1000.0, ..device };
    assert!(foresee(&slow, Objective::Latency).1 < 0.0 && foresee(&slow, Objective::Bytes).1 > 0.0);
}

prop_compose! {
    fn any_site(name: String)(
        memory in 0u64..200,
        slots in 0u32..4,
        functions in prop::collection::vec((1u64..100, any::<bool>(), any::<bool>(), 0u64..5, 0u32..2), 1..5),
    ) -> Site {
        let held = |(number, (megabytes, is_active, is_waited_for, runs, in_flight)): (usize, (u64, bool, bool, u64, u32))| {
            SiteFunction {
                is_active,
                is_waited_for: is_waited_for && !is_active,
                runs,
                run_seconds: runs as f64 * 0.1,
                in_flight,
                ..function(&format!("f{number}"), megabytes)
            }
        };
        let functions = functions.into_iter().enumerate().map(held).collect();
        Site { name: name.as_str().into(), memory_bytes: Some(memory * MB), slots: 2, allowed: slots, functions }
    }
}

proptest! {
    #[test]
    fn memory_is_never_exceeded_and_all_is_said_once(
        (a, b) in (any_site("a".into()), any_site("b".into())),
        requests in prop::collection::vec(0u64..100, 5),
        rounds in 1usize..6,
    ) {
        let wants: Vec<Want> = (0..5)
            .map(|number| {
                let mut want = want(&format!("f{number}"), &[(0, number as f64 - 1.0), (1, f64::NAN), (7, 1.0)]);
                want.rate = if requests[number] == 99 { f64::NAN } else { requests[number] as f64 };
                want
            })
            .collect();
        let (mut planner, mut sites) = (Planner::new(RULES), vec![a, b]);
        let mut same = planner.clone();
        for round in 0..rounds {
            let now = Time::from_seconds(round as f64);
            let planned = planner.plan(&sites, &wants, now);
            prop_assert_eq!(&planned, &same.plan(&sites, &wants, now), "the same again");
            for (site, planned) in sites.iter_mut().zip(&planned) {
                prop_assert_eq!(planned.len(), site.functions.len());
                let mut taken = 0;
                let waited: Vec<_> = site.functions.iter().filter(|held| held.is_waited_for).collect();
                if let [one] = waited[..]
                    && round > 0
                    && one.memory_bytes <= site.memory_bytes.unwrap()
                {
                    let said = planned.iter().find(|said| said.function == one.name).unwrap();
                    prop_assert_eq!(said.because, Because::Waited);
                }
                for held in &mut site.functions {
                    let said = planned.iter().filter(|said| said.function == held.name).collect::<Vec<_>>();
                    prop_assert_eq!(said.len(), 1);
                    held.is_active = said[0].because.is_active();
                    taken += if held.is_active { held.memory_bytes } else { 0 };
                }
                prop_assert!(taken <= site.memory_bytes.unwrap());
            }
        }
    }
}
