//! Requests that go on to where the state is.

use lighter_config::identity::Spiffe;
use lighter_config::sidecar::{InboundConfig, SidecarConfig};
use lighter_config::snapshot::authorization::Authorization;
use lighter_config::snapshot::{Port, Secure};

use super::moved::links;
use super::*;
use crate::identity::tests::Root;
use crate::link::accept::Caller;
use crate::mesh::Target;

#[test]
fn what_waited_and_what_comes_goes_to_where_the_state_is() {
    run(async {
        let ((old, left), (new, got)) = (application("old").await, application("new").await);
        let mut instance = Instance::new(old, &[new], PARK);
        instance.freeze();
        let forged = POST.replace("Host", "X-Lighter-Forwarded: 9\r\nHost");
        let waited = tokio::task::spawn_local({
            let client = instance.world.socket_http1().await;
            async move { exchange(client, &forged).await }
        });
        instance.world.upstream = Some(Protocol::Http);
        let send = instance.world.caller().await;
        let both = send.clone();
        let waited_too = tokio::task::spawn_local(async move { call(&both, post(), b"two", None).await });
        instance.until_parked(2).await;
        instance.moves(new);
        assert!(waited.await.unwrap().ends_with("new"));
        assert_eq!(waited_too.await.unwrap().unwrap().body, b"new");
        assert_eq!(call(&send, post(), b"three", None).await.unwrap().body, b"new");
        assert!(exchange(instance.world.socket_http1().await, POST).await.ends_with("new"));
        assert!(left.borrow().is_empty(), "{left:?}");
        let got = got.take();
        assert_eq!(got.len(), 4);
        for request in got.iter() {
            let marks: Vec<_> = request.lines().filter(|line| line.starts_with("x-lighter-")).collect();
            assert_eq!(marks, ["x-lighter-forwarded: 2"], "{request}");
        }
        instance.until(|| instance.running() == Running::default()).await;
    });
}

#[test]
fn where_the_state_is_may_be_known_a_little_later() {
    run(async {
        let ((old, _), (new, got)) = (application("old").await, application("new").await);
        let instance = Instance::new(old, &[], PARK);
        instance.freeze();
        instance.moves(new);
        let answer = tokio::task::spawn_local(exchange(instance.world.socket_http1().await, POST));
        instance.until(|| instance.running().forwarded == 1).await;
        let shared = &instance.world.worker.shared;
        let (snapshot, _) = keeping_state(snapshot(&[new], TrafficPolicy::default()), PARK);
        let mut mesh = Mesh::build(Arc::new(snapshot), &shared.mesh.load());
        mesh.hosted = Some(instance.hosted.clone());
        shared.mesh.store(Arc::new(mesh));
        assert!(answer.await.unwrap().ends_with("new"));
        assert_eq!(got.borrow().len(), 1);
    });
}

#[test]
fn a_place_that_is_gone_is_said_not_to_have_executed_anything() {
    run(async {
        let (old, left) = application("old").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = listener.local_addr().unwrap();
        drop(listener);
        let instance = Instance::new(old, &[gone], PARK);
        instance.freeze();
        instance.moves(gone);
        let answer = exchange(instance.world.socket_http1().await, POST).await;
        assert!(answer.contains("x-lighter-error: connect_refused"), "{answer}");
        assert!(left.borrow().is_empty(), "{left:?}");
        instance.until(|| instance.running() == Running::default()).await;
    });
}

#[test]
fn a_request_that_was_sent_on_was_judged_where_it_came_in_and_only_of_the_service_s_own_that_is_believed() {
    const OWN: &str = "spiffe://mesh.lighter/ns/default/sa/echo";
    const OTHER: &str = "spiffe://mesh.lighter/ns/default/sa/other";
    const FIRST: &str = "URI=spiffe://mesh.lighter/ns/default/sa/web";
    run(async {
        let (app, got) = application("here").await;
        let mut snapshot = snapshot(&[], TrafficPolicy::default());
        // No rule allows anything.
        let nobody = Authorization { allow: vec!["default/nobody".into()], ..Authorization::default() };
        snapshot.authorization.insert(key(), Arc::new(nobody));
        let mut instance = Instance::without_state(app, snapshot, PARK);
        instance.command(1, Order::Serve { epoch: EPOCH, from: Source::Nothing });
        instance.hosted.with(|place, _, out| place.opened(true, out));
        assert!(instance.world.worker.shared.identity.set(Root::new().identity(OWN)).is_ok());
        let sent_on = POST.replace(
            "Host",
            &format!("X-Lighter-Forwarded: 1\r\nX-Forwarded-For: 198.18.0.1\r\nX-Forwarded-Client-Cert: {FIRST}\r\nHost"),
        );
        instance.world.upstream = Some(Protocol::Http);
        for caller in [None, Some(OTHER), Some(OWN)] {
            instance.world.caller = caller.and_then(|caller| Caller::new(Spiffe::parse(caller).unwrap()));
            let answer = exchange(instance.world.socket_http1().await, &sent_on).await;
            let mut marked = post();
            for (name, value) in [("x-lighter-forwarded", "1"), ("x-forwarded-client-cert", FIRST)] {
                marked.headers_mut().insert(name, value.parse().unwrap());
            }
            let over_http2 =
                call(&instance.world.caller().await, marked.clone(), b"two", None).await.unwrap();
            if caller == Some(OWN) {
                assert!(answer.ends_with("here"), "{answer}");
                assert_eq!(over_http2.status, 200);
            } else {
                assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
                assert_eq!(over_http2.status, 403);
            }
        }
        // Of its own who calls is no more than any other caller, without that word.
        let answer = exchange(instance.world.socket_http1().await, POST).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert_eq!(call(&instance.world.caller().await, post(), b"two", None).await.unwrap().status, 403);
        let got = got.borrow();
        assert_eq!(got.len(), 2);
        for request in got.iter() {
            assert!(!request.contains("x-lighter-"), "{request}");
            let who: Vec<_> = request.lines().filter(|line| line.contains("client-cert")).collect();
            assert_eq!(who, [format!("x-forwarded-client-cert: {FIRST}").to_lowercase()]);
        }
        assert!(got.iter().any(|request| request.contains("x-forwarded-for: 198.18.0.1\r\n")), "{got:?}");
    });
}

#[test]
fn what_goes_on_by_a_link_is_known_there_for_what_it_is() {
    const OWN: &str = "spiffe://mesh.lighter/ns/default/sa/echo";
    const WEB: &str = "spiffe://mesh.lighter/ns/default/sa/web";
    run(async {
        let ((old, left), (new, got)) = (application("old").await, application("new").await);
        let root = Root::new();
        // The instance to which the state has moved lets nobody in by itself.
        let listen = SocketAddr::from(([127, 0, 0, 1], 9));
        let inbound = InboundConfig { listen, app: new, port: Some(80), protocol: Protocol::Http };
        let config = SidecarConfig { service: Some("echo".into()), inbound: vec![inbound], ..config() };
        let mut listed = snapshot(&[], TrafficPolicy::default());
        let nobody = Authorization { allow: vec!["default/nobody".into()], ..Authorization::default() };
        listed.authorization.insert(key(), Arc::new(nobody));
        let listed = with_port(listed, |port| port.protocol = Protocol::Http);
        let (listed, stateful) = keeping_state(listed, PARK);
        let there = Hosted::new(&stateful, LIFE);
        let mut mesh = Mesh::build(Arc::new(listed), &Mesh::default());
        mesh.hosted = Some(there.clone());
        let target = Target::of(mesh.destination(&key()).unwrap().clone());
        let far = World::of_config(config, mesh, target);
        let far = Instance { world: far, hosted: there };
        far.command(1, Order::Serve { epoch: Epoch(2), from: Source::Nothing });
        far.hosted.with(|place, _, out| place.opened(true, out));
        let address = links(&far.world, &root).await;
        let listed = with_port(snapshot(&[listen], TrafficPolicy::default()), |port| {
            port.endpoints[0].secure = Some(Secure { identity: OWN.into(), link: Some(address) });
        });
        let mut near = Instance::without_state(old, listed, PARK);
        near.command(1, Order::Serve { epoch: EPOCH, from: Source::Nothing });
        near.hosted.with(|place, _, out| place.opened(true, out));
        assert!(near.world.worker.shared.identity.set(root.identity(OWN)).is_ok());
        near.world.caller = Caller::new(Spiffe::parse(WEB).unwrap());
        near.freeze();
        near.moves(listen);
        assert!(exchange(near.world.socket_http1().await, POST).await.ends_with("new"));
        near.world.upstream = Some(Protocol::Http);
        assert_eq!(call(&near.world.caller().await, post(), b"two", None).await.unwrap().body, b"new");
        near.world.upstream = Some(Protocol::Http2);
        assert_eq!(call(&near.world.caller().await, post(), b"three", None).await.unwrap().body, b"new");
        assert!(left.borrow().is_empty(), "{left:?}");
        for request in got.borrow().iter() {
            assert!(!request.contains("x-lighter-"), "{request}");
            assert!(request.contains(&format!("x-forwarded-client-cert: uri={WEB}\r\n")), "{request}");
            assert!(request.contains("x-forwarded-for: 127.0.0.1\r\n"), "{request}");
        }
        assert_eq!(got.borrow().len(), 3);
        // It has moved on from there too: one hop, and no further.
        far.freeze_of(Epoch(2));
        far.command_with(3, Order::Move { to: PlaceId(1), epoch: Epoch(3) }, BTreeMap::from([(80, old)]));
        let answer = exchange(near.world.socket_http1().await, POST).await;
        assert!(answer.contains("x-lighter-error: not_serving"), "{answer}");
        near.until(|| near.running() == Running::default()).await;
        far.until(|| far.running() == Running::default()).await;
    });
}

pub(super) fn with_port(mut snapshot: Snapshot, change: impl FnOnce(&mut Port)) -> Snapshot {
    let name = key().service;
    let service = Service::clone(snapshot.services.get(&name).unwrap());
    let mut port = Port::clone(&service.ports[0]);
    change(&mut port);
    snapshot.services.insert(name, Arc::new(Service { ports: vec![Arc::new(port)], ..service }));
    snapshot
}
