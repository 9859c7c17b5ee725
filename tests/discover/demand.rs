//! What a sidecar asks when a connection or a DNS query asks it.

use std::net::{SocketAddr, UdpSocket};

use libtest_mimic::Trial;

use crate::support::process::free_address;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::{PATIENCE, test_where, wait_until};
use crate::world::{Said, Sidecar, World};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("demand::a_name_is_looked_up_when_it_is_dialled", by_name),
        test_where("demand::a_virtual_address_is_looked_up_when_it_is_dialled", by_address),
        test_where("demand::dns_answers_with_what_the_server_says", by_dns),
        test_where("demand::what_nobody_tells_of_is_refused_with_a_cause", silence),
        test_where("demand::what_was_dialled_is_known_after_a_restart_without_a_server", restart),
        test_where("demand::a_service_that_comes_later_is_found", later),
    ]
}

const VIRTUAL: &str = "198.19.7.1:80";

/// Two Services, of which nobody calls the second.
fn said(shop: SocketAddr) -> Said {
    Said::services(&[
        ("default/shop", 1, "default/shop:80", shop),
        ("default/other", 2, "default/other:80", free_address()),
    ])
}

fn by_name() -> Result<(), String> {
    let one = Upstream::answering("one");
    let mut world = World::new(&said(one.address))?;
    let sidecar = world.on_demand(free_address());
    assert_eq!(names(&sidecar, "service"), Vec::<String>::new());
    assert_eq!(through(&sidecar, "shop:80"), Ok("one".into()));
    assert_eq!(names(&sidecar, "service"), ["default/shop"]);
    assert_eq!(names(&sidecar, "endpoints"), ["default/shop:80"]);
    assert_eq!(through(&sidecar, "shop.default.svc.cluster.local:80"), Ok("one".into()));
    // Another namespace has no such Service, and the policy lets nobody out of the mesh.
    assert_eq!(through(&sidecar, "shop.elsewhere:80"), Err("not_in_registry".into()));
    let server = world.server().said();
    assert!(server.contains("asked address dns:default/shop\n"), "{server}");
    assert!(!server.contains("other"), "{server}");
    Ok(())
}

fn by_address() -> Result<(), String> {
    let one = Upstream::answering("one");
    let world = World::new(&said(one.address))?;
    let sidecar = world.on_demand(free_address());
    assert_eq!(through(&sidecar, VIRTUAL), Ok("one".into()));
    // No Service has this one.
    assert_eq!(through(&sidecar, "198.19.7.9:80"), Err("no_config".into()));
    assert_eq!(sidecar.xds()["resources"]["address"]["in_force"].as_array().unwrap().len(), 2);
    assert_eq!(sidecar.metrics().sum("lighter_xds_lookups_total", &[("outcome", "nothing")]), 1.0);
    assert_eq!(sidecar.metrics().sum("lighter_xds_lookups_total", &[("outcome", "held")]), 1.0);
    Ok(())
}

fn by_dns() -> Result<(), String> {
    let one = Upstream::answering("one");
    let world = World::new(&said(one.address))?;
    let dns = free_address();
    let sidecar = world.on_demand(dns);
    assert_eq!(resolve(dns, &["shop", "default", "svc", "cluster", "local"]), Some([198, 19, 7, 1]));
    // Nobody can be asked for the rest of the world.
    assert_eq!(resolve(dns, &["nowhere", "default"]), None);
    assert_eq!(names(&sidecar, "service"), ["default/shop"]);
    // The name was dialled before the connection is: nothing is left to be waited for.
    assert_eq!(through(&sidecar, VIRTUAL), Ok("one".into()));
    Ok(())
}

fn silence() -> Result<(), String> {
    let one = Upstream::answering("one");
    let world = World::new(&Said { mute: vec![VIRTUAL], ..said(one.address) })?;
    let sidecar = world.on_demand(free_address());
    assert_eq!(through(&sidecar, VIRTUAL), Err("no_config".into()));
    assert_eq!(through(&sidecar, "shop:80"), Ok("one".into()));
    Ok(())
}

fn restart() -> Result<(), String> {
    let one = Upstream::answering("one");
    let mut world = World::new(&said(one.address))?;
    let sidecar = world.on_demand(free_address());
    assert_eq!(through(&sidecar, "shop:80"), Ok("one".into()));
    wait_until("the endpoint is kept", || {
        std::fs::read(world.state()).is_ok_and(|kept| {
            let text = b"default/shop:80";
            kept.windows(text.len()).any(|window| window == text)
        })
    });
    world.stop_server();
    drop(sidecar);
    let sidecar = world.on_demand(free_address());
    assert_eq!(through(&sidecar, "shop:80"), Ok("one".into()));
    assert_eq!(through(&sidecar, VIRTUAL), Ok("one".into()));
    Ok(())
}

fn later() -> Result<(), String> {
    let one = Upstream::answering("one");
    let world = World::new(&Said::default())?;
    let sidecar = world.on_demand(free_address());
    assert_eq!(through(&sidecar, "shop:80"), Err("not_in_registry".into()));
    world.say(&said(one.address));
    wait_until("it is found", || through(&sidecar, "shop:80") == Ok("one".into()));
    Ok(())
}

/// What a request through a tunnel to `target` is answered, or the cause of a refusal.
fn through(sidecar: &Sidecar, target: &str) -> Result<String, String> {
    let mut peer = Peer::connect(sidecar.listen);
    peer.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    let head = peer.expect_head();
    if head.status() != 200 {
        return Err(head.cause().unwrap_or("none").to_owned());
    }
    let (head, body) = peer.exchange("GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    match body {
        Body::Whole(body) if head.status() == 200 => Ok(String::from_utf8(body).unwrap()),
        _ => Err(head.cause().unwrap_or("none").to_owned()),
    }
}

/// The IPv4 address of a name.
fn resolve(dns: SocketAddr, labels: &[&str]) -> Option<[u8; 4]> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&query, dns).unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).unwrap();
    let answers = u16::from_be_bytes([answer[6], answer[7]]);
    (answers == 1).then(|| answer[length - 4..length].try_into().unwrap())
}

/// The names of one kind that are in force.
fn names(sidecar: &Sidecar, kind: &str) -> Vec<String> {
    serde_json::from_value(sidecar.xds()["resources"][kind]["in_force"].clone()).unwrap()
}
