use super::*;

fn id() -> Id {
    let identity = Spiffe::parse("spiffe://mesh.lighter/ns/shop/sa/web").unwrap();
    Id { identity, instance: "host-1".into() }
}

#[test]
fn a_stream_that_is_lost_late_takes_nothing_away() {
    let sidecars = Sidecars::default();
    let (first, _) = mpsc::channel(1);
    let (second, mut orders) = mpsc::channel(1);
    sidecars.enter(id(), 1, first);
    sidecars.load(&id(), wire::Load { requests_in_flight: 7, ..wire::Load::default() }, Instant::now());
    sidecars.enter(id(), 2, second);
    sidecars.leave(&id(), 1);
    assert_eq!(sidecars.sum().load.requests_in_flight, 7);
    assert!(sidecars.drain("shop/web/host-1", "an operator", true));
    let drain = wire::Drain { cause: "an operator".into(), now: true };
    assert_eq!(orders.try_recv(), Ok(Order::Drain(drain)));
    assert!(!sidecars.drain("shop/web/host-2", "", false));
    sidecars.leave(&id(), 2);
    assert_eq!(sidecars.sum(), Sum::default());
}

#[test]
fn a_plan_is_told_once_and_again_to_whoever_comes_back() {
    let sidecars = Sidecars::default();
    let (sender, mut orders) = mpsc::channel(1);
    sidecars.enter(id(), 1, sender);
    let plan = |active: &[&str]| active.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert!(sidecars.plan(&id(), &plan(&[])), "that nothing is to be active is a plan");
    assert!(!sidecars.plan(&id(), &plan(&[])));
    assert!(!sidecars.plan(&id(), &plan(&["scan"])), "it has not heard the one before");
    assert_eq!(orders.try_recv(), Ok(Order::Plan(wire::Plan { active: vec![] })));
    assert!(sidecars.plan(&id(), &plan(&["scan"])));
    assert_eq!(orders.try_recv(), Ok(Order::Plan(wire::Plan { active: plan(&["scan"]) })));
    let (sender, mut orders) = mpsc::channel(1);
    sidecars.enter(id(), 2, sender);
    assert!(sidecars.plan(&id(), &plan(&["scan"])) && orders.try_recv().is_ok());
}

#[test]
fn a_place_is_what_its_sidecar_said_last_on_its_stream() {
    use lighter_migrate::{Incarnation, Stamp, Stand};
    let sidecars = Sidecars::default();
    sidecars.enter(id(), 1, mpsc::channel(1).0);
    let report = |incarnation, revision, stand| Report {
        incarnation: Incarnation(incarnation),
        revision,
        heard: Stamp::default(),
        stand,
        copy: None,
        declined: None,
    };
    let says = |report: Report| sidecars.places(&id(), stateful::encode_report(&report, 3));
    assert_eq!(sidecars.place(&id()), None);
    says(report(5, 2, Stand::Warm)).unwrap();
    says(report(5, 1, Stand::Empty)).unwrap();
    assert_eq!(sidecars.place(&id()), Some((report(5, 2, Stand::Warm), 3)), "what is late says nothing");
    says(report(6, 1, Stand::Empty)).unwrap();
    assert_eq!(sidecars.place(&id()), Some((report(6, 1, Stand::Empty), 3)));
    assert!(sidecars.places(&id(), wire::PlaceReport::default()).is_err());
    sidecars.enter(id(), 2, mpsc::channel(1).0);
    assert_eq!(sidecars.place(&id()), None, "who speaks now has said nothing");
}

#[test]
fn rates_are_of_the_time_between_reports() {
    let sidecars = Sidecars::default();
    sidecars.enter(id(), 1, mpsc::channel(1).0);
    let began = Instant::now();
    let said = |seconds: u64, requests: u64, runs: u64| {
        let function =
            wire::FunctionLoad { name: "scan".into(), runs, runs_in_flight: 1, run_seconds: runs as f64 };
        let device =
            wire::DeviceLoad { functions: vec![function], runs_allowed: Some(2), ..Default::default() };
        let demands = vec![wire::Demand { policy: "default/scans".into(), requests }];
        let load = wire::Load { device: Some(device), demands, ..Default::default() };
        sidecars.load(&id(), load, began + std::time::Duration::from_secs(seconds));
        let reported = sidecars.reported(&id()).unwrap();
        assert_eq!(reported.device.unwrap().runs_allowed, Some(2));
        (sidecars.demands()["default/scans"], reported.functions["scan"].lately)
    };
    let looks = || sidecars.planned(&id()).unwrap().functions["scan"].lately;
    assert_eq!(said(0, 100, 3), (0.0, 3), "who knows when that was");
    assert_eq!(said(5, 150, 10), (10.0, 10), "nobody has looked");
    assert_eq!((looks(), looks()), (10, 0));
    assert_eq!(said(10, 150, 10), (0.0, 0));
    assert_eq!(said(15, 20, 1), (0.0, 1), "less than there was");
    assert_eq!(looks(), 1);
    assert_eq!(said(16, u64::MAX, 1), (1e6, 0), "nonsense");
}

#[test]
fn what_makes_no_sense_does_no_harm() {
    let sidecars = Sidecars::default();
    let (drains, _) = mpsc::channel(1);
    sidecars.enter(id(), 1, drains);
    let load = wire::Load { requests_per_second: f64::NAN, cpus: -1.0, ..wire::Load::default() };
    sidecars.load(&id(), load, Instant::now());
    let versions = [(Kind::Route.url().to_owned(), "é".repeat(100)), ("other".to_owned(), "1".to_owned())];
    sidecars.in_force(&id(), wire::InForce { versions: versions.into() });
    let reported = sidecars.reported(&id()).unwrap();
    assert_eq!(reported.load, Some(Load::default()));
    assert_eq!((reported.in_force.len(), reported.in_force[&Kind::Route].len()), (1, LONGEST_VERSION));
}
