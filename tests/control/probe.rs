//! Endpoints without a sidecar, which the control plane asks itself.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use libtest_mimic::Trial;

use crate::grpc::script;
use crate::plane::Plane;
use crate::registry::Watch;
use crate::support::process::{Program, free_address, python};
use crate::support::raw::Upstream;
use crate::support::sidecar::service;
use crate::support::{test, test_where};

pub fn tests() -> Vec<Trial> {
    vec![
        test("probe::an_endpoint_is_listed_while_it_answers_well", listed_while_it_answers_well),
        test("probe::an_endpoint_is_listed_while_it_listens", listed_while_it_listens),
        test_where("probe::an_endpoint_is_listed_while_grpc_says_that_it_serves", listed_while_it_serves),
    ]
}

fn probed(how: &str) -> String {
    format!("  probe: {{{how}interval: 20ms, timeout: 30s, failureThreshold: 2, successThreshold: 2}}\n")
}

fn listed_while_it_answers_well() {
    let is_well = Arc::new(AtomicBool::new(true));
    let app = {
        let is_well = is_well.clone();
        Upstream::start(move |mut peer, _| {
            let Some(head) = peer.head() else { return };
            assert_eq!((head.target(), head.has("user-agent", "lighter-probe")), ("/healthz", true));
            let status = if is_well.load(Relaxed) { "204 Fine" } else { "503 Unwell" };
            peer.send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"));
        })
    };
    // One that nobody asks, since nobody has it, and one that is asked.
    let other = free_address();
    let text = service("a", "http", &[app.address]) + &probed("http: /healthz, ");
    let plane = Plane::start(&[text, service("b", "http", &[other])].join("---\n"));
    let mut watch = Watch::new(&plane);
    let up = u32::from(app.address.port());
    assert_eq!(watch.now, [up], "it is taken for well until it is known better");
    is_well.store(false, Relaxed);
    assert_eq!(watch.next(), [0; 0]);
    let metrics = plane.metrics();
    assert_eq!(metrics.sum("lighter_control_unwell_endpoints", &[]), 1.0);
    assert!(metrics.sum("lighter_control_probes_total", &[("outcome", "failed")]) >= 2.0);
    is_well.store(true, Relaxed);
    assert_eq!(watch.next(), [up]);
    // Without a probe, it is not asked and is there.
    is_well.store(false, Relaxed);
    assert_eq!(watch.next(), [0; 0]);
    plane.apply(&service("a", "http", &[app.address]));
    assert_eq!(watch.next(), [up]);
}

fn listed_while_it_listens() {
    let gone = free_address();
    let app = Upstream::answering("");
    let plane = Plane::start(&(service("a", "tcp", &[app.address, gone]) + &probed("")));
    let mut watch = Watch::new(&plane);
    // Where nobody listens may have been found out before anybody looked.
    let listed = if watch.now.len() == 2 { watch.next() } else { watch.now };
    assert_eq!(listed, [u32::from(app.address.port())]);
}

fn listed_while_it_serves() -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let (app, flag) = (free_address(), folder.path().join("serving"));
    std::fs::write(&flag, "").unwrap();
    let mut command = Command::new(python("grpc")?);
    command.arg(script("health.py")).arg(app.port().to_string()).arg(&flag);
    let mut program = Program::start(command, folder.path());
    program.wait_until_it_says("ready");
    let plane = Plane::start(&(service("a", "grpc", &[app]) + &probed("grpc: shop.Catalog, ")));
    let mut watch = Watch::new(&plane);
    assert_eq!(watch.now, [u32::from(app.port())]);
    std::fs::remove_file(&flag).unwrap();
    assert_eq!(watch.next(), [0; 0]);
    std::fs::write(&flag, "").unwrap();
    assert_eq!(watch.next(), [u32::from(app.port())]);
    Ok(())
}
