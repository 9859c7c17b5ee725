//! Two sidecars on two hosts, with services behind the one that know nothing of it, and transfers that are compared byte by
//! byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use super::cable::Cable;
use super::hosts::{Far, Host, Hosts, Near};
use crate::support::process::free_port;
use crate::support::raw::{Peer, Upstream};
use crate::support::root::Root;
use crate::support::sidecar::Sidecar;
use crate::support::{echoed, http2, wait_until};

/// See above. A caller near, the called far.
pub struct Mesh {
    pub web: Sidecar,
    pub reviews: Sidecar,
    /// Where the caller's sidecar takes calls to each of the three.
    pub listen: Listen,
    pub http: Upstream,
    place: Place,
    apps: [SocketAddr; 3],
    identity: String,
    spec: String,
    _root: Root,
    pub hosts: Hosts,
}

/// By what the service speaks.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub tcp: SocketAddr,
}

impl Mesh {
    /// With a LinkPolicy at both ends, YAML on one line without its braces. `DEVICES` in it are the host's own.
    pub fn under(spec: &str) -> Self {
        Mesh::before(spec, |peer, _| peer.echo())
    }

    /// The same, with another service of opaque bytes.
    pub fn before(spec: &str, tcp: impl Fn(Peer, usize) + Send + Sync + 'static) -> Self {
        Mesh::of(Hosts::new(1), spec, tcp)
    }

    /// The same, between hosts that are there.
    pub fn of(hosts: Hosts, spec: &str, tcp: impl Fn(Peer, usize) + Send + Sync + 'static) -> Self {
        let root = Root::new();
        let (http, grpc, tcp) =
            Far.does(|| (Upstream::echoing(), http2::Upstream::echo(), Upstream::start(tcp)));
        let apps = [http.address, grpc.address, tcp.address];
        let identity = root.identity(REVIEWS);
        let place = Place::before(apps, &identity);
        let resources = |host| format!("{}{}", service(&[&place]), policy(&hosts, host, spec));
        let reviews = Far.does(|| Sidecar::start(&resources(Far), &place.own));
        let [http_near, grpc_near, tcp_near] = Near.does(|| std::array::from_fn(|_| at(Near)));
        let listen = Listen { http: http_near, grpc: grpc_near, tcp: tcp_near };
        let listeners: String = [http_near, grpc_near, tcp_near]
            .iter()
            .zip(80..)
            .map(|(listen, port)| format!("  - {{listen: '{listen}', service: reviews, port: {port}}}\n"))
            .collect();
        let own = format!("listeners:\n{listeners}workers: 1\n{}", root.identity(WEB));
        let web = Near.does(|| Sidecar::start(&resources(Near), &own));
        Mesh { web, reviews, listen, http, place, apps, identity, spec: spec.to_owned(), _root: root, hosts }
    }

    /// Puts another sidecar in the place of the far one, at the same addresses.
    pub fn restart_reviews(&mut self) {
        let resources = format!("{}{}", service(&[&self.place]), policy(&self.hosts, Far, &self.spec));
        self.reviews = Far.does(|| Sidecar::start(&resources, &self.place.own));
    }

    /// Starts another sidecar before the same services, of which the near one learns, with `more` resources. Gives its endpoint for
    /// requests, too.
    pub fn double_reviews(&self, more: &str) -> (Sidecar, SocketAddr) {
        let other = Place::before(self.apps, &self.identity);
        let places = [&self.place, &other];
        let resources = |host| format!("{}{}", service(&places), policy(&self.hosts, host, &self.spec));
        let sidecar = Far.does(|| Sidecar::start(&resources(Far), &other.own));
        self.web.apply(&format!("{}---\n{more}", resources(Near)));
        (sidecar, other.http)
    }

    /// The first cable between the two.
    pub fn cable(&self) -> &Cable {
        &self.hosts.cables[0]
    }

    /// What a sidecar has counted.
    pub fn sum(&self, host: Host, name: &str, labels: &[(&str, &str)]) -> f64 {
        let sidecar = if host == Near { &self.web } else { &self.reviews };
        host.does(|| sidecar.metrics().sum(name, labels))
    }

    /// Bytes that went over a wire in both directions, as one sidecar counts them.
    pub fn bytes(&self, host: Host, wire: &str) -> f64 {
        self.sum(host, "lighter_link_bytes_total", &[("wire", wire)])
    }

    /// How often a sidecar went back to TCP.
    pub fn fallbacks(&self, host: Host) -> f64 {
        self.sum(host, "lighter_link_fallbacks_total", &[])
    }

    /// Waits until both send over a wire.
    pub fn goes_over(&self, wire: &str) {
        wait_until(&format!("both ends send over {wire}"), || {
            [Near, Far].iter().all(|&host| self.sum(host, "lighter_link_wire", &[("wire", wire)]) >= 1.0)
        });
    }

    /// How many requests the service behind them has heard.
    pub fn posts_received(&self) -> usize {
        self.http.received().matches("POST / HTTP/1.1\r\n").count()
    }

    /// Nothing was lost or cut on the way.
    pub fn is_whole(&self) {
        for host in [Near, Far] {
            assert_eq!(self.sum(host, "lighter_link_faults_total", &[]), 0.0, "{host:?}");
            assert_eq!(self.sum(host, "lighter_link_resets_total", &[]), 0.0, "{host:?}");
        }
    }
}

/// Where a far sidecar is.
struct Place {
    /// Where it takes requests.
    http: SocketAddr,
    /// As an endpoint of the Service.
    endpoint: String,
    /// Its own file.
    own: String,
}

impl Place {
    /// Before services of each kind, at addresses that are free.
    fn before(apps: [SocketAddr; 3], identity: &str) -> Self {
        let [link, inbound @ ..]: [SocketAddr; 4] = Far.does(|| std::array::from_fn(|_| at(Far)));
        let [http, grpc, tcp] = inbound.map(|listen| listen.port());
        let endpoint = format!(
            "{{address: {}, ports: {{http: {http}, grpc: {grpc}, tcp: {tcp}}}, secure: {{identity: '{REVIEWS}', link: '{link}'}}}}",
            Far.address()
        );
        let places: String = apps
            .iter()
            .zip(inbound)
            .zip(80..)
            .map(|((app, listen), port)| format!("  - {{listen: '{listen}', app: '{app}', port: {port}}}\n"))
            .collect();
        let own = format!(
            "service: reviews\nworkers: 1\nlink: '{link}'\ndrainDeadline: 5s\ninbound:\n{places}{identity}"
        );
        Place { http: inbound[0], endpoint, own }
    }
}

/// The Service that is at these places.
fn service(places: &[&Place]) -> String {
    let endpoints: Vec<_> = places.iter().map(|place| place.endpoint.as_str()).collect();
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: reviews}}\nspec:\n  ports: [{{name: http, port: 80, \
         appProtocol: http}}, {{name: grpc, port: 81, appProtocol: grpc}}, {{name: tcp, port: 82, appProtocol: tcp}}]\n  \
         endpoints: [{}]\n",
        endpoints.join(", ")
    )
}

/// Transfers of each kind, over and over, until this is told that it is enough.
pub struct Transfers {
    shared: Arc<Progress>,
    threads: Vec<JoinHandle<()>>,
}

/// Sends these bytes there, and fails unless they come back.
type ComesBack = fn(SocketAddr, &[u8]);

#[derive(Default)]
struct Progress {
    is_enough: AtomicBool,
    /// How many of each kind came to their end.
    done: [AtomicUsize; 3],
    /// How many were begun with a request.
    posts: AtomicUsize,
}

impl Transfers {
    /// All of them must come back as they were sent.
    pub fn start(listen: Listen) -> Self {
        let shared = Arc::new(Progress::default());
        let kinds: [(ComesBack, SocketAddr); 3] =
            [(post_comes_back, listen.http), (calls_come_back, listen.grpc), (bytes_come_back, listen.tcp)];
        let threads = kinds.into_iter().enumerate().map(|(kind, (comes_back, listen))| {
            let shared = shared.clone();
            std::thread::spawn(move || {
                let sent = pattern(length(), kind as u8);
                while !shared.is_enough.load(Relaxed) {
                    shared.posts.fetch_add(usize::from(kind == 0), Relaxed);
                    comes_back(listen, &sent);
                    shared.done[kind].fetch_add(1, Relaxed);
                }
            })
        });
        Near.does(|| Transfers { threads: threads.collect(), shared: shared.clone() })
    }

    /// Waits until more of each kind have come to their end, and others are under way.
    pub fn go_on(&self) {
        let done = || self.shared.done.each_ref().map(|done| done.load(Relaxed));
        let before = done();
        wait_until("transfers of each kind come to their end", || {
            let now = done();
            self.threads.iter().any(JoinHandle::is_finished) || (0..3).all(|kind| now[kind] > before[kind])
        });
        assert!(!self.threads.iter().any(JoinHandle::is_finished), "one has failed");
    }

    /// Waits for those that are under way. Returns how many requests there were.
    pub fn end(self) -> usize {
        self.shared.is_enough.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.shared.posts.load(Relaxed)
    }
}

/// How much goes there and back at a time: a processor in software takes its time.
fn length() -> usize {
    if crate::support::full() { 1 << 20 } else { 40_000 }
}

/// A request, of so many bytes, and its answer.
pub fn post_comes_back(listen: SocketAddr, sent: &[u8]) {
    post_to_comes_back(listen, "reviews", sent);
}

/// The same, to another Service.
pub fn post_to_comes_back(listen: SocketAddr, service: &str, sent: &[u8]) {
    echoed::post_comes_back(listen, [service, "/"], sent);
}

/// Calls in HTTP/2, four at a time.
pub fn calls_come_back(listen: SocketAddr, sent: &[u8]) {
    echoed::calls_come_back(listen, 4, sent);
}

/// Opaque bytes, sent and read at the same time.
pub fn bytes_come_back(listen: SocketAddr, sent: &[u8]) {
    echoed::bytes_come_back(Peer::connect(listen), sent);
}

/// What is sent: so many bytes that do not repeat soon, made from a number, with a mark in them that is to be seen nowhere.
pub fn pattern(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).map(|at| (at * 13 + at / 251) as u8 ^ seed).collect();
    for at in (0..length.saturating_sub(MARK.len())).step_by(1000) {
        bytes[at..at + MARK.len()].copy_from_slice(MARK);
    }
    bytes
}

pub const MARK: &[u8] = b"nobody on the way may read this";

/// The LinkPolicy of a host.
pub fn policy(hosts: &Hosts, host: Host, spec: &str) -> String {
    format!(
        "---\napiVersion: mesh.lighter.dev/v1\nkind: LinkPolicy\nmetadata: {{name: links}}\nspec: {{{}}}\n",
        spec.replace("DEVICES", &hosts.devices(host))
    )
}

/// A free address on a host, asked there.
pub fn at(host: Host) -> SocketAddr {
    (host.address(), free_port()).into()
}

pub const WEB: &str = "spiffe://mesh.lighter/ns/default/sa/web";
pub const REVIEWS: &str = "spiffe://mesh.lighter/ns/default/sa/reviews";
