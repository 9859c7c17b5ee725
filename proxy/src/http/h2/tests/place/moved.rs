//! Requests that their caller's sidecar keeps, and that an instance from which the state has moved gives back to it.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lighter_config::sidecar::{InboundConfig, SidecarConfig};
use lighter_config::snapshot::Secure;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::sync::Notify;

use super::sent::with_port;
use super::*;
use crate::carry::Call;
use crate::identity::tests::Root;
use crate::link;
use crate::mesh::Target;
use crate::stateful::moved::Keeps;

const OWN: &str = "spiffe://mesh.lighter/ns/default/sa/echo";
const WEB: &str = "spiffe://mesh.lighter/ns/default/sa/web";

/// An instance that takes links, and has the state; another one that does, to which it goes; and the sidecar of a caller that
/// knows of the first one alone.
struct Pair {
    far: Instance,
    near: World,
    /// Where each is, and takes links.
    places: [(SocketAddr, SocketAddr); 2],
    _there: World,
}

impl Pair {
    /// The applications of the instances are at `old` and `new`. `park`: of the caller's sidecar.
    async fn new(old: SocketAddr, new: SocketAddr, park: Park) -> Self {
        Pair::behind_door(old, new, park).await.0
    }

    /// The same, where links to the first instance come by a door.
    async fn behind_door(old: SocketAddr, new: SocketAddr, park: Park) -> (Self, Rc<Door>) {
        let root = Root::new();
        let file = |at, app| {
            let inbound = InboundConfig { listen: at, app, port: Some(80), protocol: Protocol::Http };
            SidecarConfig { service: Some("echo".into()), inbound: vec![inbound], ..config() }
        };
        let [here, there] = [9, 10].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let listed =
            with_port(snapshot(&[new], TrafficPolicy::default()), |port| port.protocol = Protocol::Http);
        let mesh = Mesh::build(Arc::new(listed.clone()), &Mesh::default());
        let target = Target::of(mesh.destination(&key()).unwrap().clone());
        let other = World::of_config(file(there, new), mesh, target);
        let (listed, stateful) = keeping_state(listed, PARK);
        let hosted = Hosted::new(&stateful, LIFE);
        let mut mesh = Mesh::build(Arc::new(listed), &Mesh::default());
        mesh.hosted = Some(hosted.clone());
        let target = Target::of(mesh.destination(&key()).unwrap().clone());
        let far = Instance { world: World::of_config(file(here, old), mesh, target), hosted };
        far.command(1, Order::Serve { epoch: EPOCH, from: Source::Nothing });
        far.hosted.with(|place, _, out| place.opened(true, out));
        let (door, address) = Door::before(links(&far.world, &root).await).await;
        let places = [(here, address), (there, links(&other, &root).await)];
        let mesh = Mesh::build(Arc::new(reached(places[0], park)), &Mesh::default());
        let target = Target::of(mesh.destination(&key()).unwrap().clone());
        let near = World::of_config(config(), mesh, target);
        assert!(near.worker.shared.identity.set(root.identity(WEB)).is_ok());
        (Pair { far, near, places, _there: other }, door)
    }

    /// The caller's sidecar is told that the Service is reached at the other one.
    fn reached(&self) {
        let shared = &self.near.worker.shared;
        let listed = reached(self.places[1], PARK);
        shared.mesh.store(Arc::new(Mesh::build(Arc::new(listed), &shared.mesh.load())));
    }

    async fn http1(&self, length: usize) -> tokio::task::JoinHandle<String> {
        let body = "a".repeat(length);
        let request = format!(
            "POST /add HTTP/1.1\r\nHost: echo\r\nX-Lighter-Keeps: 1\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        let client = self.near.socket_http1().await;
        tokio::task::spawn_local(async move { exchange(client, &request).await })
    }

    /// Before endpoints that speak `upstream`. What is framed in chunks there may be longer than what is kept, so that its length is said.
    async fn http2(&mut self, length: usize, upstream: Protocol) -> tokio::task::JoinHandle<String> {
        self.near.upstream = Some(upstream);
        let send = self.near.caller().await;
        self.near.upstream = None;
        tokio::task::spawn_local(async move {
            let body = vec![b'a'; length].leak();
            let mut request = post();
            if upstream == Protocol::Http {
                request.headers_mut().insert("content-length", length.into());
            }
            let answer = call(&send, request, body, None).await.unwrap();
            String::from_utf8(answer.body).unwrap()
        })
    }

    fn kept(&self) -> usize {
        self.near.worker.shared.moved.kept()
    }

    fn waiting(&self) -> u32 {
        self.near.worker.shared.moved.waiting()
    }
}

/// What connections come by.
#[derive(Default)]
struct Door {
    is_closed: Cell<bool>,
    closes: Notify,
    /// Those that stand before it, while it is closed.
    waiting: RefCell<Vec<TcpStream>>,
    is_gone: Cell<bool>,
}

impl Door {
    async fn before(to: SocketAddr) -> (Rc<Self>, SocketAddr) {
        let door = Rc::new(Door::default());
        let this = door.clone();
        let address = raw(move |mut from: TcpStream| {
            let door = this.clone();
            async move {
                if door.is_closed.get() {
                    if !door.is_gone.get() {
                        door.waiting.borrow_mut().push(from);
                    }
                    return;
                }
                let closes = door.closes.notified();
                let mut to = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                    () = closes => {}
                }
            }
        })
        .await;
        (door, address)
    }

    /// Ends what came by it, and has what comes wait.
    fn close(&self) {
        self.is_closed.set(true);
        self.closes.notify_waiters();
    }

    /// Ends what waits, and what comes.
    fn goes(&self) {
        self.is_gone.set(true);
        self.waiting.take();
    }
}

/// What was counted in this thread, by `outcome`.
#[derive(Default)]
struct Outcomes(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Outcomes {
    fn are(&self, expected: &[(&str, u64)]) {
        let counts = self.0.lock().unwrap();
        let counts: Vec<_> = counts.iter().map(|(name, count)| (&**name, count.load(Relaxed))).collect();
        assert_eq!(counts, expected);
    }
}

impl Recorder for Outcomes {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let outcome = key.labels().find(|label| label.key() == "outcome");
        match outcome.filter(|_| key.name() == "lighter_moved_requests_total") {
            Some(outcome) => {
                let mut counts = self.0.lock().unwrap();
                Counter::from_arc(counts.entry(outcome.value().into()).or_default().clone())
            }
            None => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// What is known of a Service that is reached at this one.
fn reached((at, link): (SocketAddr, SocketAddr), park: Park) -> Snapshot {
    let listed = with_port(snapshot(&[at], TrafficPolicy::default()), |port| {
        port.endpoints[0].secure = Some(Secure { identity: OWN.into(), link: Some(link) });
    });
    keeping_state(listed, park).0
}

/// Where it accepts links, as an instance of the Service.
pub(super) async fn links(world: &World, root: &Root) -> SocketAddr {
    assert!(world.worker.shared.identity.set(root.identity(OWN)).is_ok());
    let links = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (worker, address) = (world.worker.clone(), links.local_addr().unwrap());
    tokio::task::spawn_local(async move {
        loop {
            let (tcp, peer) = links.accept().await.unwrap();
            let ticket = worker.connections.enter();
            let call = Call { worker: worker.clone(), io: Io::new(tcp), peer, ticket };
            if let Some(engine) = link::serve::accepted(call).await {
                tokio::task::spawn_local(engine);
            }
        }
    });
    address
}

/// How many of them another instance has sent on.
fn sent_on(got: &Got) -> usize {
    got.borrow().iter().filter(|request| request.contains("\r\nx-lighter-forwarded: 2\r\n")).count()
}

/// The length of its body.
fn content(request: &str) -> usize {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    if !head.contains("transfer-encoding: chunked") {
        return body.len();
    }
    body.split("\r\n").step_by(2).map(|size| usize::from_str_radix(size, 16).unwrap_or(0)).sum()
}

#[test]
fn what_waited_goes_from_its_caller_to_where_the_state_went_as_far_as_that_keeps_it() {
    run(async {
        let ((old, left), (new, got)) = (application("old").await, application("new").await);
        let mut pair = Pair::new(old, new, PARK).await;
        pair.near.worker.shared.moved.is_heard(true);
        assert!(pair.http1(3).await.await.unwrap().ends_with("old"));
        assert_eq!(left.take().len(), 1);
        pair.far.freeze();
        // One that is longer than what is kept goes on from there.
        let mut answers = Vec::new();
        for length in [0, 10 << 10, 64 << 10, 128 << 10] {
            answers.push(pair.http1(length).await);
        }
        answers.push(pair.http2(3, Protocol::Http2).await);
        answers.push(pair.http2(64 << 10, Protocol::Http2).await);
        answers.push(pair.http2(3, Protocol::Http).await);
        // Of unknown length, and longer than what is kept: no more of it was sent.
        answers.push(pair.http2(130 << 10, Protocol::Http2).await);
        pair.far.until_parked(8).await;
        assert_eq!(pair.kept(), ((74 + 3 * 64) << 10) + 3);
        pair.far.moves(new);
        pair.far.until(|| sent_on(&got) == 1 && pair.waiting() == 7).await;
        assert_eq!(got.borrow().len(), 1, "all others wait at their caller");
        pair.reached();
        for answer in answers {
            let answer = answer.await.unwrap();
            assert!(answer.ends_with("new"), "{answer}");
        }
        assert!(left.borrow().is_empty(), "{left:?}");
        assert_eq!((got.borrow().len(), sent_on(&got)), (8, 1));
        let mut lengths: Vec<_> = got.borrow().iter().map(|request| content(request)).collect();
        lengths.sort();
        let wanted = [0, 3, 3, 10 << 10, 64 << 10, 64 << 10, 128 << 10, 130 << 10];
        assert_eq!(lengths, wanted, "none is cut short");
        assert_eq!(pair.kept(), 0);
    });
}

#[test]
fn who_hears_no_control_plane_has_the_old_place_send_it_on() {
    run(async {
        let ((old, left), (new, got)) = (application("old").await, application("new").await);
        let park = Park { wait: Duration::from_millis(100), ..PARK };
        let mut pair = Pair::new(old, new, park).await;
        pair.far.freeze();
        pair.far.moves(new);
        assert!(pair.http1(10 << 10).await.await.unwrap().ends_with("new"));
        assert!(pair.http1(0).await.await.unwrap().ends_with("new"));
        for upstream in [Protocol::Http2, Protocol::Http] {
            assert_eq!(pair.http2(3, upstream).await.await.unwrap(), "new");
        }
        // Nor does it matter that it is heard, where it does not say in time where the Service is.
        pair.near.worker.shared.moved.is_heard(true);
        assert!(pair.http1(3).await.await.unwrap().ends_with("new"));
        assert!(left.borrow().is_empty(), "{left:?}");
        assert_eq!((got.borrow().len(), sent_on(&got)), (5, 5));
        assert_eq!(pair.kept(), 0);
        pair.near.worker.shared.moved.is_heard(false);
        assert!(pair.http1(3).await.await.unwrap().ends_with("new"));
    });
}

/// Long enough for a link to end meanwhile.
const A_WHILE: Park = Park { wait: Duration::from_secs(2), ..PARK };

#[test]
fn what_does_not_get_back_to_the_old_place_goes_to_where_the_state_is_known_to_be_by_then() {
    let outcomes = Outcomes::default();
    metrics::with_local_recorder(&outcomes, || {
        run(async {
            let ((old, left), (new, got)) = (application("old").await, application("new").await);
            let (mut pair, door) = Pair::behind_door(old, new, A_WHILE).await;
            pair.near.worker.shared.moved.is_heard(true);
            pair.far.freeze();
            pair.far.moves(new);
            let answers = [
                pair.http1(10 << 10).await,
                pair.http2(3, Protocol::Http2).await,
                pair.http2(3, Protocol::Http).await,
            ];
            pair.far.until(|| pair.waiting() == 3).await;
            door.close();
            pair.far.until(|| pair.waiting() == 0 && !door.waiting.borrow().is_empty()).await;
            pair.reached();
            door.goes();
            for answer in answers {
                let answer = answer.await.unwrap();
                assert!(answer.ends_with("new"), "{answer}");
            }
            assert!(left.borrow().is_empty(), "{left:?}");
            let mut lengths: Vec<_> = got.borrow().iter().map(|request| content(request)).collect();
            lengths.sort();
            assert_eq!((lengths, sent_on(&got)), (vec![3, 3, 10 << 10], 0));
            assert_eq!(pair.kept(), 0);
        });
    });
    outcomes.are(&[("elsewhere", 3)]);
}

#[test]
fn what_does_not_get_back_to_the_old_place_and_has_nowhere_else_to_go_is_answered() {
    let outcomes = Outcomes::default();
    metrics::with_local_recorder(&outcomes, || {
        run(async {
            let ((old, left), (new, got)) = (application("old").await, application("new").await);
            let (pair, door) = Pair::behind_door(old, new, A_WHILE).await;
            pair.near.worker.shared.moved.is_heard(true);
            pair.far.freeze();
            pair.far.moves(new);
            let answer = pair.http1(3).await;
            pair.far.until(|| pair.waiting() == 1).await;
            door.close();
            door.goes();
            let answer = answer.await.unwrap();
            assert!(answer.contains("x-lighter-error: tls_failed"), "{answer}");
            assert!(left.borrow().is_empty() && got.borrow().is_empty());
            assert_eq!((pair.kept(), pair.waiting()), (0, 0));
        });
    });
    outcomes.are(&[("expired", 1)]);
}

#[test]
fn nothing_is_kept_of_what_its_caller_leaves() {
    run(async {
        let ((old, left), (new, got)) = (application("old").await, application("new").await);
        let mut pair = Pair::new(old, new, PARK).await;
        pair.near.worker.shared.moved.is_heard(true);
        pair.far.freeze();
        pair.far.moves(new);
        let answers = [pair.http1(3).await, pair.http2(3, Protocol::Http2).await];
        pair.far.until(|| pair.waiting() == 2).await;
        assert_eq!(pair.kept(), (64 << 10) + 3);
        for answer in answers {
            answer.abort();
        }
        pair.far.until(|| (pair.waiting(), pair.kept()) == (0, 0)).await;
        assert!(left.borrow().is_empty() && got.borrow().is_empty());
    });
}

#[test]
fn as_many_wait_as_may_and_the_others_are_sent_on_at_once() {
    run(async {
        let ((old, left), (new, got)) = (application("old").await, application("new").await);
        let mut pair = Pair::new(old, new, Park { requests: 1, ..PARK }).await;
        pair.near.worker.shared.moved.is_heard(true);
        pair.far.freeze();
        pair.far.moves(new);
        let answers = [pair.http1(3).await, pair.http1(3).await, pair.http2(3, Protocol::Http2).await];
        pair.far.until(|| sent_on(&got) == 2).await;
        pair.reached();
        for answer in answers {
            assert!(answer.await.unwrap().ends_with("new"));
        }
        assert!(left.borrow().is_empty(), "{left:?}");
        assert_eq!((got.borrow().len(), sent_on(&got)), (3, 2));
        assert_eq!(pair.kept(), 0);
    });
}

#[test]
fn no_more_is_kept_than_there_is_room_for() {
    run(async {
        let world = World::with(&[], TrafficPolicy::default());
        let shared = &world.worker.shared;
        let keep = |length| Keeps::request(shared, 100, length);
        let mut kept: Vec<_> = (0..1023).map(|_| keep(Some(64 << 10)).unwrap()).collect();
        assert!(keep(Some((64 << 10) + 1)).is_none(), "one is longer than may be kept of one");
        // Of unknown length, it may be as long as that.
        kept.extend(keep(None));
        assert_eq!((kept.len(), shared.moved.kept()), (1024, 64 << 20));
        assert!(keep(Some(1)).is_none() && keep(None).is_none());
        kept.extend(keep(Some(0)));
        assert_eq!((kept.len(), shared.moved.kept()), (1025, 64 << 20));
        kept.truncate(1);
        assert!(keep(None).is_some());
        assert_eq!(shared.moved.kept(), 64 << 10);
    });
}
