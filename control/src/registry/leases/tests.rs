use super::super::instance::Port;
use super::*;

const LEASE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

/// Time that passes when a test says so.
struct World {
    leases: Leases,
    now: Instant,
}

fn service(name: &str) -> ServiceName {
    ServiceName::new("default", name)
}

fn instance(of: &str, address: &str) -> Instance {
    Instance {
        service: service(of),
        identity: format!("spiffe://mesh.lighter/ns/default/sa/{of}").into(),
        ports: vec![Port { port: 80, address: address.parse().unwrap(), link: None }],
        ready: true,
        draining: false,
        leaving: false,
        wires: Vec::new(),
        version: String::new(),
        priority: 0,
        locality: Default::default(),
        device: None,
        remembering: None,
    }
}

impl World {
    fn new() -> Self {
        World { leases: Leases::new(LEASE), now: Instant::now() }
    }

    fn register(&mut self, stream: u64, name: &str, instance: Instance) -> Result<usize, Refused> {
        self.leases.register(stream, &name.into(), instance).map(|ports| ports.len())
    }

    fn pass(&mut self, time: Duration) -> usize {
        self.now += time;
        self.leases.expire(self.now).0.len()
    }

    fn listed(&self, of: &str) -> Vec<String> {
        let port = ServicePort { service: service(of), port: 80 };
        self.leases.endpoints(&port).listed.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }
}

#[test]
fn an_instance_stays_while_its_stream_does() {
    let mut world = World::new();
    assert_eq!(world.register(1, "a-1", instance("a", "10.0.0.1:1")), Ok(1));
    assert_eq!(world.pass(LEASE * 100), 0);
    assert_eq!(world.listed("a"), ["10.0.0.1:1"]);
    assert_eq!(world.leases.next_end(), None);
}

#[test]
fn a_lost_stream_starts_the_clock_and_another_one_stops_it() {
    let mut world = World::new();
    world.register(1, "a-1", instance("a", "10.0.0.1:1")).unwrap();
    world.leases.lost(1, world.now);
    assert_eq!(world.pass(LEASE - SECOND), 0);
    assert_eq!(world.listed("a"), ["10.0.0.1:1"], "it is still there");
    world.register(2, "a-1", instance("a", "10.0.0.1:1")).unwrap();
    assert_eq!(world.pass(LEASE * 2), 0);

    world.leases.lost(2, world.now);
    assert_eq!(world.leases.next_end(), Some(world.now + LEASE));
    assert_eq!(world.pass(LEASE), 1);
    assert!(world.listed("a").is_empty());
    assert_eq!((world.leases.len(), world.leases.next_end()), (0, None));
}

#[test]
fn a_stream_that_is_lost_late_takes_nothing_away() {
    let mut world = World::new();
    world.register(1, "a-1", instance("a", "10.0.0.1:1")).unwrap();
    world.register(2, "a-1", instance("a", "10.0.0.1:2")).unwrap();
    world.leases.lost(1, world.now);
    assert_eq!(world.pass(LEASE * 2), 0);
    assert_eq!(world.listed("a"), ["10.0.0.1:2"]);
}

#[test]
fn a_device_is_what_takes_requests_and_stays_as_it_was_while_it_is_away() {
    let mut world = World::new();
    let device = |address: &str, slots, draining| {
        let functions = vec!["scan".into()];
        let said = (DeviceClass::Csd, 80, functions, Vec::new());
        let device = device::Device {
            class: said.0,
            port: said.1,
            functions: said.2,
            held: Vec::new(),
            memory_bytes: None,
            datasets: said.3,
            slots,
            data_bytes_per_second: None,
        };
        Instance { device: Some(device), draining, ..instance("a", address) }
    };
    let slots = |world: &World| world.leases.device(&service("a")).map(|device| device.slots);
    let standing = |world: &World| {
        let devices = world.leases.devices(&service("a"));
        devices.iter().map(|one| one.standing.label()).collect::<Vec<_>>()
    };
    assert_eq!((slots(&world), standing(&world).len()), (None, 0));
    world.register(1, "a-1", device("10.0.0.1:1", 2, false)).unwrap();
    world.register(2, "a-2", device("10.0.0.2:1", 3, false)).unwrap();
    // Another program of the service, which is none.
    world.register(3, "a-3", instance("a", "10.0.0.3:1")).unwrap();
    assert_eq!((slots(&world), standing(&world)), (Some(5), vec!["ready", "ready"]));
    world.register(1, "a-1", device("10.0.0.1:1", 2, true)).unwrap();
    assert_eq!((slots(&world), standing(&world)), (Some(3), vec!["draining", "ready"]));
    world.register(2, "a-2", device("10.0.0.2:1", 3, true)).unwrap();
    assert_eq!(slots(&world), Some(5), "nobody else is there");
    world.register(2, "a-2", device("10.0.0.2:1", 3, false)).unwrap();
    world.leases.lost(2, world.now);
    assert_eq!((slots(&world), standing(&world)), (Some(3), vec!["draining", "lost"]));
    world.leases.lost(1, world.now);
    world.pass(LEASE);
    assert_eq!((slots(&world), standing(&world).len()), (None, 0));
}

#[test]
fn only_what_is_ready_and_does_not_drain_is_listed() {
    let mut world = World::new();
    let with = |ready, draining| Instance { ready, draining, ..instance("a", "10.0.0.1:1") };
    for (ready, draining, listed) in [(false, false, 0), (true, false, 1), (true, true, 0), (false, true, 0)]
    {
        world.register(1, "a-1", with(ready, draining)).unwrap();
        assert_eq!(world.listed("a").len(), listed, "{ready} {draining}");
    }
    let port = ServicePort { service: service("a"), port: 80 };
    assert_eq!(world.leases.endpoints(&port).unlisted.len(), 1, "its resource may have its address too");
}

#[test]
fn whoever_is_withdrawn_is_there_and_not_listed() {
    let mut world = World::new();
    world.register(1, "a-1", instance("a", "10.0.0.1:1")).unwrap();
    world.register(2, "a-2", instance("a", "10.0.0.2:1")).unwrap();
    assert_eq!(world.leases.withdraw(&service("a"), ["a-1".into()].into()).len(), 1);
    assert_eq!(world.listed("a"), ["10.0.0.2:1"]);
    let port = ServicePort { service: service("a"), port: 80 };
    assert_eq!(world.leases.endpoints(&port).unlisted.len(), 1, "its resource may have its address too");
    let key = Key { service: service("a"), name: "a-1".into() };
    assert!(world.leases.presence(&key).unwrap().ready);
    // Whatever it says of itself.
    world.register(1, "a-1", instance("a", "10.0.0.9:1")).unwrap();
    assert_eq!(world.listed("a"), ["10.0.0.2:1"]);
    world.leases.withdraw(&service("a"), ["a-2".into()].into());
    assert_eq!(world.listed("a"), ["10.0.0.9:1"]);
    world.leases.withdraw(&service("a"), BTreeSet::new());
    assert_eq!(world.listed("a").len(), 2);
}

#[test]
fn of_a_service_with_state_one_is_listed_or_none() {
    let mut world = World::new();
    world.register(1, "a-1", instance("a", "10.0.0.1:1")).unwrap();
    world.register(2, "a-2", instance("a", "10.0.0.2:1")).unwrap();
    assert_eq!(world.leases.list_alone(&service("a"), None).len(), 1);
    assert!(world.listed("a").is_empty());
    world.leases.list_alone(&service("a"), Some("a-2".into()));
    assert_eq!(world.listed("a"), ["10.0.0.2:1"]);
    assert!(world.leases.list_alone(&service("a"), Some("a-2".into())).is_empty(), "that is said already");
    // Nobody takes its place by being there.
    world.leases.lost(2, world.now);
    world.pass(LEASE);
    assert!(world.listed("a").is_empty());
    assert!(world.leases.alone_are(|_| true).is_empty());
    assert_eq!(world.leases.alone_are(|_| false).len(), 1);
    assert_eq!(world.listed("a"), ["10.0.0.1:1"]);
}

#[test]
fn whoever_is_withdrawn_is_listed_before_nobody_is() {
    let mut world = World::new();
    world.register(1, "a-1", instance("a", "10.0.0.1:1")).unwrap();
    world.register(2, "a-2", instance("a", "10.0.0.2:1")).unwrap();
    world.leases.withdraw(&service("a"), ["a-1".into()].into());
    assert_eq!(world.listed("a"), ["10.0.0.2:1"]);
    world.leases.lost(2, world.now);
    assert_eq!(world.listed("a"), ["10.0.0.2:1"], "its lease runs");
    world.pass(LEASE);
    assert_eq!(world.listed("a"), ["10.0.0.1:1"]);
    world.register(3, "a-3", instance("a", "10.0.0.3:1")).unwrap();
    assert_eq!(world.listed("a"), ["10.0.0.3:1"]);
    world.register(3, "a-3", Instance { draining: true, ..instance("a", "10.0.0.3:1") }).unwrap();
    assert_eq!(world.listed("a"), ["10.0.0.1:1"]);
}

#[test]
fn after_a_restart_nobody_is_gone_before_a_full_lease() {
    let mut world = World::new();
    for name in ["a-1", "a-2"] {
        world.leases.restore(name.into(), instance("a", &format!("10.0.0.1:{}", &name[2..])), world.now);
    }
    assert_eq!(world.listed("a").len(), 2);
    assert_eq!(world.pass(LEASE - SECOND), 0);
    world.register(1, "a-2", instance("a", "10.0.0.1:2")).unwrap();
    assert_eq!(world.pass(SECOND), 1);
    assert_eq!(world.listed("a"), ["10.0.0.1:2"]);
}

#[test]
fn a_name_is_its_services_own() {
    let mut world = World::new();
    world.register(1, "pod-1", instance("a", "10.0.0.1:1")).unwrap();
    world.register(2, "pod-1", instance("b", "10.0.0.9:1")).unwrap();
    assert_eq!(
        (world.listed("a"), world.listed("b")),
        (vec!["10.0.0.1:1".into()], vec!["10.0.0.9:1".into()])
    );
    world.leases.lost(2, world.now);
    assert_eq!(world.pass(LEASE), 1);
    assert_eq!((world.listed("a").len(), world.listed("b").len()), (1, 0));
}

#[test]
fn an_address_is_one_services() {
    let mut world = World::new();
    world.register(1, "a-1", instance("a", "10.0.0.1:1")).unwrap();
    let taken = Err(Refused::Taken("10.0.0.1:1".parse().unwrap()));
    assert_eq!(world.register(2, "b-1", instance("b", "10.0.0.1:1")), taken);
    world.register(3, "a-2", instance("a", "10.0.0.1:1")).unwrap();
    world.leases.lost(1, world.now);
    world.register(3, "a-2", instance("a", "10.0.0.2:1")).unwrap();
    assert_eq!(world.register(2, "b-1", instance("b", "10.0.0.1:1")), taken, "a lease runs");
    // What is over or about to be makes room.
    world.pass(LEASE);
    world.register(2, "b-1", instance("b", "10.0.0.1:1")).unwrap();
    world.register(2, "b-1", Instance { draining: true, ..instance("b", "10.0.0.1:1") }).unwrap();
    world.register(4, "c-1", instance("c", "10.0.0.1:1")).unwrap();
    assert_eq!(world.register(2, "b-1", instance("b", "10.0.0.1:1")), taken);
    for stream in [2, 3, 4] {
        world.leases.lost(stream, world.now);
    }
    world.pass(LEASE);
    assert!(world.leases.addresses.is_empty());
}

#[test]
fn nobody_speaks_for_two_or_for_too_many() {
    let mut world = World::new();
    world.register(1, "a-1", instance("a", "10.0.0.1:1")).unwrap();
    assert_eq!(world.register(1, "a-2", instance("a", "10.0.0.9:1")), Err(Refused::AnotherInstance));
    assert_eq!(world.register(1, "a-1", instance("b", "10.0.0.9:1")), Err(Refused::AnotherInstance));
    assert_eq!(world.listed("a"), ["10.0.0.1:1"]);
    assert!(world.listed("b").is_empty());
    for number in 1..MOST_INSTANCES {
        world.register(100 + number as u64, &format!("n-{number}"), instance("a", "10.0.0.2:1")).unwrap();
    }
    assert_eq!(world.register(2, "more", instance("a", "10.0.0.2:1")), Err(Refused::TooMany));
    assert_eq!(world.listed("a").len(), 2, "one address is one endpoint");
}
