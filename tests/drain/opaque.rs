//! Opaque connections, which nobody can take elsewhere, while their Service moves: they are left where they are, counted, and ended by
//! nothing but the deadline of a drain; or they keep the state where it is.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::migrate::{is_done, is_in, phases, story};
use crate::places::{PHASES, Place, begin, begin_with, begin_within, caller, losses};
use crate::registers::INSTANCE;
use crate::support::raw::{Body, Peer};
use crate::support::{test, wait_until};
use crate::world::{Sidecar, World};

pub fn tests() -> Vec<Trial> {
    vec![
        test("opaque::an_open_connection_stays_at_the_old_instance_until_that_drains", stateless),
        test("opaque::an_open_connection_keeps_the_state_where_it_is", stateful),
    ]
}

fn stateless() {
    let world = World::new();
    world.apply(&shop("", ""));
    let mut a = Place::at_ports(&world, "a", &[80], DRAIN);
    wait_until("the first one is ready", || is_ready(&a));
    let (web, door) = caller(&world);
    let mut open = Peer::connect(door);
    assert_eq!(ask(&mut open), "a");
    assert_eq!(open_at(&a), 1.0);
    let b = Place::at_ports(&world, "b", &[80], DRAIN);
    wait_until("both are known", || web.endpoints() == 2);

    let times = "prepareTimeout: 60s, switchTimeout: 60s, drainTimeout: 500ms";
    begin_with(&world, "away", &a, &b, times);
    wait_until("whoever calls is told", || web.endpoints() == 1);
    assert_eq!(ask(&mut open), "a", "it is where it was");
    is_done(&world, "away");
    let story = story(&world, "away");
    assert_eq!(story["left"], 1, "{story}");
    assert_eq!(phases(&story), ["plan", "prepare", "warm", "switch", "drain_old", "done"], "{story}");

    // That is no end of it.
    assert_eq!(ask(&mut open), "a");
    for _ in 0..5 {
        assert_eq!(ask(&mut Peer::connect(door)), "b");
    }
    assert_eq!(open_at(&a), 1.0, "what is new goes elsewhere");

    let began = Instant::now();
    world.operator(&["drain", &format!("shop/{}", a.instance)]);
    while try_ask(&mut open).is_some_and(|by| by == "a") {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() >= DRAIN, "it was cut before its time");
    assert!(a.sidecar.program.wait().success());
    let said = a.sidecar.program.said();
    assert!(said.contains("connections were cut") && said.contains(" kinds=1 tcp"), "{said}");
    assert_eq!(ask(&mut Peer::connect(door)), "b");
}

fn stateful() {
    let world = World::new();
    // The application is asked for its state at a port of its own.
    let state = "  state: {class: volatile, port: 81, snapshot: /state, restore: /state, freeze: /freeze, thaw: /thaw, timeout: 60s, \
                 park: {wait: 180s}}\n";
    world.apply(&shop(", {name: web, port: 81, targetPort: 8081, appProtocol: http}", state));
    let at_both = |name| Place::at_ports(&world, name, &[80, 81], Duration::from_secs(180));
    let a = at_both("a");
    wait_until("the first one serves", || a.serves());
    let b = at_both("b");
    wait_until("the second one is ready", || is_ready(&b));
    let (web, door) = caller(&world);
    let mut open = Peer::connect(door);
    let (head, _) = open.exchange("PUT /r/x HTTP/1.1\r\nHost: shop\r\nContent-Length: 1\r\n\r\n7");
    assert_eq!(head.status(), 200, "{head:?}");

    // What does not end in time is not cut: the state stays.
    begin_within(&world, "impatient", &a, &b, "500ms");
    wait_until("it is over", || !story(&world, "impatient")["outcome"].is_null());
    let impatient = story(&world, "impatient");
    assert_eq!(impatient["outcome"], "aborted", "{impatient}");
    let because = impatient["because"].as_str().expect("a reason");
    assert!(because.contains("requests or streams there did not end"), "{because}");
    assert!(a.serves() && !b.serves());
    assert_eq!(ask(&mut open), "a");

    begin(&world, "patient", &a, &b);
    is_in(&world, "quiesce");
    let parks = || a.sidecar.program.said().matches("phase=\"parking\"").count() == 2;
    wait_until("its sidecar has heard of it", parks);
    assert_eq!(ask(&mut open), "a", "what is open goes on");
    // What is new cannot wait, as its bytes would have to.
    let refused = |cause| a.sidecar.metrics().sum("lighter_state_refused_total", &[("cause", cause)]);
    assert_eq!(refused("not_here"), 0.0);
    assert_eq!(try_ask(&mut Peer::connect(door)), None);
    assert_eq!(refused("not_here"), 1.0);
    wait_until("it has ended at both", || ended(&web, "not_serving") == 1.0 && open_at(&a) == 1.0);
    drop(open);
    is_done(&world, "patient");
    let patient = story(&world, "patient");
    assert_eq!(
        (phases(&patient), &patient["left"]),
        (PHASES.map(str::to_owned).into(), &0.into()),
        "{patient}"
    );
    wait_until("the new one serves", || b.serves() && !a.serves());
    wait_until("whoever calls is told", || try_ask(&mut Peer::connect(door)).as_deref() == Some("b"));
    let (_, body) = Peer::connect(door).exchange("GET /r/x HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert_eq!(body, Body::Whole(b"7".to_vec()));
    // Nor is it sent on.
    let came = || (refused("moved") + refused("not_here"), a.app.count("requests"));
    let before = came();
    assert_eq!(try_ask(&mut Peer::connect(a.door())), None);
    assert_eq!(came(), (before.0 + 1.0, before.1));
    assert_eq!(losses(&world), 0.0);
}

/// The Service, into whose connections nobody looks, with more ports and more in its `spec`.
fn shop(ports: &str, more: &str) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: shop}}\nspec:\n  ports: [{{name: raw, port: 80, targetPort: 8080, \
         appProtocol: tcp}}{ports}]\n{more}"
    )
}

fn is_ready(place: &Place) -> bool {
    place.sidecar.metrics().sum("lighter_registry_ready", &[]) == 1.0
}

/// Opaque connections of callers that are open there.
fn open_at(place: &Place) -> f64 {
    place.sidecar.metrics().sum("lighter_connections_open", &[("direction", "inbound")])
}

/// Those of this caller that ended by this cause.
fn ended(web: &Sidecar, cause: &str) -> f64 {
    web.metrics().sum("lighter_connections_total", &[("direction", "outbound"), ("cause", cause)])
}

/// Which application is at the other end.
fn ask(peer: &mut Peer) -> String {
    try_ask(peer).expect("the connection stays")
}

/// The same, if anybody is.
fn try_ask(peer: &mut Peer) -> Option<String> {
    if !peer.try_send("GET /r/x HTTP/1.1\r\nHost: shop\r\n\r\n") {
        return None;
    }
    let head = peer.head()?;
    assert!(matches!(peer.body(&head), Body::Whole(_)), "{head:?}");
    Some(head.get(INSTANCE).expect("an instance").to_owned())
}

/// How long the instances give what is open to end.
const DRAIN: Duration = Duration::from_secs(2);
