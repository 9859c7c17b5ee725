//! A caller and a workload with a network between them: a namespace each, and a pair of interfaces.

use std::cell::Cell;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;

use crate::links::resources;
use crate::shm::policy;
use crate::support::loss::Loss;
use crate::support::metrics::{self, Metrics};
use crate::support::namespace::{self, within};
use crate::support::process::free_address;
use crate::support::sidecar::Sidecar;
use crate::world::{REVIEWS, Root, WEB, caller_file};

/// Where the two are.
pub struct Network {
    caller: File,
    called: File,
    /// The last byte of the caller's address.
    at: Cell<u8>,
}

impl Network {
    pub fn new() -> Self {
        let network =
            Network { caller: namespace::another(), called: namespace::another(), at: Cell::new(2) };
        network.at_caller(|| {
            namespace::link_to(namespace::number(&network.called), OUTSIDE, OUTSIDE);
            namespace::raise(OUTSIDE, &[network.address()]);
            namespace::by_single_packets(OUTSIDE);
        });
        network.at_called(|| {
            namespace::raise(OUTSIDE, &[(CALLED, RANGE)]);
            namespace::by_single_packets(OUTSIDE);
        });
        network
    }

    /// Does `what` where the caller is.
    pub fn at_caller<T>(&self, what: impl FnOnce() -> T) -> T {
        within(&self.caller, what)
    }

    /// Does `what` where the workload is.
    pub fn at_called<T>(&self, what: impl FnOnce() -> T) -> T {
        within(&self.called, what)
    }

    /// From now on one packet in so many is lost, in both directions.
    pub fn loses(&self, one_in: u32) -> [Loss; 2] {
        let lossy = || Loss::of(OUTSIDE, one_in);
        [self.at_caller(lossy), self.at_called(lossy)]
    }

    /// From now on the caller has another address, and no more the one that it had.
    pub fn moves_caller(&self) {
        self.at_caller(|| {
            namespace::take_away(OUTSIDE, self.address());
            self.at.set(self.at.get() + 1);
            namespace::raise(OUTSIDE, &[self.address()]);
        });
    }

    fn address(&self) -> (IpAddr, u8) {
        (IpAddr::V4(Ipv4Addr::new(198, 18, 9, self.at.get())), RANGE)
    }
}

const CALLED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 9, 1));
const RANGE: u8 = 24;
const OUTSIDE: &str = "outside";

/// The sidecars of both.
pub struct Apart<'n> {
    network: &'n Network,
    _root: Root,
    web: Sidecar,
    reviews: Sidecar,
    /// Where the caller's takes what the caller says.
    pub listen: SocketAddr,
}

impl<'n> Apart<'n> {
    /// Before `app`, with a LinkPolicy at both ends that says `spec` beside that they share no memory.
    pub fn before(network: &'n Network, protocol: &str, app: SocketAddr, spec: &str) -> Self {
        let root = Root::new();
        let (endpoint, link) = (SocketAddr::new(CALLED, 8080), SocketAddr::new(CALLED, 15443));
        let resources = resources(protocol, endpoint, link, REVIEWS) + &policy(spec);
        let own = format!(
            "service: reviews\nworkers: 1\nlink: '{link}'\ninbound: [{{listen: '{endpoint}', app: '{app}', port: 80}}]\n{}",
            root.identity(REVIEWS)
        );
        let reviews = network.at_called(|| Sidecar::start(&resources, &own));
        let (web, listen) = network.at_caller(|| {
            let listen = free_address();
            (Sidecar::start(&resources, &caller_file(listen, &root.identity(WEB))), listen)
        });
        Apart { network, _root: root, web, reviews, listen }
    }

    /// What the caller's sidecar counted, and the workload's.
    pub fn metrics(&self) -> [Metrics; 2] {
        [self.network.at_caller(|| self.web.metrics()), self.network.at_called(|| self.reviews.metrics())]
    }

    /// For how long the caller's sidecar takes it that QUIC has to lose little, in seconds.
    pub fn calm(&self) -> f64 {
        let (_, dump) = self.network.at_caller(|| metrics::get(self.web.admin, "/config_dump"));
        let dump: Value = serde_json::from_str(&dump).unwrap();
        dump["snapshot"]["links"]["quic_calm_seconds"].as_f64().unwrap()
    }

    /// How often new requests went over to the other kind of link for this reason.
    pub fn switches(&self, cause: &str) -> f64 {
        self.metrics()[0].sum("lighter_quic_switches_total", &[("cause", cause)])
    }

    /// Streams over QUIC, as each end counted them.
    pub fn over_quic(&self) -> [f64; 2] {
        self.streams("lighter_quic_streams_total")
    }

    /// All streams.
    pub fn over_any(&self) -> [f64; 2] {
        self.streams("lighter_link_streams_total")
    }

    fn streams(&self, name: &str) -> [f64; 2] {
        let [web, reviews] = self.metrics();
        [web.sum(name, &[("side", "opener")]), reviews.sum(name, &[("side", "acceptor")])]
    }

    /// Nothing went wrong on any link.
    pub fn is_whole(&self) {
        for metrics in self.metrics() {
            assert_eq!(metrics.sum("lighter_link_resets_total", &[]), 0.0);
            assert_eq!(metrics.sum("lighter_link_faults_total", &[]), 0.0);
        }
    }
}
