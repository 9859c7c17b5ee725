//! A workload and its sidecar in one namespace, a control plane and a caller in another: nothing but tokens leads them to
//! each other.

use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;

use libtest_mimic::Trial;

use crate::place::{APP, Place, Who};
use crate::support::process::Program;
use crate::support::raw::{Body, Peer};
use crate::support::sidecar::{LIGHTER, service};
use crate::support::{namespace, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![namespace::test("an_intercepted_workload_is_registered", an_intercepted_workload_is_registered)]
}

fn an_intercepted_workload_is_registered() {
    let place = Place::new(Who::Same);
    let inside = namespace::own();
    let (linked, wait) = mpsc::channel();
    let folder = place.path("");
    let world = std::thread::spawn(move || {
        namespace::enter();
        namespace::link_to(namespace::number(&inside), "world", "workload");
        namespace::raise("lo", &[]);
        namespace::raise("world", &[(WORLD, 24)]);
        call_from_outside(&folder, &linked);
    });
    let token = wait.recv().unwrap();
    namespace::raise("workload", &[(WORKLOAD, 24)]);
    std::thread::spawn(answer);
    let mut sidecar =
        start(&place.path(""), "own", "service: own\nintercept: {}\ndns: {}\nworkers: 1\n", &token);
    sidecar.wait_until_it_says("a certificate of the control plane is in force");
    world.join().unwrap();
    assert!(!sidecar.has_ended(), "{}", sidecar.said());
}

const WORLD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 9, 2));
const WORKLOAD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 9, 1));

/// Starts the control plane, hands over a token, and calls the workload by its name until it answers.
fn call_from_outside(folder: &Path, linked: &mpsc::Sender<String>) {
    std::fs::write(folder.join("mesh.yaml"), service("own", "http", &[])).unwrap();
    let own = format!("ads: {WORLD}:15010\nstate: state\nresources: [mesh.yaml]\n");
    std::fs::write(folder.join("control.yaml"), own).unwrap();
    let mut command = Command::new(LIGHTER);
    command.args(["control", "--config"]).arg(folder.join("control.yaml"));
    let mut plane = Program::start(command, folder);
    plane.wait_until_it_says(" ready ");
    let token = |service: &str| {
        let mut command = Command::new(LIGHTER);
        command.args(["ca", "token", "--service", service, "--state"]).arg(folder.join("state"));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    linked.send(token("own")).unwrap();
    let listeners = "listeners: [{listen: '127.0.0.1:9000', service: own, port: 80}]\nworkers: 1\n";
    let mut caller = start(folder, "caller", listeners, &token("caller"));
    caller.wait_until_it_says("a certificate of the control plane is in force");
    let mut said = String::new();
    wait_until("the workload answers", || {
        let request = "GET / HTTP/1.1\r\nHost: own\r\nConnection: close\r\n\r\n";
        let Ok(stream) = std::net::TcpStream::connect("127.0.0.1:9000") else { return false };
        let (head, body) = Peer::over(stream).exchange(request);
        if let Body::Whole(body) = body {
            said = String::from_utf8(body).unwrap();
        }
        head.status() == 200
    });
    assert_eq!(said, "URI=spiffe://mesh.lighter/ns/default/sa/caller");
}

/// A sidecar that joins.
fn start(folder: &Path, name: &str, own: &str, token: &str) -> Program {
    std::fs::write(folder.join(format!("{name}.token")), token).unwrap();
    let control =
        format!("control: {{address: '{WORLD}:15010', tokenFile: {name}.token, state: {name}-state}}\n");
    let file = folder.join(format!("{name}.yaml"));
    std::fs::write(&file, own.to_owned() + &control).unwrap();
    let mut command = Command::new(LIGHTER);
    command.args(["proxy", "--config"]).arg(file);
    Program::start(command, folder)
}

/// The workload: it says who called.
fn answer() {
    let listener = TcpListener::bind(("0.0.0.0", APP)).unwrap();
    for stream in listener.incoming() {
        let mut peer = Peer::over(stream.unwrap());
        while let Some(head) = peer.head() {
            let caller = head.get("x-forwarded-client-cert").unwrap_or("nobody");
            let length = caller.len();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{caller}"));
        }
    }
}
