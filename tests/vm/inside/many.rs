//! More links than there is memory for.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use super::hosts::{Far, Hosts, Near, run};
use super::mesh::{WEB, at, pattern, policy, post_to_comes_back};
use crate::support::raw::Upstream;
use crate::support::root::Root;
use crate::support::sidecar::Sidecar;
use crate::support::{metrics, wait_until};

pub fn tests() -> Vec<(&'static str, fn())> {
    vec![("of_many_links_those_that_were_used_last_have_the_memory_that_there_is", the_last_used)]
}

/// Whether a link should have a ring or gets one when it is hot.
fn the_last_used() {
    for uses in ["wires: {shm: mustNot}, hotBytesPerSecond: 1000", "wires: {shm: mustNot, rdma: should}"] {
        last_used_under(uses);
    }
}

/// The far sidecar has many addresses, each of them a Service of its own to the near one.
fn last_used_under(uses: &str) {
    let (hosts, root) = (Hosts::new(1), Root::new());
    let app = Far.does(Upstream::echoing);
    let (listen, link) = Far.does(|| (at(Far), at(Far).port()));
    let addresses: Vec<_> = (0..LINKS).map(|number| Ipv4Addr::new(198, 18, 0, 100 + number)).collect();
    for address in &addresses {
        run("ip", &["-n", "far", "address", "add", &format!("{address}/24"), "dev", "eth0"]);
    }
    let service = |number: usize, address: &Ipv4Addr| {
        format!(
            "---\napiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: s{number}}}\nspec: {{ports: [{{port: 80, \
             appProtocol: http}}], endpoints: [{{address: {address}, port: {}, secure: {{identity: '{FAR}', link: \
             '{address}:{link}'}}}}]}}\n",
            listen.port()
        )
    };
    let services: String =
        addresses.iter().enumerate().map(|(number, address)| service(number, address)).collect();
    let spec = format!("{uses}, devices: [DEVICES], ringBytes: {RING}, backOff: 50ms");
    let own = format!(
        "service: s0\nworkers: 1\nlink: '0.0.0.0:{link}'\ninbound: [{{listen: '0.0.0.0:{}', app: '{}', port: 80}}]\n{}",
        listen.port(),
        app.address,
        root.identity(FAR)
    );
    let reviews = Far.does(|| Sidecar::start(&format!("{services}{}", policy(&hosts, Far, &spec)), &own));
    let listens: Vec<SocketAddr> = Near.does(|| (0..LINKS).map(|_| at(Near)).collect());
    let listeners: String = listens
        .iter()
        .enumerate()
        .map(|(number, listen)| format!("  - {{listen: '{listen}', service: s{number}, port: 80}}\n"))
        .collect();
    let own = format!("workers: 1\nmaxRingBytes: {BUDGET}\nlisteners:\n{listeners}{}", root.identity(WEB));
    let web = Near.does(|| Sidecar::start(&format!("{services}{}", policy(&hosts, Near, &spec)), &own));

    let sum = |name, labels: &[_]| Near.does(|| web.metrics().sum(name, labels));
    let on_rdma = || {
        let links: Value = serde_json::from_str(&Near.does(|| metrics::get(web.admin, "/links")).1).unwrap();
        let links = links["links"].as_array().unwrap().iter();
        let links = links.filter(|link| link["sends_over"] == "rdma" && link["receives_over"] == "rdma");
        links.map(|link| link["address"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let sent = pattern(2000, 1);
    for (number, address) in addresses.iter().enumerate() {
        wait_until("the link that is used is on RDMA", || {
            // As is the first one, all the time.
            for number in [number, 0] {
                Near.does(|| post_to_comes_back(listens[number], &format!("s{number}"), &sent));
            }
            // Rings rest before they make room, and in this machine it takes no time to wait.
            std::thread::sleep(Duration::from_millis(500));
            let held = sum("lighter_rdma_registered_bytes", &[]);
            assert!(held <= BUDGET as f64, "{held} bytes are registered");
            on_rdma().iter().any(|on| on.starts_with(&format!("{address}:")))
        });
    }
    let on = on_rdma();
    println!("{on:?}");
    assert!(on.len() <= ROOM && on.iter().any(|on| on.starts_with("198.18.0.100:")));
    assert!(sum("lighter_link_evictions_total", &[]) >= f64::from(LINKS) - ROOM as f64);
    assert_eq!(sum("lighter_link_opened_total", &[("side", "opener")]), f64::from(LINKS));
    for host in [Near, Far] {
        let sidecar = if host == Near { &web } else { &reviews };
        let metrics = host.does(|| sidecar.metrics());
        assert_eq!(metrics.sum("lighter_link_faults_total", &[]), 0.0);
        assert_eq!(metrics.sum("lighter_link_resets_total", &[]), 0.0);
    }
    drop((web, reviews, hosts));
}

/// Who the far one is: nobody's Service, so that of links to it the policy for all of the mesh says all.
const FAR: &str = "spiffe://mesh.lighter/ns/default/sa/far";

const LINKS: u8 = 32;

const RING: u64 = 64 << 10;

/// Rings for so many links, at two rings and a page for each.
const ROOM: usize = 8;
const BUDGET: u64 = ROOM as u64 * (2 * RING + 4096);
