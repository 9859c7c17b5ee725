//! Open connections in mTLS, other than links, when what was proved on them holds no more.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};

use libtest_mimic::Trial;

use crate::support::process::free_address;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::{Sidecar, service};
use crate::support::{test, wait_until};
use crate::world::ca;

pub fn tests() -> Vec<Trial> {
    vec![
        test("held::who_is_trusted_no_more_is_left_and_what_runs_is_finished", trusted_no_more),
        test("held::what_runs_is_cut_when_a_certificate_ends", certificate_ends),
    ]
}

fn trusted_no_more() {
    let world = World::new("1h");
    assert_eq!(get(world.listen, "/quick"), (200, "quick".into()));
    let listen = world.listen;
    let slow = std::thread::spawn(move || get(listen, "/slow"));
    world.asked.recv().unwrap();
    // The callee is somebody of another root from now on, and knows no other.
    let other = world.folder.path().join("other");
    ca(&other, &["init"]);
    issue(&other, "reviews", "1h", &world.folder.path().join("reviews"));
    let left =
        || world.reviews.metrics().sum("lighter_identity_connections_left_total", &[("reason", "foreign")]);
    wait_until("the caller is left", || left() >= 1.0);
    world.answer.send(()).unwrap();
    assert_eq!(slow.join().unwrap(), (200, "slow".into()), "it had begun before");
    let (status, _) = get(world.listen, "/quick");
    assert_eq!(status, 502, "nothing begins on what is left, and nobody there is trusted");
}

fn certificate_ends() {
    let world = World::new("20s");
    let listen = world.listen;
    assert_eq!(get(listen, "/quick"), (200, "quick".into()));
    let slow = std::thread::spawn(move || get(listen, "/slow"));
    world.asked.recv().unwrap();
    // Nobody answers: at the end it is cut, by whichever side comes first.
    let (status, _) = slow.join().unwrap();
    assert!(status >= 500, "{status}");
    let left = |sidecar: &Sidecar| {
        sidecar.metrics().sum("lighter_identity_connections_left_total", &[("reason", "expired")])
    };
    wait_until("both sides have left it", || left(&world.web) >= 1.0 && left(&world.reviews) >= 1.0);
}

/// The callers' sidecar `web`, and `reviews` with an application behind it.
struct World {
    web: Sidecar,
    reviews: Sidecar,
    /// Where `web` takes requests for `reviews`.
    listen: SocketAddr,
    /// Says that `/slow` was asked for.
    asked: Receiver<()>,
    /// Has it answered.
    answer: Sender<()>,
    folder: tempfile::TempDir,
}

impl World {
    /// `life`: of both certificates.
    fn new(life: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        ca(&state, &["init"]);
        let (app, asked, answer) = app();
        let (listen, inbound) = (free_address(), free_address());
        for name in ["web", "reviews"] {
            issue(&state, name, life, &folder.path().join(name));
        }
        let identity = |name: &str| {
            let at = folder.path().join(name).display().to_string();
            format!(
                "identity: {{certificate: {at}/certificate.pem, key: {at}/key.pem, bundle: {at}/bundle.pem}}\n"
            )
        };
        let to = service("reviews", "http", &[inbound]).replace(
            &format!("port: {}}}", inbound.port()),
            &format!("port: {}, {SECURE}}}", inbound.port()),
        );
        let own = format!(
            "{}service: reviews\nworkers: 1\ndrainDeadline: 30s\ninbound: [{{listen: '{inbound}', app: '{app}', port: 80}}]\n",
            identity("reviews"),
        );
        let reviews = Sidecar::start(&service("reviews", "http", &[]), &own);
        let own = format!(
            "{}workers: 1\nlisteners: [{{listen: '{listen}', service: reviews, port: 80}}]\n",
            identity("web")
        );
        let web = Sidecar::start(&to, &own);
        World { web, reviews, listen, asked, answer, folder }
    }
}

/// An application that answers `/slow` when it is told to, and everything else at once.
fn app() -> (SocketAddr, Receiver<()>, Sender<()>) {
    let (asks, asked) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    let (asks, answers) = (Mutex::new(asks), Arc::new(Mutex::new(answers)));
    let app = Upstream::start(move |mut peer, _| {
        while let Some(head) = peer.head() {
            let body = head.target().trim_start_matches('/').to_owned();
            if body == "slow" {
                asks.lock().unwrap().send(()).unwrap();
                // Nobody answers any more once the test is over.
                if answers.lock().unwrap().recv().is_err() {
                    return;
                }
            }
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if !peer.try_send(answer) {
                return;
            }
        }
    });
    (app.address, asked, answer)
}

fn issue(state: &Path, service: &str, life: &str, out: &Path) {
    ca(state, &["issue", "--service", service, "--life", life, "--out", &out.display().to_string()]);
}

/// Status and body.
fn get(listen: SocketAddr, path: &str) -> (u16, String) {
    let mut peer = Peer::connect(listen);
    let (head, body) =
        peer.exchange(format!("GET {path} HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n"));
    match body {
        Body::Whole(body) => (head.status(), String::from_utf8(body).unwrap()),
        Body::Cut(_) => (head.status(), String::new()),
    }
}

const SECURE: &str = "secure: {identity: 'spiffe://mesh.lighter/ns/default/sa/reviews'}";
