//! The sidecars of callers, asked to have requests wait.

use lighter_migrate::Phase;
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

#[test]
fn callers_are_told_from_where_the_state_leaves_and_are_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let epoch = mesh.moved.epoch;
    let (_, mut orders) = caller(&mesh);
    mesh.begin();
    mesh.until("the old place is to quiesce", |mesh| mesh.phase() == Some(Phase::Quiesce));
    let said = told(&mut orders).unwrap();
    assert_eq!(said.service, asked().service);
    let held::What::Hold { epoch: of, from, .. } = said.what else { panic!("{said:?}") };
    assert_eq!((of, from), (epoch, ["10.0.0.97:80".parse().unwrap()].into()));
    assert_eq!(mesh.check(), Outcome::Done);
    assert_eq!(told(&mut orders), None, "where the service is they are told as everybody is");
}

#[test]
fn callers_hear_of_an_abort_and_one_that_is_gone_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::serving(folder.path());
    let (id, mut orders) = caller(&mesh);
    mesh.sidecars[1].is_slow = true;
    mesh.begin();
    mesh.until("the state is copied", |mesh| mesh.phase() == Some(Phase::Finalcopy));
    assert!(told(&mut orders).is_some());
    let mut driver = mesh.driver.take().unwrap();
    assert!(driver.abort(&mesh.world()));
    mesh.driver = Some(driver);
    assert_eq!(mesh.check(), Outcome::Aborted);
    assert_eq!(told(&mut orders).map(|said| said.what), Some(held::What::Release));
    // One that leaves meanwhile holds nothing.
    mesh.over = None;
    mesh.sidecars[1].is_slow = false;
    mesh.begin();
    let sidecars = &mesh.state().registry.sidecars;
    let stream = mesh.state().registry.stream();
    sidecars.enter(id.clone(), stream, mpsc::channel(1).0);
    sidecars.leave(&id, stream);
    assert_eq!(mesh.check(), Outcome::Done);
}
