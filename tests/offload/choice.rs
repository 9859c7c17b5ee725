//! Where requests go while all is well.

use std::process::Command;

use libtest_mimic::Trial;

use crate::device::Data;
use crate::support::process::find;
use crate::support::raw::Peer;
use crate::support::{test, test_where, wait_until};
use crate::world::{DEVICE, Does, SCAN, Said, Server, World, get, said};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("choice::a_scan_runs_on_the_device_where_that_takes_less_time", to_the_device),
        test("choice::a_device_that_takes_longer_is_not_used", not_to_the_device),
        test("choice::what_is_wanted_least_of_says_where", objective),
        test("choice::a_device_with_another_version_of_the_data_is_not_asked", other_version),
        test("choice::an_application_says_how_much_its_request_reads", hint),
        test("choice::a_change_of_the_policy_is_followed_at_once", reload),
    ]
}

const ROWS: &str = "id,amount\n1,150\n3,900\n";

/// Nothing of the client, which is curl, and of the host changes.
fn to_the_device() -> Result<(), String> {
    let curl = find("curl")?;
    let device = Data::new().with_text("orders.csv", "id,amount\n1,150\n2,20\n3,900\n").start("", "");
    let host = Server::start(ROWS, Does::After(100));
    let world = World::start(host.address(), device.at, &SCAN);
    let target = "/scan/orders@7?where=amount%20%3E%20100&select=id,amount";
    let ask = |path: &str| {
        let out =
            Command::new(&curl).args(["-sS", "--fail"]).arg(format!("http://{}{path}", world.at)).output();
        let out = out.unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let mut client = Peer::connect(world.at);
    let mut asked = 0.0;
    wait_until("three of four are on the device", || {
        for _ in 0..20 {
            assert_eq!(said(client.exchange(get(target))), ROWS, "whoever answers says the same");
        }
        asked += 20.0;
        asked >= 100.0 && world.decided(&[("place", DEVICE)]) >= asked * 0.75
    });
    assert_eq!(ask(target), ROWS);
    asked += 1.0;
    let on_device = world.rest().decided(&[("place", DEVICE)]);
    assert_eq!(on_device + world.decided(&[("place", "host")]), asked);
    // Both ends say so.
    assert_eq!(device.counted("lighter_device_runs_total", &[("status", "CS_SUCCESS")]), on_device);
    assert_eq!(world.ended(DEVICE, "answered"), on_device);
    assert_eq!(host.requests() as f64, asked - on_device);
    // What was not read over the network is what the policy says of each.
    let metrics = world.sidecar.metrics();
    let sum = |name: &str| metrics.sum(name, &[("place", DEVICE)]);
    assert_eq!(sum("lighter_offload_avoided_bytes_total"), on_device * 1e6);
    let carried = metrics.sum("lighter_response_bytes_total", &[("route", "default/orders/scan")]);
    let on_host = asked - on_device;
    assert_eq!(sum("lighter_offload_moved_bytes_total"), carried - on_host * ROWS.len() as f64);
    // Other rules have nothing to do with it.
    assert_eq!(ask("/other"), ROWS);
    assert_eq!(world.decided(&[]), asked);
    Ok(())
}

fn not_to_the_device() {
    let (host, device) = (Server::start("host", Does::After(0)), Server::start("device", Does::After(60)));
    let world = World::start(host.address(), device.address(), &SCAN);
    world.until("host", 40);
    let on_device = world.decided(&[("place", DEVICE)]);
    assert!(on_device <= world.decided(&[]) / 3.0, "{on_device}");
}

fn objective() {
    let (host, device) = (Server::start("host", Does::After(0)), Server::start("device", Does::After(30)));
    let policy = format!("{}, objective: bytes", SCAN.policy);
    let world = World::start(host.address(), device.address(), &Said { policy: &policy, ..SCAN });
    // It takes longer, but none of the data crosses the network.
    world.until("device", 40);
}

fn other_version() {
    let (host, device) = (Server::start("host", Does::After(5)), Server::start("device", Does::After(0)));
    let said = Said { device: "datasets: [{name: orders, version: '6'}]", ..SCAN };
    let world = World::start(host.address(), device.address(), &said);
    world.until("host", 60);
    assert_eq!(device.requests(), 0);
    assert_eq!(world.decided(&[("reason", "no_device")]), world.decided(&[]));
}

fn hint() {
    let (host, device) = (Server::start("host", Does::After(0)), Server::start("device", Does::After(0)));
    let world = World::start(host.address(), device.address(), &SCAN);
    let mut client = Peer::connect(world.at);
    let request = "GET /scan HTTP/1.1\r\nHost: orders\r\nX-Lighter-Hint-Scan-Bytes: 5000\r\n\r\n";
    for _ in 0..40 {
        said(client.exchange(request));
    }
    let answered = [DEVICE, "host"].map(|place| world.rest().ended(place, "answered"));
    assert_eq!(answered[0] + answered[1], 40.0);
    let metrics = world.sidecar.metrics();
    let avoided = metrics.sum("lighter_offload_avoided_bytes_total", &[]);
    assert_eq!(avoided, answered[0] * 5000.0);
    let moved = metrics.sum("lighter_offload_moved_bytes_total", &[("place", "host")]);
    assert_eq!(moved, answered[1] * (5000.0 + 4.0));
    // What is out of all bounds does no harm to those that follow.
    said(client.exchange(request.replace("5000", "18446744073709551615")));
    host.set(Does::After(40));
    world.until("device", 20);
    // It is for this sidecar alone.
    for server in [&host, &device] {
        assert!(!server.received().to_ascii_lowercase().contains("x-lighter-hint"));
    }
}

fn reload() {
    let (host, device) = (Server::start("host", Does::After(40)), Server::start("device", Does::After(0)));
    let world = World::start(host.address(), device.address(), &SCAN);
    world.until("device", 20);
    let said = Said { device: "datasets: [{name: orders, version: '8'}]", ..SCAN };
    world.sidecar.apply(&crate::world::resources("http", host.address(), device.address(), &said));
    world.until("host", 60);
    world.sidecar.apply(&crate::world::resources("http", host.address(), device.address(), &SCAN));
    world.until("device", 20);
}
