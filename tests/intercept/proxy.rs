//! `lighter proxy` in a network namespace that it shares with its workload, as in a pod.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::process::Command;
use std::sync::mpsc;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::place::{APP, Place, Who, lives};
use crate::rules::tables;
use crate::support::namespace::{self, accept, connect};
use crate::support::process::Program;
use crate::support::wait_until;

pub fn tests() -> Vec<Trial> {
    vec![namespace::test(
        "a_workload_and_its_sidecar_share_a_namespace",
        a_workload_and_its_sidecar_share_a_namespace,
    )]
}

fn a_workload_and_its_sidecar_share_a_namespace() {
    let place = Place::new(Who::Same);
    // An interface to the world, which calls the workload; what the workload calls is in this namespace too.
    let workload: [IpAddr; 2] = ["198.18.9.1".parse().unwrap(), "fd00:11:6874:9::1".parse().unwrap()];
    let inside = namespace::own();
    let (linked, wait) = mpsc::channel();
    let (ask, asked) = mpsc::channel::<SocketAddr>();
    let world = std::thread::spawn(move || {
        namespace::enter();
        namespace::link_to(namespace::number(&inside), "world", "workload");
        namespace::raise(
            "world",
            &[("198.18.9.2".parse().unwrap(), 24), ("fd00:11:6874:9::2".parse().unwrap(), 64)],
        );
        linked.send(()).unwrap();
        for address in asked {
            let mut stream = connect(address);
            stream.write_all(b"from outside\n").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "from outside\n", "{address}");
        }
    });
    wait.recv().unwrap();
    namespace::raise("workload", &[(workload[0], 24), (workload[1], 64)]);

    let endpoint = std::net::TcpListener::bind("198.18.0.1:0").unwrap();
    place.mesh("echo", 7000, endpoint.local_addr().unwrap());
    place.mesh("own", 7001, SocketAddr::new(workload[0], APP));
    let file = place.path("sidecar.yaml");
    std::fs::write(
        &file,
        "service: own\nresources: [mesh.yaml]\nintercept: {}\ndns: {}\nworkers: 2\ndrainDeadline: 2s\n",
    )
    .unwrap();
    let mut sidecar = Command::new(env!("CARGO_BIN_EXE_lighter"));
    sidecar.arg("proxy").arg("--config").arg(&file).current_dir(place.path(""));
    let mut sidecar = Program::start(sidecar, &place.path(""));
    sidecar.wait_until("the sidecar is ready", sidecar_is_ready);

    let mut call = place.program(place.own());
    call.args(["@call", "echo:7000", "by name"]);
    let mut call = Program::start(call, &place.path(""));
    let (_, mut server) = accept(&[endpoint]);
    server.read_exact(&mut [0; "by name\n".len()]).unwrap();
    server.write_all(b"answered\n").unwrap();
    drop(server);
    assert!(call.wait().success(), "{} {}", call.said(), sidecar.said());
    assert!(call.said().contains("answered"));

    let mut app = place.program(place.own());
    app.args(["@echo", &APP.to_string()]);
    let app = Program::start(app, &place.path(""));
    wait_until("the program listens", || app.said().contains("listening"));
    for address in workload {
        ask.send(SocketAddr::new(address, APP)).unwrap();
    }
    drop(ask);
    world.join().unwrap();
    let answer = get(connect(ADMIN.parse().unwrap()), "/intercept");
    let counted: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let count = |name: &str| {
        let rules = counted["rules"].as_array().unwrap();
        rules.iter().find(|rule| rule["rule"] == name).unwrap()["packets"].as_u64().unwrap()
    };
    assert_eq!(count("inbound"), 2, "{counted}");
    assert_eq!(count("outbound"), 3, "two probes and one call: {counted}");
    assert!(count("dns-udp") >= 1, "{counted}");

    assert_eq!(tables(), ["lighter"]);
    sidecar.signal(rustix::process::Signal::TERM);
    assert!(sidecar.wait().success(), "{}", sidecar.said());
    assert!(!lives(u64::from(sidecar.pid())));
    assert!(tables().is_empty(), "the rules were taken away");
}

fn sidecar_is_ready() -> bool {
    let Ok(stream) = std::net::TcpStream::connect(ADMIN) else { return false };
    get(stream, "/ready").starts_with("HTTP/1.1 200")
}

fn get(mut stream: std::net::TcpStream, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

const ADMIN: &str = "127.0.0.1:15000";
