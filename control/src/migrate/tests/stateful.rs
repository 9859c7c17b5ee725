//! A Service with state, and a control plane that dies before or after any of its writes. In virtual time.

use lighter_migrate::{Arrival, Bounds, End, Epoch, Incarnation, Kind, Place, RequestId, SourceId, Stand};

use super::mesh::{Mesh, NAMES, SAVED, id, keep, with_link};
use super::standby::Standby;
use super::*;

/// A service is given to `a`, and moves to `b`; meanwhile the control plane dies. Returns whether it had the time to.
fn died(dies: Dies, seed: Option<u64>) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::new(folder.path(), seed);
    let writes = Cell::new(0);
    let mut has_died = false;
    for _ in 0..5000 {
        let store = mesh.state().store.clone();
        let lives = mesh.pass(&|story, moved| {
            let number = writes.replace(writes.get() + 1);
            let end = (number == dies.at).then_some(());
            if end.is_none() || dies.is_written {
                keep(&store, story, moved)?;
            }
            end.map_or(Ok(()), |()| Err(StoreError::Backup("it has died".to_owned())))
        });
        drop(store);
        if !lives {
            has_died = true;
            mesh.open(folder.path());
        }
        if mesh.over.is_some() {
            break;
        }
        if mesh.driver.is_none() && mesh.serves(0) && mesh.listed().len() == 1 {
            mesh.begin();
        }
    }
    let outcome = mesh.check();
    // Without trouble on the way it moves.
    assert!(seed.is_some() || outcome == Outcome::Done, "{:?}", mesh.over.and_then(|story| story.because));
    if seed.is_none() {
        let story = mesh.over.unwrap();
        let phases: Vec<&str> = story.phases().map(|(phase, _)| phase.label()).collect();
        let expected = [
            "plan",
            "prepare",
            "warm",
            "quiesce",
            "finalcopy",
            "fence",
            "activate",
            "switch",
            "forward",
            "drain_old",
            "done",
        ];
        assert_eq!(phases, expected);
        assert_eq!(story.left, Some(0));
    }
    has_died
}

#[test]
fn whenever_a_control_plane_dies_one_place_serves_what_there_is() {
    for seed in [None, Some(1), Some(2)] {
        for is_written in [false, true] {
            let mut at = 0;
            while died(Dies { at, is_written }, seed) {
                at += 1;
            }
            assert!(at >= 9, "there are {at} writes");
        }
    }
}

#[test]
fn whoever_has_lost_its_memory_begins_anew_and_that_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let epoch = mesh.moved.epoch;
    mesh.restart(0, 101);
    mesh.until("a serves again", |mesh| mesh.moved.losses == 1 && mesh.serves(0));
    assert!(mesh.moved.epoch > epoch);
    mesh.until("a is listed", |mesh| mesh.listed() == ["10.0.0.97:80"]);
    assert_eq!(mesh.state().metrics.state_losses.load(Relaxed), 1);
    // Whoever is gone for good is followed by another.
    mesh.leave(0);
    assert!(mesh.listed().is_empty(), "nobody serves what a had");
    mesh.until("b serves", |mesh| mesh.serves(1) && mesh.listed() == ["10.0.0.98:80"]);
    assert_eq!((mesh.moved.losses, mesh.owner()), (2, "b"));
    // One that was taken for dead, and was not, serves no more.
    mesh.connect(0);
    mesh.until("a has moved", |mesh| mesh.stand(0) == Stand::Moved);
    assert!(mesh.serves(1) && mesh.moved.losses == 2);
    // Whoever has drained and left does not come back.
    let stream = mesh.state().registry.stream();
    let (name, instance) = with_link("b");
    let instance = Instance { draining: true, ..instance };
    let state = mesh.state();
    state.registry.register(stream, &name, instance, &state.index).unwrap();
    state.registry.lost(stream, mesh.now());
    mesh.until("a serves", |mesh| mesh.serves(0) && mesh.listed() == ["10.0.0.97:80"]);
    assert_eq!((mesh.moved.losses, mesh.owner()), (3, "a"));
}

#[test]
fn what_is_aborted_before_it_is_decided_serves_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let epoch = mesh.moved.epoch;
    mesh.sidecars[1].is_slow = true;
    mesh.begin();
    mesh.until("it copies", |mesh| mesh.phase() == Some(Phase::Finalcopy));
    assert_eq!(mesh.stand(0), Stand::Frozen { epoch });
    let mut driver = mesh.driver.take().unwrap();
    assert!(driver.abort(&mesh.world()));
    mesh.driver = Some(driver);
    assert_eq!(mesh.check(), Outcome::Aborted);
    assert_eq!((mesh.moved.epoch, mesh.stand(1)), (epoch, Stand::Empty));
    let story = mesh.over.take().unwrap();
    assert_eq!(story.because.as_deref(), Some("somebody asked for it"));
    // And it can be moved later.
    mesh.sidecars[1].is_slow = false;
    mesh.begin();
    assert_eq!(mesh.check(), Outcome::Done);
}

#[test]
fn requests_that_do_not_end_keep_it_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let mut out = Vec::new();
    mesh.sidecars[0].place.arrive(a_stream(), Duration::ZERO, &mut out);
    mesh.begin();
    assert_eq!(mesh.check(), Outcome::Aborted);
    let because = mesh.over.as_ref().and_then(|story| story.because.clone()).unwrap();
    assert_eq!(because, "`a` did not freeze: requests or streams there did not end in 2s");
    mesh.sidecars[0].place.finished(RequestId(1), Kind::Stream, End::Done, Duration::ZERO, &mut out);
    mesh.over = None;
    mesh.begin();
    assert_eq!(mesh.check(), Outcome::Done);
}

#[test]
fn where_the_new_place_is_gone_the_old_one_has_everything_still() {
    // It was told to serve: what it may have done is not known. But nothing is acknowledged before somebody is named to keep the journal.
    for (is_journaled, losses) in [(false, 1), (true, 0)] {
        new_place_is_gone(is_journaled, losses);
    }
}

fn new_place_is_gone(is_journaled: bool, losses: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    if is_journaled {
        let instance = Some("c".into());
        let standby = Standby { epoch: mesh.moved.epoch, view: 5, number: 0, instance, token: vec![7; 32] };
        mesh.moved.standby = Some(standby);
    }
    let lease = mesh.state().config.lease;
    mesh.round += u64::try_from(lease.as_millis() / 20).unwrap();
    mesh.sidecars[1].is_deaf = true;
    mesh.begin();
    mesh.until("it is decided", |mesh| mesh.owner() == "b");
    assert!(!mesh.serves(1), "it has not begun");
    mesh.leave(1);
    mesh.until("it is over", |mesh| mesh.over.is_some());
    assert_eq!(mesh.over.as_ref().and_then(|story| story.outcome), Some(Outcome::RolledBack));
    mesh.until("a serves", |mesh| mesh.serves(0) && mesh.listed() == ["10.0.0.97:80"]);
    assert_eq!((mesh.sidecars[0].memory, mesh.moved.losses, mesh.owner()), (SAVED, losses, "a"));
}

#[test]
fn where_the_new_place_is_gone_that_has_begun_nobody_waits_for_what_it_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let lease = mesh.state().config.lease;
    mesh.round += u64::try_from(lease.as_millis() / 20).unwrap();
    mesh.begin();
    mesh.until("the old one sends on", |mesh| mesh.stand(0) == Stand::Moved);
    // What was sent on is not answered.
    let mut out = Vec::new();
    mesh.sidecars[0].place.arrive(a_stream(), Duration::ZERO, &mut out);
    mesh.leave(1);
    let began = mesh.round;
    mesh.until("it is over", |mesh| mesh.over.is_some());
    let took = Duration::from_millis(20) * u32::try_from(mesh.round - began).unwrap();
    assert!(took < asked().drain / 2, "{took:?}");
    let because = mesh.over.as_ref().and_then(|story| story.because.clone()).unwrap();
    assert!(because.contains("was gone after it had begun to serve"), "{because}");
    mesh.until("a serves", |mesh| mesh.serves(0) && mesh.listed() == ["10.0.0.97:80"]);
    assert_eq!((mesh.sidecars[0].memory, mesh.moved.losses), (0, 1));
}

#[test]
fn where_the_old_place_is_gone_before_it_is_frozen_nobody_waits_for_it() {
    for phase in [Phase::Warm, Phase::Quiesce] {
        let folder = tempfile::tempdir().unwrap();
        let mut mesh = Mesh::serving(folder.path());
        let lease = mesh.state().config.lease;
        mesh.round += u64::try_from(lease.as_millis() / 20).unwrap();
        mesh.sidecars[0].place.arrive(a_stream(), Duration::ZERO, &mut Vec::new());
        mesh.begin();
        mesh.until("it is there", |mesh| mesh.phase() == Some(phase));
        let epoch = mesh.moved.epoch;
        mesh.leave(0);
        let began = mesh.round;
        mesh.until("b serves", |mesh| mesh.serves(1) && mesh.listed() == ["10.0.0.98:80"]);
        assert!(mesh.round - began < 50, "nobody serves meanwhile");
        let story = mesh.over.take().unwrap();
        assert_eq!(story.outcome, Some(Outcome::Aborted));
        assert_eq!(story.because.as_deref(), Some("`a` was not heard any more, and its lease is over"));
        assert_eq!((mesh.moved.epoch, mesh.sidecars[1].memory, mesh.moved.losses), (epoch.next(), 0, 1));
        mesh.connect(0);
        mesh.until("a has moved", |mesh| mesh.stand(0) == Stand::Moved);
        assert!(mesh.serves(1));
    }
}

#[test]
fn what_was_decided_for_nobody_is_lost_and_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let lease = mesh.state().config.lease;
    mesh.round += u64::try_from(lease.as_millis() / 20).unwrap();
    mesh.begin();
    mesh.until("it is decided", |mesh| mesh.owner() == "b");
    mesh.leave(1);
    mesh.leave(0);
    mesh.until("it is over", |mesh| mesh.over.is_some());
    assert_eq!(mesh.over.as_ref().and_then(|story| story.outcome), Some(Outcome::Lost));
    mesh.restart(0, 102);
    mesh.connect(0);
    mesh.until("a serves", |mesh| mesh.serves(0) && mesh.listed() == ["10.0.0.97:80"]);
    assert_eq!((mesh.sidecars[0].memory, mesh.moved.losses), (0, 1));
}

/// All that was acknowledged is at the sidecar of this one.
fn journaled_by(mesh: &mut Mesh, at: usize) {
    let (epoch, view) = (mesh.moved.epoch, 5);
    mesh.moved.standby =
        Some(Standby { epoch, view, number: 0, instance: Some(NAMES[at].into()), token: vec![7; 32] });
    mesh.journals[at] =
        Some(wire::JournalStand { epoch: epoch.0, view, whole: true, ..wire::JournalStand::default() });
    mesh.ask(at);
}

/// The migration is over like this, and whoever has the journal serves with all of it.
fn is_inherited(mesh: &mut Mesh, at: usize, outcome: Outcome) {
    mesh.until("it is over", |mesh| mesh.over.is_some());
    let story = mesh.over.take().unwrap();
    assert_eq!(story.outcome, Some(outcome), "{:?}", story.because);
    mesh.until("the heir serves", |mesh| mesh.serves(at) && mesh.listed().len() == 1);
    assert_eq!((mesh.owner(), mesh.sidecars[at].memory, mesh.moved.losses), (NAMES[at], SAVED, 0));
    let metrics = &mesh.state().metrics;
    let counted = [&metrics.state_takeovers, &metrics.state_losses].map(|count| count.load(Relaxed));
    assert_eq!(counted, [1, 0]);
    assert!(mesh.stand(1 - at).serves().is_none());
}

#[test]
fn whoever_has_the_journal_goes_on_where_the_old_place_loses_its_memory_amid_a_move() {
    for phase in [Phase::Quiesce, Phase::Finalcopy] {
        let folder = tempfile::tempdir().unwrap();
        let mut mesh = Mesh::serving(folder.path());
        if phase == Phase::Quiesce {
            mesh.sidecars[0].place.arrive(a_stream(), Duration::ZERO, &mut Vec::new());
        }
        journaled_by(&mut mesh, 1);
        mesh.sidecars[1].is_slow = true;
        mesh.begin();
        mesh.until("it is there", |mesh| mesh.phase() == Some(phase));
        // For the moment nobody knows what the heir has.
        let stream = mesh.state().registry.stream();
        mesh.state().registry.sidecars.enter(id("b"), stream, mpsc::channel(1).0);
        mesh.sidecars[1].orders = None;
        mesh.reports.clear();
        mesh.restart(0, 101);
        for _ in 0..500 {
            let store = mesh.state().store.clone();
            assert!(mesh.pass(&|story, moved| keep(&store, story, moved)));
        }
        assert_eq!((mesh.owner(), mesh.moved.losses, mesh.over.is_some()), ("a", 0, false));
        mesh.connect(1);
        is_inherited(&mut mesh, 1, Outcome::Aborted);
    }
}

#[test]
fn whoever_has_the_journal_goes_on_where_the_new_place_loses_its_memory_before_all_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    mesh.begin();
    mesh.until("b serves", |mesh| mesh.serves(1) && mesh.listed() == ["10.0.0.98:80"]);
    assert!(mesh.driver.is_some());
    journaled_by(&mut mesh, 0);
    mesh.sidecars[0].memory = 0;
    mesh.restart(1, 101);
    is_inherited(&mut mesh, 0, Outcome::Done);
}

/// A request that does not end.
fn a_stream() -> Arrival {
    Arrival {
        id: RequestId(1),
        source: SourceId(1),
        bytes: 0,
        deadline: None,
        kind: Kind::Stream,
        is_inside: false,
        is_kept: false,
        is_forwarded: false,
    }
}

#[test]
fn a_state_is_not_moved_from_whoever_does_not_have_it_nor_where_it_cannot_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let why = |mesh: &Mesh, asked: &Migration| {
        why_not(asked, Class::Volatile, &mesh.moved, mesh.state()).unwrap_or_default()
    };
    assert_eq!(why(&mesh, &asked()), "");
    let back = Migration { from: "b".into(), to: "a".into(), ..asked() };
    assert_eq!(why(&mesh, &back), "`b` does not serve default/shop: `a` does");
    mesh.moved.listed = None;
    assert_eq!(why(&mesh, &asked()), "`a` is about to serve default/shop, and does not yet");
    let stream = mesh.state().registry.stream();
    mesh.state().registry.sidecars.enter(id("b"), stream, mpsc::channel(1).0);
    let said = why(&mesh, &asked());
    assert!(said.starts_with("`b` has not said what it is to default/shop"), "{said}");
    let (name, instance) = instance("b", &[80]);
    mesh.state().registry.register(stream, &name, instance, &mesh.state().index).unwrap();
    assert_eq!(why(&mesh, &asked()), "`b` accepts no links, over which the state would move");
    let of = |class, keeps| super::super::stateful::why_not_of(&Migration { class, ..asked() }, keeps);
    use lighter_config::snapshot::{Keeps, StateClass::Volatile};
    assert_eq!(of(None, Some(Volatile)).or(of(None, None)), None);
    assert_eq!(of(Some(Keeps::State(Volatile)), Some(Volatile)).or(of(Some(Keeps::Nothing), None)), None);
    let other = "default/shop is volatile, and the Migration says stateless: leave its `class` out";
    assert_eq!(of(Some(Keeps::Nothing), Some(Volatile)).as_deref(), Some(other));
}

#[test]
fn whoever_serves_a_later_epoch_than_is_kept_has_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    // The store is that of an old backup, in which nothing was given to anybody.
    mesh.moved = Moved::default();
    let before = mesh.stand(0);
    assert!(before.serves() > Some(Epoch(1)));
    mesh.until("it is seen", |mesh| mesh.owner() == "a");
    assert_eq!((mesh.serves(0), mesh.stand(0), mesh.moved.losses), (true, before, 0));
    mesh.begin();
    assert_eq!(mesh.check(), Outcome::Done);
}

#[test]
fn of_two_that_have_one_epoch_the_owner_serves_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let epoch = mesh.moved.epoch;
    // It was given that by a store of which this one is an older copy.
    let mut place = Place::serving(Class::Volatile, Incarnation(200), epoch, Bounds::default());
    let order = lighter_migrate::Order::Quiesce { patience: Duration::from_secs(1), cut_streams: false };
    let stamp = lighter_migrate::Stamp { migration: 9, term: 1, sequence: 1 };
    let command = lighter_migrate::Command { stamp, incarnation: Some(Incarnation(200)), order };
    place.command(command, Duration::ZERO, &mut mesh.todo[1]);
    mesh.sidecars[1].place = place;
    mesh.until("the other one gives up", |mesh| mesh.stand(1) == Stand::Moved && mesh.serves(0));
    assert_eq!(
        (mesh.stand(0), mesh.moved.losses, mesh.owner()),
        (Stand::Serving { epoch: epoch.next() }, 1, "a")
    );
    assert_eq!(mesh.sidecars[0].memory, SAVED);
}

#[test]
fn whoever_had_the_state_hears_where_it_is_by_now() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    mesh.begin();
    assert_eq!(mesh.check(), Outcome::Done);
    let epoch = mesh.moved.epoch;
    let told = |mesh: &Mesh| owner::orders(&mesh.moved, &owner::seen(&asked().service, mesh.state()));
    let (order, to) = &told(&mesh)["a"];
    assert!(matches!(order, lighter_migrate::Order::Move { epoch: at, .. } if *at == epoch));
    assert_eq!(to[&80].to_string(), "10.0.0.98:80");
    let is_settled = |mesh: &mut Mesh| {
        let (mut keeping, mut moved) = (std::mem::take(&mut mesh.keeping), mesh.moved.clone());
        let is_settled = keeping.keep(&asked().service, &mut moved, &mesh.world(), &|_| Ok(())).unwrap();
        mesh.keeping = keeping;
        is_settled
    };
    while !is_settled(&mut mesh) {
        let store = mesh.state().store.clone();
        assert!(mesh.pass(&|story, moved| keep(&store, story, moved)) && mesh.round < 5000);
    }
    // It is reached by another address.
    let stream = mesh.state().registry.stream();
    let (name, mut instance) = with_link("b");
    instance.ports[0].address = "10.0.0.99:80".parse().unwrap();
    mesh.state().registry.register(stream, &name, instance, &mesh.state().index).unwrap();
    assert_eq!(told(&mesh)["a"].1[&80].to_string(), "10.0.0.99:80");
    assert!(!is_settled(&mut mesh), "it is told again");
}

/// Has these resources in force.
fn put(mesh: &Mesh, text: &str) {
    let State { store, index, .. } = mesh.state();
    store.set_files(lighter_config::load::Resources::parse("mesh.yaml", text).unwrap()).unwrap();
    index.set_snapshot(store.snapshot());
}

/// Looks at everything, as a control plane does, until this is so.
fn look_until(mesh: &mut Mesh, what: &str, is_so: impl Fn(&Mesh) -> bool) {
    for at in 0..5000 {
        mesh.deliver();
        let state = mesh.state();
        state.migrations.round(state, at == 0);
        mesh.sidecars_act();
        mesh.round += 1;
        if is_so(mesh) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}: {:?}", mesh.state().migrations.shown(None));
}

#[test]
fn a_service_is_looked_after_by_what_its_resource_says() {
    use lighter_config::xds::server::Resources as _;
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::new(folder.path(), None);
    let service = "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {name: shop}\nspec:\n  ports: \
                   [{port: 80, appProtocol: http}]\n  endpoints: [{address: 10.0.0.50}]\n";
    let state = "  state: {class: volatile, snapshot: /s, restore: /r}\n";
    let migration = "---\napiVersion: mesh.lighter.dev/v1\nkind: Migration\nmetadata: {name: m}\nspec: \
                     {service: shop, from: {instance: a}, to: {instance: b}}\n";
    let told = |mesh: &Mesh| {
        let found = mesh.state().index.get(lighter_config::xds::Kind::Endpoints, "default/shop:80").unwrap();
        let found = lighter_config::xds::decode::load_assignment(&found.message).unwrap();
        let addresses = found.endpoints.iter().map(|endpoint| endpoint.address.ip().to_string());
        addresses.collect::<Vec<_>>()
    };
    put(&mesh, &[service, state].concat());
    assert!(told(&mesh).len() <= 2, "an endpoint of the resource has no place that could refuse");
    look_until(&mut mesh, "a serves", |mesh| told(mesh) == ["10.0.0.97"]);
    mesh.sidecars[0].memory = SAVED;
    put(&mesh, &[service, state, migration].concat());
    look_until(&mut mesh, "it is over", |mesh| {
        mesh.state().migrations.shown(None).iter().any(|shown| shown.outcome.is_some())
    });
    let shown = mesh.state().migrations.shown(None).pop().unwrap();
    assert_eq!((shown.outcome, shown.class.as_deref()), (Some(Outcome::Done), Some("volatile")), "{shown:?}");
    assert_eq!((shown.owner.as_deref(), shown.epoch, shown.losses), (Some("b"), Some(3), Some(0)));
    look_until(&mut mesh, "b serves", |mesh| told(mesh) == ["10.0.0.98"]);
    assert!(mesh.stand(0).serves().is_none() && mesh.sidecars[1].memory == SAVED);
    // One that keeps nothing any more is everybody's.
    put(&mesh, service);
    look_until(&mut mesh, "all are listed", |mesh| told(mesh).len() == 3);
}
