//! Requests to an instance of a Service with state, before applications of bytes or of the `h2` crate: they wait while the
//! state moves, run where it is, and nowhere else.

mod held;
mod moved;
mod sent;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use lighter_config::snapshot::{
    Hooks, OnDrain, Park, Protocol, Service, Snapshot, StateAccess, StateClass, Stateful, Streams,
    TrafficPolicy, WhenAlone,
};
use lighter_migrate::{
    Command, Digest, Epoch, Incarnation, Order, PlaceAction, PlaceId, Running, Source, Stamp, Stand,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::world::{self, *};
use crate::error::Cause;
use crate::io::Io;
use crate::mesh::Mesh;
use crate::stateful::Hosted;
use crate::stateful::wire::Told;
use crate::tcp::{self, Onward, Opaque};
use crate::telemetry::Spoken;

const LIFE: Incarnation = Incarnation(1);
const EPOCH: Epoch = Epoch(1);
const QUIESCE: Order = Order::Quiesce { patience: Duration::from_secs(3600), cut_streams: false };
const PARK: Park = Park { requests: 8, bytes: 1 << 20, wait: Duration::from_secs(30) };

/// An instance of the Service beside its place.
struct Instance {
    world: World,
    hosted: Arc<Hosted>,
}

impl Instance {
    /// One whose application is at `app`, and which knows of these endpoints. It has the state.
    fn new(app: SocketAddr, endpoints: &[SocketAddr], park: Park) -> Self {
        let this = Self::without_state(app, snapshot(endpoints, TrafficPolicy::default()), park);
        this.command(1, Order::Serve { epoch: EPOCH, from: Source::Nothing });
        this.hosted.with(|place, _, out| place.opened(true, out));
        this
    }

    fn without_state(app: SocketAddr, snapshot: Snapshot, park: Park) -> Self {
        let (snapshot, stateful) = keeping_state(snapshot, park);
        let hosted = Hosted::new(&stateful, LIFE);
        let mut mesh = Mesh::build(Arc::new(snapshot), &Mesh::default());
        mesh.hosted = Some(hosted.clone());
        Instance { world: World::of_instance(app, mesh), hosted }
    }

    fn command(&self, sequence: u64, order: Order) {
        self.command_with(sequence, order, BTreeMap::new());
    }

    fn command_with(&self, sequence: u64, order: Order, to: BTreeMap<u16, SocketAddr>) {
        let stamp = Stamp { migration: 1, term: 1, sequence };
        let command = Command { stamp, incarnation: Some(LIFE), order };
        self.hosted.command(&Told { command, token: Vec::new(), from: None, to });
    }

    fn quiesce(&self) {
        self.command(2, QUIESCE);
    }

    /// Nothing runs, so that it freezes.
    fn freeze(&self) {
        self.freeze_of(EPOCH);
    }

    fn freeze_of(&self, epoch: Epoch) {
        self.quiesce();
        self.hosted.with(|place, _, out| place.frozen(Digest([1; 32]), 1, false, out));
        assert_eq!(self.hosted.with(|place, _, _| place.stand()), Stand::Frozen { epoch });
    }

    fn thaw(&self) {
        self.command(3, Order::Serve { epoch: EPOCH, from: Source::Kept });
        // Which is what its executor says.
        self.hosted.with(|place, _, out| place.thawed(out));
    }

    fn moves(&self, to: SocketAddr) {
        let order = Order::Move { to: PlaceId(2), epoch: Epoch(2) };
        self.command_with(3, order, BTreeMap::from([(80, to)]));
    }

    fn running(&self) -> Running {
        self.hosted.with(|place, _, _| place.running())
    }

    async fn until_parked(&self, count: usize) {
        self.until(|| self.hosted.with(|place, _, _| place.parked().len()) == count).await;
    }

    async fn until(&self, is: impl Fn() -> bool) {
        while !is() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn keeping_state(mut snapshot: Snapshot, park: Park) -> (Snapshot, Arc<Stateful>) {
    let hooks = Hooks {
        snapshot: "/state".into(),
        restore: "/state".into(),
        changes: None,
        freeze: None,
        thaw: None,
    };
    let stateful = Arc::new(Stateful {
        class: StateClass::Volatile,
        port: 80,
        access: StateAccess::Http(hooks),
        timeout: Duration::from_secs(1),
        max_bytes: 1 << 20,
        park,
        streams: Streams::Wait,
        on_drain: OnDrain::Move,
        when_alone: WhenAlone::Refuse,
        moves: lighter_config::snapshot::Moves::default(),
    });
    let name = key().service;
    let service = Service::clone(snapshot.services.get(&name).unwrap());
    snapshot.services.insert(name, Arc::new(Service { state: Some(stateful.clone()), ..service }));
    (snapshot, stateful)
}

/// What an application got: whole requests in HTTP/1.1, in lower case.
type Got = Rc<RefCell<Vec<String>>>;

/// An application that speaks HTTP/1.1, and answers each request with `name`.
async fn application(name: &'static str) -> (SocketAddr, Got) {
    let got = Got::default();
    let seen = got.clone();
    let address = raw(move |mut tcp| {
        let seen = seen.clone();
        async move {
            let mut text = String::new();
            while let Ok(request) = request(&mut tcp, &mut text).await {
                seen.borrow_mut().push(request);
                let length = name.len();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}");
                if tcp.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (address, got)
}

/// Reads one request; what is behind it stays in `text`.
async fn request(tcp: &mut TcpStream, text: &mut String) -> std::io::Result<String> {
    loop {
        if let Some(end) = end_of(text) {
            let rest = text.split_off(end);
            return Ok(std::mem::replace(text, rest));
        }
        let mut room = [0; 4096];
        let read = tcp.read(&mut room).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        text.push_str(&String::from_utf8_lossy(&room[..read]).to_lowercase());
    }
}

fn end_of(text: &str) -> Option<usize> {
    let head = text.find("\r\n\r\n")? + 4;
    if text[..head].contains("transfer-encoding: chunked") {
        return Some(head + text[head..].find("0\r\n\r\n")? + 5);
    }
    let length = text[..head]
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    (text.len() >= head + length).then_some(head + length)
}

const POST: &str = "POST /add HTTP/1.1\r\nHost: echo\r\nContent-Length: 3\r\nConnection: close\r\n\r\none";

/// Sends `request` and reads until the connection ends.
async fn exchange(mut client: TcpStream, request: &str) -> String {
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer).await;
    answer
}

fn post() -> Request<()> {
    Request::post("http://echo/add").version(http::Version::HTTP_2).body(()).unwrap()
}

#[test]
fn a_request_waits_while_the_state_is_frozen_and_runs_after_that() {
    run(async {
        let (app, got) = application("here").await;
        let mut instance = Instance::new(app, &[], PARK);
        instance.freeze();
        let over_http1 = tokio::task::spawn_local(exchange(instance.world.socket_http1().await, POST));
        instance.world.upstream = Some(Protocol::Http);
        let send = instance.world.caller().await;
        let over_http2 = tokio::task::spawn_local(async move { call(&send, post(), b"two", None).await });
        instance.until_parked(2).await;
        assert!(got.borrow().is_empty(), "{got:?}");
        assert_eq!(instance.running(), Running::default());
        instance.thaw();
        let answer = over_http1.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("here"), "{answer}");
        let answer = over_http2.await.unwrap().unwrap();
        assert_eq!((answer.status, &*answer.body), (200, &b"here"[..]));
        let mut bodies: Vec<bool> = got.borrow().iter().map(|request| request.contains("one")).collect();
        bodies.sort_unstable();
        assert_eq!(bodies, [false, true], "{got:?}");
        instance.until(|| instance.running() == Running::default()).await;
    });
}

#[test]
fn before_an_application_that_speaks_http2_it_waits_too() {
    run(async {
        let app = endpoint(Default::default(), echo).await;
        let mut instance = Instance::new(app.address, &[], PARK);
        instance.world.upstream = Some(Protocol::Grpc);
        instance.freeze();
        let over_http1 = tokio::task::spawn_local(exchange(instance.world.socket_http1().await, POST));
        let send = instance.world.caller().await;
        let over_http2 = tokio::task::spawn_local(async move { call(&send, grpc(), b"two", None).await });
        instance.until_parked(2).await;
        assert_eq!(app.connections.get(), 0);
        instance.thaw();
        let answer = over_http1.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("one"), "{answer}");
        assert_eq!(over_http2.await.unwrap().unwrap().body, b"two");
        instance.until(|| instance.running() == Running::default()).await;
    });
}

#[test]
fn a_request_that_runs_keeps_the_state_from_being_frozen_until_it_is_answered() {
    run(async {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = Instance::new(app.local_addr().unwrap(), &[], PARK);
        let answer = tokio::task::spawn_local(exchange(instance.world.socket_http1().await, POST));
        let (mut tcp, _) = app.accept().await.unwrap();
        request(&mut tcp, &mut String::new()).await.unwrap();
        instance.quiesce();
        assert_eq!(instance.running().unary, 1);
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nla").await.unwrap();
        instance.until(|| instance.hosted.with(|place, _, _| place.running().unary) == 1).await;
        tcp.write_all(b"te").await.unwrap();
        assert!(answer.await.unwrap().ends_with("late"));
        instance.until(|| instance.running() == Running::default()).await;
    });
}

#[test]
fn between_two_tries_a_request_runs_on() {
    run(async {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut instance = Instance::new(app.local_addr().unwrap(), &[], PARK);
        instance.world.upstream = Some(Protocol::Http);
        let get = "GET / HTTP/1.1\r\nHost: echo\r\n\r\n";
        let mut client = instance.world.socket_http1().await;
        client.write_all(get.as_bytes()).await.unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let (mut tcp, _) = app.accept().await.unwrap();
        request(&mut tcp, &mut String::new()).await.unwrap();
        tcp.write_all(answer.as_bytes()).await.unwrap();
        client.read_exact(&mut vec![0; answer.len()]).await.unwrap();
        let send = instance.world.caller().await;
        for turn in 2..4 {
            // The connection that rested is closed on the next request, which is asked again.
            let over_http2 = match turn {
                2 => {
                    client.write_all(get.as_bytes()).await.unwrap();
                    None
                }
                _ => {
                    let send = send.clone();
                    Some(tokio::task::spawn_local(
                        async move { call(&send, world::get("/"), b"", None).await },
                    ))
                }
            };
            request(&mut tcp, &mut String::new()).await.unwrap();
            instance.command(turn * 2, QUIESCE);
            drop(tcp);
            tcp = app.accept().await.unwrap().0;
            request(&mut tcp, &mut String::new()).await.unwrap();
            assert_eq!(instance.running().unary, 1);
            assert!(tokio::time::timeout(Duration::ZERO, freezes(&instance.hosted)).await.is_err());
            tcp.write_all(answer.as_bytes()).await.unwrap();
            match over_http2 {
                None => drop(client.read_exact(&mut vec![0; answer.len()]).await.unwrap()),
                Some(answer) => assert_eq!(answer.await.unwrap().unwrap().body, b"ok"),
            }
            freezes(&instance.hosted).await;
            let order = Order::Serve { epoch: EPOCH, from: Source::Kept };
            instance.command(turn * 2 + 1, order);
            instance.hosted.with(|place, _, out| place.thawed(out));
        }
    });
}

/// Resolves once the application is asked to freeze.
async fn freezes(hosted: &Hosted) {
    while hosted.action().await != PlaceAction::Freeze {}
}

#[test]
fn too_many_do_not_wait_and_none_waits_for_too_long() {
    run(async {
        let (app, got) = application("here").await;
        let park = Park { requests: 1, wait: Duration::from_millis(20), ..PARK };
        let mut instance = Instance::new(app, &[], park);
        instance.world.upstream = Some(Protocol::Http);
        instance.freeze();
        let first = tokio::task::spawn_local(exchange(instance.world.socket_http1().await, POST));
        instance.until_parked(1).await;
        let send = instance.world.caller().await;
        let second = call(&send, post(), b"two", None).await.unwrap();
        assert_eq!(
            (second.status, &second.headers["x-lighter-error"]),
            (503, &"park_overflow".parse().unwrap())
        );
        let hosted = instance.hosted.clone();
        let clock = tokio::task::spawn_local(async move { hosted.keep_time().await });
        let first = first.await.unwrap();
        assert!(
            first.starts_with("HTTP/1.1 503 ") && first.contains("x-lighter-error: park_timeout"),
            "{first}"
        );
        assert!(got.borrow().is_empty(), "{got:?}");
        clock.abort();
    });
}

#[test]
fn a_caller_that_leaves_while_it_waits_leaves_nothing() {
    run(async {
        let (app, got) = application("here").await;
        let instance = Instance::new(app, &[], PARK);
        instance.freeze();
        let mut client = instance.world.socket_http1().await;
        client.write_all(POST.as_bytes()).await.unwrap();
        instance.until_parked(1).await;
        drop(client);
        instance.until_parked(0).await;
        instance.thaw();
        assert_eq!(instance.running(), Running::default());
        assert!(got.borrow().is_empty(), "{got:?}");
    });
}

#[test]
fn an_instance_without_the_state_executes_nothing() {
    run(async {
        let (app, got) = application("here").await;
        let mut instance = Instance::without_state(app, snapshot(&[], TrafficPolicy::default()), PARK);
        let answer = exchange(instance.world.socket_http1().await, POST).await;
        assert!(answer.contains("x-lighter-error: not_serving"), "{answer}");
        instance.world.upstream = Some(Protocol::Http);
        let answer = call(&instance.world.caller().await, grpc(), b"two", None).await.unwrap();
        assert_eq!(answer.headers["grpc-status"], "14");
        assert_eq!(answer.headers["x-lighter-error"], "not_serving");
        assert!(got.borrow().is_empty(), "{got:?}");
    });
}

#[test]
fn an_upgraded_connection_runs_until_it_ends() {
    run(async {
        let app = raw(|mut tcp| async move {
            let _ = request(&mut tcp, &mut String::new()).await;
            let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
            let _ = tcp.write_all(answer.as_bytes()).await;
            let mut room = [0; 64];
            while let Ok(1..) = tcp.read(&mut room).await {}
        })
        .await;
        let instance = Instance::new(app, &[], PARK);
        let mut client = instance.world.socket_http1().await;
        let upgrade = "GET / HTTP/1.1\r\nHost: echo\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        client.write_all(upgrade.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
        // So that what ran before has had its end.
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!((instance.running().unary, instance.running().streams), (0, 1));
        drop(client);
        instance.until(|| instance.running() == Running::default()).await;
    });
}

#[test]
fn what_would_not_end_is_cut_where_that_is_asked_for() {
    run(async {
        let app = raw(|mut tcp| async move {
            let _ = request(&mut tcp, &mut String::new()).await;
            let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
            let _ = tcp.write_all(answer.as_bytes()).await;
            let mut room = [0; 64];
            while let Ok(1..) = tcp.read(&mut room).await {}
        })
        .await;
        let instance = Instance::new(app, &[], PARK);
        let mut client = instance.world.socket_http1().await;
        let upgrade = "GET / HTTP/1.1\r\nHost: echo\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        client.write_all(upgrade.as_bytes()).await.unwrap();
        client.read_exact(&mut [0; 12]).await.unwrap();
        // An opaque one too.
        let worker = instance.world.worker.clone();
        let onward = Onward::Port(instance.world.target.clone());
        let peer = "198.18.0.1:1".parse().unwrap();
        let (began, name) = (std::time::Instant::now(), String::new());
        let opaque = Opaque { worker: worker.clone(), onward, peer, spoken: Spoken::Tcp, name, began };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let downstream = Io::new(listener.accept().await.unwrap().0);
        let upstream = opaque.reach().await.ok().unwrap();
        tokio::task::spawn_local(opaque.carry(downstream, upstream, worker.connections.enter()));
        let patience = Duration::from_millis(5);
        instance.command(2, Order::Quiesce { patience, cut_streams: true });
        assert_eq!(instance.running().streams, 2);
        let frozen = freezes(&instance.hosted);
        tokio::select! {
            () = frozen => {}
            () = instance.hosted.keep_time() => unreachable!("it goes on"),
        }
        assert_eq!(instance.running(), Running::default());
        let mut rest = Vec::new();
        assert!(caller.read_to_end(&mut rest).await.is_err(), "no cut looks like an end");
        assert!(client.read_to_end(&mut rest).await.is_err());
    });
}

#[test]
fn an_opaque_connection_is_a_stream_and_is_refused_without_the_state() {
    run(async {
        let (app, _) = application("here").await;
        let instance = Instance::new(app, &[], PARK);
        let worker = &instance.world.worker;
        let onward = Onward::Port(instance.world.target.clone());
        let caller = "198.18.0.1:1".parse().unwrap();
        let upstream = tcp::dial(worker, &onward, caller).await.unwrap();
        assert_eq!(instance.running().streams, 1);
        drop(upstream);
        assert_eq!(instance.running(), Running::default());
        instance.freeze();
        let refused = tcp::dial(worker, &onward, caller).await.err().map(|error| error.cause);
        assert_eq!(refused, Some(Cause::NotServing));
        instance.moves(app);
        let refused = tcp::dial(worker, &onward, caller).await.err().map(|error| error.cause);
        assert_eq!(refused, Some(Cause::NotServing));
        assert_eq!(instance.running(), Running::default());
    });
}

#[test]
fn a_connection_meets_the_place_once_its_service_has_state() {
    run(async {
        let (app, got) = application("here").await;
        let mesh = Mesh::build(Arc::new(snapshot(&[], TrafficPolicy::default())), &Mesh::default());
        let world = World::of_instance(app, mesh);
        let mut client = world.socket_http1().await;
        let ask = "GET / HTTP/1.1\r\nHost: echo\r\n\r\n";
        client.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = vec![0; "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhere".len()];
        client.read_exact(&mut answer).await.unwrap();
        let (snapshot, stateful) = keeping_state(snapshot(&[], TrafficPolicy::default()), PARK);
        let mut mesh = Mesh::build(Arc::new(snapshot), &world.worker.shared.mesh.load());
        mesh.hosted = Some(Hosted::new(&stateful, LIFE));
        world.worker.shared.mesh.store(Arc::new(mesh));
        let answer = exchange(client, &POST.replace("one", "two")).await;
        assert!(answer.contains("x-lighter-error: not_serving"), "{answer}");
        assert_eq!(got.borrow().len(), 1);
    });
}
