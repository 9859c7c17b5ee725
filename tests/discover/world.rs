//! The server, what it says, and a sidecar that listens to it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::metrics::{self, Metrics};
use crate::support::process::{Program, free_address, listens, python};
use crate::support::raw::{Body, Peer};
use crate::support::sidecar::LIGHTER;

/// The Service of every test: its sidecar's listener leads to it.
pub const LISTENER: &str = "shop.default:80";

pub struct World {
    folder: TempDir,
    python: PathBuf,
    address: SocketAddr,
    pub server: Option<Program>,
}

/// A sidecar that asks the server.
pub struct Sidecar {
    pub program: Program,
    pub admin: SocketAddr,
    pub listen: SocketAddr,
}

impl World {
    /// A server that says this.
    pub fn new(said: &Said) -> Result<Self, String> {
        let mut world = World {
            folder: tempfile::Builder::new().prefix("lighter-discover-").tempdir().unwrap(),
            python: python("grpc, envoy.service.discovery.v3.ads_pb2_grpc")?,
            address: free_address(),
            server: None,
        };
        world.say(said);
        world.start_server();
        Ok(world)
    }

    pub fn start_server(&mut self) {
        let mut command = Command::new(&self.python);
        command
            .arg(format!("{}/../tests/discover/scripts/ads_server.py", env!("CARGO_MANIFEST_DIR")))
            .arg(self.address.port().to_string())
            .arg(self.folder.path().join("world.json"));
        let mut server = Program::start(command, self.folder.path());
        server.wait_until_it_says("ready");
        self.server = Some(server);
    }

    pub fn stop_server(&mut self) {
        self.server = None;
    }

    /// From now on it says this.
    pub fn say(&self, said: &Said) {
        let new = self.folder.path().join("world.new");
        std::fs::write(&new, said.json().to_string()).unwrap();
        std::fs::rename(new, self.folder.path().join("world.json")).unwrap();
    }

    pub fn server(&mut self) -> &mut Program {
        self.server.as_mut().expect("the server runs")
    }

    /// Starts a sidecar with one listener that leads to `shop`.
    pub fn sidecar(&self) -> Sidecar {
        let listen = free_address();
        self.start(
            listen,
            &format!("listeners: [{{listen: '{listen}', service: shop, port: 80}}]"),
            "serverFeatures: []",
        )
    }

    /// Starts a sidecar with a proxy port and a DNS server, which finds out everything on demand.
    pub fn on_demand(&self, dns: SocketAddr) -> Sidecar {
        let (listen, nobody) = (free_address(), free_address());
        let own = format!("connect: '{listen}'\ndns: {{listen: '{dns}', upstream: ['{nobody}']}}");
        self.start(listen, &own, "serverFeatures: [lighter.v1]")
    }

    /// Starts the sidecar of an instance of `shop`, before `app`.
    pub fn workload(&self, app: SocketAddr) -> Sidecar {
        let listen = free_address();
        let own = format!("service: shop\ninbound: [{{listen: '{listen}', app: '{app}', port: 80}}]");
        self.start(listen, &own, "serverFeatures: [lighter.v1]")
    }

    fn start(&self, listen: SocketAddr, own: &str, control: &str) -> Sidecar {
        let admin = free_address();
        let config = self.folder.path().join(format!("sidecar-{}.yaml", admin.port()));
        let text = format!(
            "admin: {admin}\nworkers: 1\n{own}\ncontrol: {{address: '{}', plaintext: true, {control}, state: state}}\n",
            self.address
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(LIGHTER);
        command.args(["proxy", "--config"]).arg(config);
        let mut program = Program::start(command, self.folder.path());
        program.wait_until("it is ready", || {
            TcpStream::connect_timeout(&admin, Duration::from_secs(1)).is_ok()
                && metrics::get(admin, "/ready").0 == 200
        });
        Sidecar { program, admin, listen }
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state/discovery")
    }
}

impl Sidecar {
    /// What a request is answered, with status.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut peer = Peer::connect(self.listen);
        let (head, body) =
            peer.exchange(format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"));
        let Body::Whole(body) = body else { panic!("{path} was cut") };
        (head.status(), String::from_utf8(body).unwrap())
    }

    /// How many of `count` requests each upstream answered; all must be answered.
    pub fn shares(&self, count: usize) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..count {
            let (status, body) = self.get("/");
            assert_eq!(status, 200, "{body}");
            *shares.entry(body).or_default() += 1;
        }
        shares
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::of(self.admin)
    }

    /// What `/config_dump` says of the control plane.
    pub fn xds(&self) -> Value {
        let dump: Value = serde_json::from_str(&metrics::get(self.admin, "/config_dump").1).unwrap();
        dump["xds"].clone()
    }

    /// Waits until every request is answered by one of these.
    pub fn wait_for(&mut self, upstreams: &[&str]) {
        let (program, listen, admin) = (&mut self.program, self.listen, self.admin);
        let probe = Probe { listen, admin };
        program.wait_until(&format!("{upstreams:?} answer"), || {
            (0..10).all(|_| probe.get().is_some_and(|body| upstreams.contains(&body.as_str())))
        });
    }
}

/// What it takes to ask a sidecar.
struct Probe {
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Probe {
    fn get(&self) -> Option<String> {
        assert!(listens(self.admin));
        let mut peer = Peer::connect(self.listen);
        let (head, body) = peer.exchange("GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
        match body {
            Body::Whole(body) if head.status() == 200 => String::from_utf8(body).ok(),
            _ => None,
        }
    }
}

/// What the server says.
#[derive(Clone, Default)]
pub struct Said {
    /// Path prefix and clusters with their weights.
    pub rules: Vec<(&'static str, Vec<(&'static str, u32)>)>,
    /// Clusters with their type.
    pub clusters: BTreeMap<&'static str, &'static str>,
    /// Endpoints by cluster and priority, and whether they are healthy.
    pub endpoints: BTreeMap<&'static str, Vec<Vec<(SocketAddr, bool)>>>,
    /// There is no listener.
    pub nothing: bool,
    /// Services of Lighter's own resources: the last part of their virtual addresses, and their port. Their routes and
    /// clusters are called as their ports are.
    pub services: BTreeMap<&'static str, (u8, u16)>,
    /// Addresses of which the server never speaks.
    pub mute: Vec<&'static str>,
    /// Kinds, of `cluster` and `workload`, in which what decides who may talk has a field that no version knows.
    pub unknown: Vec<&'static str>,
}

impl Said {
    /// Services of Lighter's own resources with one endpoint each, by the name of their port and the last part of their
    /// virtual addresses.
    pub fn services(services: &[(&'static str, u8, &'static str, SocketAddr)]) -> Self {
        let mut said = Said::default();
        for (name, last, port, address) in services {
            said.services.insert(name, (*last, port.rsplit_once(':').unwrap().1.parse().unwrap()));
            said.clusters.insert(port, "EDS");
            said.endpoints.insert(port, vec![vec![(*address, true)]]);
        }
        said
    }

    /// One rule that sends everything to these clusters, each with one endpoint.
    pub fn split(clusters: &[(&'static str, u32, SocketAddr)]) -> Self {
        let shares = clusters.iter().map(|(name, weight, _)| (*name, *weight)).collect();
        let mut said = Said { rules: vec![("", shares)], ..Said::default() };
        for (name, _, address) in clusters {
            said.clusters.insert(name, "EDS");
            said.endpoints.insert(name, vec![vec![(*address, true)]]);
        }
        said
    }

    fn json(&self) -> Value {
        let rules = self.rules.iter().map(|(prefix, clusters)| {
            json!({"prefix": prefix, "clusters": clusters.iter().copied().collect::<BTreeMap<_, _>>()})
        });
        let member = |(address, healthy): &(SocketAddr, bool)| {
            json!([address.ip(), address.port(), 1, if *healthy { "HEALTHY" } else { "UNHEALTHY" }])
        };
        let priorities = |priorities: &Vec<Vec<(SocketAddr, bool)>>| -> Value {
            priorities.iter().map(|members| members.iter().map(member).collect::<Value>()).collect()
        };
        let endpoints: BTreeMap<_, _> =
            self.endpoints.iter().map(|(name, of)| (*name, priorities(of))).collect();
        let service = |(name, (last, port)): (&&str, &(u8, u16))| {
            (name.to_string(), json!([format!("198.19.7.{last}"), format!("fd00:11:6874:e5::{last}"), port]))
        };
        let services: BTreeMap<_, _> = self.services.iter().map(service).collect();
        let mut routes = json!({"table": rules.collect::<Vec<_>>()});
        for (name, (_, port)) in &self.services {
            let port = format!("{name}:{port}");
            let all: BTreeMap<_, _> = [(port.clone(), 1)].into();
            routes[port] = json!([{"prefix": "", "clusters": all}]);
        }
        let listeners = if self.nothing { json!({}) } else { json!({LISTENER: "table"}) };
        json!({
            "listeners": listeners,
            "routes": routes,
            "clusters": self.clusters,
            "endpoints": endpoints,
            "services": services,
            "mute": self.mute,
            "unknown": self.unknown,
        })
    }
}
