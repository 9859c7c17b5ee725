//! The sidecars of callers, asked to have requests wait.

use lighter_migrate::{Phase, Stamp};
use lighter_proxy::stateful::held::wire as held;

use super::mesh::Mesh;
use super::*;

/// A sidecar of callers that can hold.
fn caller(mesh: &Mesh) -> (Id, mpsc::Receiver<Order>) {
    let identity = Spiffe::parse("spiffe://mesh.lighter/ns/default/sa/web").unwrap();
    let id = Id { identity, instance: "web-1".into() };
    let (sender, orders) = mpsc::channel(4);
    let state = mesh.state();
    state.registry.sidecars.enter(id.clone(), state.registry.stream(), sender);
    state.registry.sidecars.can_hold(&id, true);
    (id, orders)
}

fn told(orders: &mut mpsc::Receiver<Order>) -> Option<held::Said> {
    match orders.try_recv().ok()? {
        Order::Hold(said) => Some(held::decode(said).unwrap()),
        other => panic!("{other:?}"),
    }
}

/// Says that requests wait, or that those of another migration do.
fn answer(mesh: &Mesh, id: &Id, stamp: Stamp) {
    let said = held::encode_holding(&asked().service, stamp);
    mesh.state().registry.sidecars.holds(id, said).unwrap();
}

#[test]
fn callers_are_told_from_where_the_state_leaves_and_are_waited_for_until_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let epoch = mesh.moved.epoch;
    let (id, mut orders) = caller(&mesh);
    mesh.begin();
    mesh.until("callers are to hold", |mesh| mesh.phase() == Some(Phase::Hold));
    let said = told(&mut orders).unwrap();
    assert_eq!(said.service, asked().service);
    let held::What::Hold { epoch: of, from, .. } = said.what else { panic!("{said:?}") };
    assert_eq!((of, from), (epoch, ["10.0.0.97:80".parse().unwrap()].into()));
    let since = mesh.round;
    answer(&mesh, &id, Stamp { migration: said.stamp.migration - 1, ..said.stamp });
    mesh.until("a moment has passed", |mesh| mesh.round == since + 2);
    assert_eq!(mesh.phase(), Some(Phase::Hold), "that was about another one");
    answer(&mesh, &id, said.stamp);
    mesh.until("it goes on", |mesh| mesh.phase() != Some(Phase::Hold));
    assert!(mesh.round <= since + 4, "at once");
    assert_eq!(mesh.check(), Outcome::Done);
    assert_eq!(told(&mut orders), None, "where the service is they are told as everybody is");
}

#[test]
fn who_does_not_answer_or_is_gone_is_not_waited_for_for_long_and_hears_of_an_abort() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let (id, mut orders) = caller(&mesh);
    mesh.sidecars[1].is_slow = true;
    mesh.begin();
    mesh.until("callers are to hold", |mesh| mesh.phase() == Some(Phase::Hold));
    assert!(told(&mut orders).is_some());
    mesh.until("it goes on", |mesh| mesh.phase() == Some(Phase::Finalcopy));
    let mut driver = mesh.driver.take().unwrap();
    assert!(driver.abort(&mesh.world()));
    mesh.driver = Some(driver);
    assert_eq!(mesh.check(), Outcome::Aborted);
    assert_eq!(told(&mut orders).map(|said| said.what), Some(held::What::Release));
    // One that leaves meanwhile holds nothing.
    mesh.over = None;
    mesh.sidecars[1].is_slow = false;
    mesh.begin();
    mesh.until("callers are to hold", |mesh| mesh.phase() == Some(Phase::Hold));
    let since = mesh.round;
    let sidecars = &mesh.state().registry.sidecars;
    let stream = mesh.state().registry.stream();
    sidecars.enter(id.clone(), stream, mpsc::channel(1).0);
    sidecars.leave(&id, stream);
    mesh.until("it goes on", |mesh| mesh.phase() != Some(Phase::Hold));
    assert!(mesh.round <= since + 2, "at once");
    assert_eq!(mesh.check(), Outcome::Done);
}
