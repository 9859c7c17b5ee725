//! A limit that is pushed to the control plane is kept by the sidecar of the service, which knows its routes from there as well.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use libtest_mimic::Trial;

use crate::support::process::free_address;
use crate::support::raw::{Peer, Upstream};
use crate::support::{example, test, wait_until};
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![test("overload::a_pushed_limit_holds_and_routes_go_first_that_are_said_to", pushed)]
}

fn pushed() {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let app = Upstream::start(move |mut peer, _| {
        while peer.head().is_some() && wait.lock().unwrap().recv().is_ok() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        }
    });
    let world = World::new();
    world.apply(&example::policy("overload", &[app.address]));
    world.token("shop", "shop");
    let listen = free_address();
    let own = format!("service: shop\ninbound: [{{listen: '{listen}', app: '{}', port: 80}}]", app.address);
    let sidecar = world.start("shop", &own).ready();
    let ask = |path: &str| {
        let mut peer = Peer::connect(listen);
        peer.send(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n"));
        peer
    };
    let come = |count| wait_until("they are let through", || app.received().matches("GET ").count() == count);
    let mut inside: Vec<_> = (0..8).map(|_| ask("/")).collect();
    come(8);
    let refused = ask("/").expect_head();
    assert_eq!((refused.status(), refused.cause()), (503, Some("concurrency_limit")), "{refused:?}");
    inside.push(ask("/pay"));
    come(9);
    let refusals = sidecar.metrics().sum("lighter_overload_refusals_total", &[("service", "default/shop")]);
    assert_eq!(refusals, 1.0);
    (0..inside.len()).for_each(|_| go.send(()).unwrap());
    assert!(inside.iter_mut().all(|peer| peer.expect_head().status() == 200));
}
