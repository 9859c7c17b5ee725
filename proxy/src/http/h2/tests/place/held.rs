//! Requests that wait at their caller's sidecar while the state moves.

use lighter_migrate::Bounds;

use super::*;
use crate::stateful::held::{self, wire};

const ROOM: Bounds = Bounds { count: 8, bytes: 1 << 20, time: Duration::from_secs(30) };
const LONG: Duration = Duration::from_secs(20);

/// The sidecar of callers.
struct Calling {
    world: World,
    sequence: u64,
}

impl Calling {
    fn new(endpoint: SocketAddr, policy: TrafficPolicy) -> Self {
        let world = World::with(&[endpoint], policy);
        tokio::task::spawn_local(held::run(world.worker.shared.clone()));
        Calling { world, sequence: 0 }
    }

    fn follow(&mut self, what: wire::What) {
        self.sequence += 1;
        let stamp = Stamp { migration: 1, term: 1, sequence: self.sequence };
        let said = wire::Said { service: key().service, stamp, what };
        let shared = &self.world.worker.shared;
        shared.holds.follow(&shared.mesh, wire::encode(&said));
    }

    /// Has requests to `from` wait.
    fn hold(&mut self, from: SocketAddr, longest: Duration, bounds: Bounds) {
        let what = wire::What::Hold { longest, epoch: EPOCH, from: [from].into(), bounds };
        self.follow(what);
    }

    /// The Service is reached there from here on.
    fn moves(&self, to: SocketAddr) {
        self.reached(&[to]);
    }

    fn reached(&self, at: &[SocketAddr]) {
        let shared = &self.world.worker.shared;
        let before = shared.mesh.load_full();
        let policy = before.config.port(&key()).unwrap().policy.clone();
        shared.mesh.store(Arc::new(Mesh::build(Arc::new(snapshot(at, policy)), &before)));
    }

    async fn http1(&self) -> tokio::task::JoinHandle<String> {
        tokio::task::spawn_local(exchange(self.world.socket_http1().await, POST))
    }

    async fn http2(&self) -> tokio::task::JoinHandle<String> {
        let send = self.world.caller().await;
        tokio::task::spawn_local(async move {
            let answer = call(&send, post(), b"two", None).await.unwrap();
            format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))
        })
    }

    fn waiting(&self) -> usize {
        self.world.worker.shared.holds.waiting()
    }

    async fn until_waiting(&self, count: usize) {
        while self.waiting() != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[test]
fn what_waits_goes_where_the_service_is_reached_next() {
    run(async {
        let ((old, left), (new, got)) = (application("old").await, application("new").await);
        let mut calling = Calling::new(old, TrafficPolicy::default());
        assert!(calling.http1().await.await.unwrap().ends_with("old"));
        calling.hold(old, LONG, ROOM);
        let one = calling.http1().await;
        calling.world.upstream = Some(Protocol::Http);
        let two = calling.http2().await;
        calling.until_waiting(2).await;
        calling.moves(new);
        assert!(one.await.unwrap().ends_with("new"));
        assert_eq!(two.await.unwrap(), "200 new");
        assert_eq!((left.borrow().len(), got.borrow().len()), (1, 2));
        // It is over: nobody asks any more, and a late order finds nothing to hold.
        assert!(calling.http1().await.await.unwrap().ends_with("new"));
        calling.hold(old, LONG, ROOM);
        assert_eq!(calling.http2().await.await.unwrap(), "200 new");
        assert_eq!(calling.waiting(), 0);
    });
}

#[test]
fn what_is_gone_for_a_moment_has_not_moved_and_what_came_back_moves_again() {
    run(async {
        let ((old, left), (new, got)) = (application("old").await, application("new").await);
        let mut calling = Calling::new(old, TrafficPolicy::default());
        calling.hold(old, LONG, ROOM);
        let one = calling.http1().await;
        calling.until_waiting(1).await;
        calling.reached(&[]);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(calling.waiting(), 1);
        calling.moves(old);
        let two = calling.http1().await;
        calling.until_waiting(2).await;
        // It seems to have moved, and is back: the move was aborted, and the next one is of the same epoch.
        calling.moves(new);
        for answer in [one, two] {
            assert!(answer.await.unwrap().ends_with("new"));
        }
        calling.moves(old);
        calling.hold(old, LONG, ROOM);
        let waits = calling.http1().await;
        calling.until_waiting(1).await;
        calling.moves(new);
        assert!(waits.await.unwrap().ends_with("new"));
        assert_eq!((left.borrow().len(), got.borrow().len()), (0, 3));
    });
}

#[test]
fn before_endpoints_that_speak_http2_it_waits_too_and_within_the_limits_of_the_port() {
    run(async {
        let gone =
            |(_, mut respond): world::Got| async move { respond.send_reset(h2::Reason::INTERNAL_ERROR) };
        let old = endpoint(Default::default(), gone).await;
        let new = endpoint(Default::default(), echo).await;
        let mut policy = TrafficPolicy::default();
        policy.circuit.max_requests = Some(1);
        policy.circuit.max_pending = 8;
        policy.circuit.pending_timeout = LONG;
        let mut calling = Calling::new(old.address, policy);
        calling.hold(old.address, LONG, ROOM);
        calling.world.upstream = Some(Protocol::Grpc);
        let two = [calling.http2().await, calling.http2().await];
        calling.until_waiting(2).await;
        calling.moves(new.address);
        for answer in two {
            assert_eq!(answer.await.unwrap(), "200 two");
        }
        assert_eq!(old.connections.get(), 0);
    });
}

#[test]
fn what_has_no_room_or_waits_for_too_long_goes_where_the_service_was() {
    run(async {
        let (old, left) = application("old").await;
        let mut calling = Calling::new(old, TrafficPolicy::default());
        calling.hold(old, LONG, Bounds { count: 1, ..ROOM });
        let waits = calling.http1().await;
        calling.until_waiting(1).await;
        assert!(calling.http1().await.await.unwrap().ends_with("old"));
        assert_eq!((calling.waiting(), left.borrow().len()), (1, 1));
        // The Service stays.
        calling.follow(wire::What::Release);
        assert!(waits.await.unwrap().ends_with("old"));
        // Or nobody says what becomes of it, or that takes long.
        calling.hold(old, LONG, ROOM);
        let waits = calling.http1().await;
        calling.until_waiting(1).await;
        calling.world.worker.shared.holds.let_go();
        assert!(waits.await.unwrap().ends_with("old"));
        calling.hold(old, Duration::from_millis(100), ROOM);
        assert!(calling.http1().await.await.unwrap().ends_with("old"));
        assert_eq!((calling.waiting(), left.borrow().len()), (0, 4));
    });
}

#[test]
fn whoever_cannot_wait_as_long_is_told_so_and_whoever_leaves_goes_nowhere() {
    run(async {
        let ((old, left), (new, got)) = (application("old").await, application("new").await);
        let policy =
            TrafficPolicy { request_timeout: Some(Duration::from_millis(100)), ..TrafficPolicy::default() };
        let mut calling = Calling::new(old, policy);
        calling.hold(old, LONG, ROOM);
        let answer = calling.http1().await.await.unwrap();
        assert!(answer.contains("x-lighter-error: request_timeout"), "{answer}");
        let mut leaves = calling.world.socket_http1().await;
        leaves.write_all(POST.as_bytes()).await.unwrap();
        calling.until_waiting(1).await;
        drop(leaves);
        calling.until_waiting(0).await;
        calling.moves(new);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!((left.borrow().len(), got.borrow().len()), (0, 0));
    });
}
