//! Two places with real applications, told what to do as a control plane tells them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::sidecar::{ControlConfig, ControlSecurity, InboundConfig, SidecarConfig};
use lighter_config::snapshot::{
    Backend, Mtls, Port, Protocol, RouteTable, Service, Snapshot, StateAccess, Stateful, TrafficPolicy,
    VirtualIps,
};
use lighter_migrate::{
    Command, Copy, Declined, Epoch, Order, PlaceId, Report, Source, Stamp, Stand, Unfrozen, Why,
};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};

use super::super::host::Known;
use super::super::run;
use super::super::wire::Told;
use super::super::{Hosted, keep};
use super::app::{App, stateful};
use super::transfer::{DB, Sidecar, cutting, run};
use crate::identity::tests::Root;
use crate::mesh::Mesh;

/// A place with its application.
struct Instance {
    app: App,
    sidecar: Sidecar,
    hosted: Arc<Hosted>,
    sequence: Cell<u64>,
    working: AbortHandle,
    _is_well: watch::Sender<bool>,
}

impl Instance {
    async fn new(root: &Root, state: impl Into<Vec<u8>>, said: Stateful) -> Self {
        let app = App::new(state).await;
        let control = ControlConfig {
            address: "127.0.0.1:1".into(),
            security: ControlSecurity::Joined { token: None, state: PathBuf::new() },
            own_resources: true,
            state: None,
            depends_on: Vec::new(),
        };
        let inbound = InboundConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 1)),
            app: app.at,
            port: Some(80),
            protocol: Protocol::Auto,
        };
        let config = SidecarConfig {
            service: Some("db".into()),
            control: Some(control),
            inbound: vec![inbound],
            ..SidecarConfig::default()
        };
        let sidecar = Sidecar::new(root.identity(DB), config).await;
        put_in_force(&sidecar, Some(said));
        let hosted = sidecar.shared().hosted.load_full().unwrap();
        let (opinion, is_well) = watch::channel(true);
        let known = Known { is_well, local: Rc::new(Cell::new(Some(IpAddr::from(Ipv4Addr::LOCALHOST)))) };
        let working = spawn_local(run::run(sidecar.shared().clone(), known)).abort_handle();
        Instance { app, sidecar, hosted, sequence: Cell::new(0), working, _is_well: opinion }
    }

    /// One that serves this state.
    async fn serving(root: &Root, state: impl Into<Vec<u8>>, said: Stateful) -> Self {
        let instance = Instance::new(root, state, said).await;
        instance.tell(1, Order::Serve { epoch: Epoch(1), from: Source::Nothing });
        instance.comes_to(Stand::Serving { epoch: Epoch(1) }).await;
        instance
    }

    fn tell(&self, migration: u64, order: Order) {
        self.tell_from(migration, order, None);
    }

    fn tell_from(&self, migration: u64, order: Order, from: Option<SocketAddr>) {
        self.sequence.set(self.sequence.get() + 1);
        let stamp = Stamp { migration, term: 1, sequence: self.sequence.get() };
        let incarnation = self.report().map(|report| report.incarnation);
        let command = Command { stamp, incarnation, order };
        self.hosted.command(&Told { command, token: b"a token".to_vec(), from, to: BTreeMap::new() });
    }

    fn report(&self) -> Option<Report> {
        self.hosted.reports().borrow().map(|(report, _)| report)
    }

    async fn comes_to(&self, stand: Stand) -> Report {
        self.reports(|report| report.stand == stand).await
    }

    /// The first report from now on of which this is true.
    async fn reports(&self, is: impl Fn(&Report) -> bool) -> Report {
        let mut reports = self.hosted.reports();
        let found = reports.wait_for(|report| report.as_ref().is_some_and(|(report, _)| is(report))).await;
        found.unwrap().unwrap().0
    }

    /// Becomes ready to take the service.
    async fn warms(&self, migration: u64) {
        self.tell(migration, Order::Prepare { epoch: Epoch(1) });
        self.comes_to(Stand::Reserved).await;
        self.tell(migration, Order::Warm);
        self.comes_to(Stand::Warm).await;
    }

    /// Freezes, and says what there is to fetch.
    async fn freezes(&self, migration: u64, epoch: u64) -> Copy {
        // Where processors are busy, a long state takes its time.
        let patience = Duration::from_secs(30);
        self.tell(migration, Order::Quiesce { patience, cut_streams: false });
        self.comes_to(Stand::Frozen { epoch: Epoch(epoch) }).await.copy.unwrap()
    }

    fn has_copy(&self, migration: u64, copy: Copy) -> bool {
        let copies = self.sidecar.shared().copies.copies();
        copies.find(migration, copy.round, b"a token").is_ok()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.working.abort();
    }
}

/// The application has not given its state.
const WITHHELD: Declined = Declined { migration: 2, why: Unfrozen::Withheld };
const QUIESCE: Order = Order::Quiesce { patience: Duration::from_millis(500), cut_streams: false };

/// The application goes to another place.
async fn moves(old: &Instance, new: &Instance, migration: u64, epoch: u64, from: SocketAddr) {
    new.warms(migration).await;
    let copy = old.freezes(migration, epoch - 1).await;
    new.tell_from(migration, Order::Restore(copy), Some(from));
    new.comes_to(Stand::Ready { digest: copy.digest }).await;
    assert!(old.has_copy(migration, copy), "until the new place serves");
    new.tell(migration, Order::Serve { epoch: Epoch(epoch), from: Source::Restored(copy.digest) });
    new.comes_to(Stand::Serving { epoch: Epoch(epoch) }).await;
    old.tell(migration, Order::Move { to: PlaceId(2), epoch: Epoch(epoch) });
    old.comes_to(Stand::Moved).await;
    // What it is to do then it does beside.
    while old.has_copy(migration, copy) {
        tokio::task::yield_now().await;
    }
}

fn put_in_force(sidecar: &Sidecar, state: Option<Stateful>) {
    let key = ServicePort { service: ServiceName::new("default", "db"), port: 80 };
    let port = Port {
        name: None,
        protocol: Protocol::Http,
        target_port: 80,
        routes: RouteTable::single(&key),
        tcp: vec![Backend { target: key.clone(), weight: 1, exists: true }],
        tcp_route: "default".into(),
        endpoints: Vec::new(),
        policy: TrafficPolicy::default(),
        mtls: Mtls::default(),
        guards: Vec::new(),
        key: key.clone(),
    };
    let service = Service {
        name: key.service.clone(),
        virtual_ips: VirtualIps { v4: Ipv4Addr::new(198, 19, 0, 1), v6: Ipv6Addr::LOCALHOST },
        ports: vec![Arc::new(port)],
        probe: None,
        links: Default::default(),
        state: state.map(Arc::new),
    };
    let services = [(key.service, Arc::new(service))].into();
    let shared = sidecar.shared();
    let snapshot = Arc::new(Snapshot { services, ..Snapshot::default() });
    let mut mesh = Mesh::build(snapshot, &shared.mesh.load());
    keep(shared, &mut mesh);
    shared.mesh.store(Arc::new(mesh));
}

#[test]
fn an_application_s_state_goes_to_another_place_and_back() {
    run(async {
        let root = Root::new();
        let state: Vec<u8> = (0..3_000_000u32).map(|at| (at / 11) as u8).collect();
        let one = Instance::serving(&root, state.clone(), stateful()).await;
        let other = Instance::new(&root, "what it began with", stateful()).await;
        // The first connection is cut in the middle.
        let from = cutting(one.sidecar.link, 1_000_000).await;
        moves(&one, &other, 2, 2, from).await;
        assert!(other.app.kept().state == state);
        assert_eq!(one.app.asked(), ["POST /freeze", "GET /state"]);
        assert_eq!(other.app.asked(), ["PUT /state"]);
        other.app.kept().state.extend_from_slice(b" and more");
        moves(&other, &one, 3, 3, other.sidecar.link).await;
        assert!(one.app.kept().state.ends_with(b" and more"));
        assert_eq!(other.app.asked(), ["POST /freeze", "GET /state"]);
        assert_eq!(one.app.asked(), ["PUT /state", "POST /thaw"], "it was frozen since it gave its state");
    });
}

/// With changes.
fn changing() -> Stateful {
    let mut said = stateful();
    let StateAccess::Http(hooks) = &mut said.access else { unreachable!("they are of HTTP") };
    hooks.changes = Some("/changes".into());
    said
}

/// One round from the one place to the other.
async fn copies(old: &Instance, new: &Instance, round: u32) -> Copy {
    old.tell(2, Order::Snapshot { round });
    // However often it is said.
    old.tell(2, Order::Snapshot { round });
    let is_it = |report: &Report| report.copy.is_some_and(|copy| copy.round == round);
    let copy = old.reports(is_it).await.copy.unwrap();
    new.tell_from(2, Order::Restore(copy), Some(old.sidecar.link));
    new.comes_to(Stand::Copied { round }).await;
    copy
}

#[test]
fn what_has_changed_follows_what_was_copied_while_it_served() {
    run(async {
        let root = Root::new();
        let one = Instance::serving(&root, "all of it", changing()).await;
        let other = Instance::new(&root, "what it began with", changing()).await;
        one.app.kept().version = "1".into();
        other.warms(2).await;
        let copy = copies(&one, &other, 1).await;
        assert_eq!((copy.base, copy.last), (0, false));
        (one.app.kept().changes, one.app.kept().version) = (b", more".to_vec(), "2".into());
        assert_eq!(copies(&one, &other, 2).await.base, 1);
        // Nothing may have changed.
        (one.app.kept().changes, one.app.kept().version) = (Vec::new(), "3".into());
        assert_eq!(copies(&one, &other, 3).await.bytes, 0);
        one.app.kept().changes = b", and the rest".to_vec();
        let last = one.freezes(2, 1).await;
        assert_eq!((last.round, last.base), (4, 3));
        other.tell_from(2, Order::Restore(last), Some(one.sidecar.link));
        other.comes_to(Stand::Ready { digest: last.digest }).await;
        assert_eq!(other.app.kept().state, b"all of it, more, and the rest");
        let since = [
            "GET /state",
            "GET /changes?since=1",
            "GET /changes?since=2",
            "POST /freeze",
            "GET /changes?since=3",
        ];
        assert_eq!(one.app.asked(), since);
        assert_eq!(other.app.asked(), ["PUT /state", "PATCH /state", "PATCH /state", "PATCH /state"]);
    });
}

#[test]
fn what_is_not_known_any_more_is_copied_as_a_whole() {
    run(async {
        let root = Root::new();
        let one = Instance::serving(&root, "all of it", changing()).await;
        let other = Instance::new(&root, "", changing()).await;
        one.app.kept().version = "1".into();
        other.warms(2).await;
        copies(&one, &other, 1).await;
        one.app.kept().fails = [("/changes", 410)].into();
        one.app.kept().state = b"something else".to_vec();
        assert_eq!(copies(&one, &other, 2).await.base, 0);
        assert_eq!(other.app.kept().state, b"something else");
        let last = one.freezes(2, 1).await;
        assert_eq!((last.round, last.base), (3, 0));
    });
}

#[test]
fn a_round_that_fails_ends_the_migration_and_the_old_place_serves_on() {
    run(async {
        let root = Root::new();
        let one = Instance::serving(&root, "all of it", changing()).await;
        // It does not say from what changes would be followed.
        one.tell(2, Order::Snapshot { round: 1 });
        let report = one.reports(|report| report.declined == Some(WITHHELD)).await;
        assert_eq!((report.stand, report.copy), (Stand::Serving { epoch: Epoch(1) }, None));
        one.app.kept().version = "1".into();
        let other = Instance::new(&root, "", changing()).await;
        other.warms(3).await;
        one.tell(3, Order::Snapshot { round: 1 });
        let copy = one.reports(|report| report.copy.is_some()).await.copy.unwrap();
        other.tell_from(3, Order::Restore(copy), Some(one.sidecar.link));
        other.comes_to(Stand::Copied { round: 1 }).await;
        other.app.kept().fails = [("/state", 500)].into();
        one.tell(3, Order::Snapshot { round: 2 });
        let is_it = |report: &Report| report.copy.is_some_and(|copy| copy.round == 2);
        let copy = one.reports(is_it).await.copy.unwrap();
        other.tell_from(3, Order::Restore(copy), Some(one.sidecar.link));
        other.comes_to(Stand::Void { why: Why::Activation }).await;
        assert_eq!(other.app.asked(), ["PUT /state", "PATCH /state"], "who knows what came of the first one");
    });
}

#[test]
fn a_place_whose_migration_is_aborted_goes_on_and_gives_nothing_away() {
    run(async {
        let root = Root::new();
        let one = Instance::serving(&root, "its state", stateful()).await;
        let copy = one.freezes(2, 1).await;
        assert!(one.has_copy(2, copy));
        one.tell(2, Order::Serve { epoch: Epoch(1), from: Source::Kept });
        one.comes_to(Stand::Serving { epoch: Epoch(1) }).await;
        while one.has_copy(2, copy) || one.app.kept().asked.len() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(one.app.asked(), ["POST /freeze", "GET /state", "POST /thaw"]);
    });
}

#[test]
fn an_application_that_does_not_give_its_state_serves_again() {
    run(async {
        let root = Root::new();
        let mut short = stateful();
        short.max_bytes = 3;
        for (said, path, answer) in
            [(short, "/nothing", 0), (stateful(), "/freeze", 503), (stateful(), "/state", 0)]
        {
            let one = Instance::serving(&root, "its state", said).await;
            one.app.kept().fails = [(path, answer)].into();
            one.tell(2, QUIESCE);
            let report = one.reports(|report| report.declined == Some(WITHHELD)).await;
            assert_eq!((report.stand, report.copy), (Stand::Opening { epoch: Epoch(1) }, None));
            one.comes_to(Stand::Serving { epoch: Epoch(1) }).await;
            while one.app.kept().asked.last().is_none_or(|asked| asked != "POST /thaw") {
                tokio::task::yield_now().await;
            }
        }
    });
}

#[test]
fn an_application_that_does_not_take_the_state_at_first_is_asked_again() {
    run(async {
        let root = Root::new();
        let one = Instance::serving(&root, "its state", stateful()).await;
        let other = Instance::new(&root, "", stateful()).await;
        other.warms(2).await;
        let copy = one.freezes(2, 1).await;
        other.app.kept().fails = [("/state", 500)].into();
        other.tell_from(2, Order::Restore(copy), Some(one.sidecar.link));
        while other.app.kept().asked.len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(other.report().unwrap().stand, Stand::Warm);
        other.app.kept().fails.clear();
        other.comes_to(Stand::Ready { digest: copy.digest }).await;
        assert_eq!(other.app.kept().state, b"its state");
    });
}

#[test]
fn an_application_that_never_takes_the_state_ends_the_migration() {
    run(async {
        let root = Root::new();
        let one = Instance::serving(&root, "its state", stateful()).await;
        let other = Instance::new(&root, "its own", stateful()).await;
        other.app.kept().fails = [("/state", 500)].into();
        other.warms(2).await;
        let copy = one.freezes(2, 1).await;
        other.tell_from(2, Order::Restore(copy), Some(one.sidecar.link));
        other.comes_to(Stand::Void { why: Why::Activation }).await;
        assert!(other.app.asked().len() > 1, "it is asked again before that");
        // Another migration may do better.
        other.app.kept().fails.clear();
        one.tell(2, Order::Serve { epoch: Epoch(1), from: Source::Kept });
        other.tell(2, Order::Discard);
        one.comes_to(Stand::Serving { epoch: Epoch(1) }).await;
        moves(&one, &other, 3, 2, one.sidecar.link).await;
        assert_eq!(other.app.kept().state, b"its state");
    });
}

#[test]
fn a_place_that_is_to_begin_does_not_take_what_it_was_fetching() {
    run(async {
        let root = Root::new();
        let one = Instance::serving(&root, "its state", stateful()).await;
        let other = Instance::new(&root, "its own", stateful()).await;
        other.warms(2).await;
        let copy = one.freezes(2, 1).await;
        // Nobody has it there.
        other.tell_from(2, Order::Restore(copy), Some(other.sidecar.link));
        other.tell(2, Order::Serve { epoch: Epoch(2), from: Source::Nothing });
        other.comes_to(Stand::Serving { epoch: Epoch(2) }).await;
        other.sidecar.shared().copies.copies().keep(
            2,
            1,
            b"a token".to_vec(),
            one.sidecar.shared().copies.copies().find(2, 1, b"a token").unwrap(),
        );
        // Longer than the longest pause before another try.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(other.app.asked().is_empty());
        assert_eq!(other.app.kept().state, b"its own");
    });
}

#[test]
fn an_application_that_is_gone_has_lost_its_state() {
    run(async {
        let root = Root::new();
        let mut one = Instance::serving(&root, "its state", stateful()).await;
        let before = one.report().unwrap().incarnation;
        let gone = App::new("another's").await;
        drop(std::mem::replace(&mut one.app, gone));
        let report = one.reports(|report| report.incarnation > before).await;
        assert_eq!(report.stand, Stand::Empty);
    });
}

#[test]
fn a_service_that_has_no_state_any_more_goes_on() {
    run(async {
        let root = Root::new();
        let one = Instance::serving(&root, "its state", stateful()).await;
        let copy = one.freezes(2, 1).await;
        put_in_force(&one.sidecar, None);
        while one.has_copy(2, copy) || one.app.kept().asked.len() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(one.app.asked(), ["POST /freeze", "GET /state", "POST /thaw"]);
    });
}
