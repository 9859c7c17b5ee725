//! Python's own gRPC with an `xds:///` target: nothing in it knows of Lighter.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::plane::Plane;
use crate::support::process::{Program, free_address, python};
use crate::support::sidecar::{policy, service};
use crate::support::{test_where, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("grpc::follows_routes_and_weights", follows_routes_and_weights),
        test_where("grpc::follows_endpoints", follows_endpoints),
        test_where("grpc::follows_priorities", follows_priorities),
        test_where("grpc::takes_every_balancer_and_hashes_where_it_can", takes_every_balancer),
        test_where("grpc::takes_routes_that_say_more_than_it_knows", takes_routes),
        test_where("grpc::stays_with_the_last_good_config", stays_with_the_last_good_config),
        test_where("grpc::outlives_the_control_plane", outlives_the_control_plane),
    ]
}

fn follows_routes_and_weights() -> Result<(), String> {
    let world = World::new()?;
    let plane = Plane::start(&world.split(80, 20));
    let mut client = world.client(&plane);
    let answers = client.call("reviews:80", "Are", 1000, "");
    // Five standard deviations.
    let share = answers["v1"];
    assert!((737..=863).contains(&share) && answers["v2"] == 1000 - share, "{answers:?}");
    assert_eq!(client.call("reviews:80", "Were", 20, ""), only("v2", 20), "the method's own rule");
    assert_eq!(
        client.call("reviews:80", "Are", 20, "x-preview=yes"),
        only("v2", 20),
        "the header's own rule"
    );
    // Under its other names, and a Service without a route.
    assert_eq!(client.call("reviews.default.svc.cluster.local:80", "Were", 5, ""), only("v2", 5));
    assert_eq!(client.call("v1.default:80", "Are", 5, ""), only("v1", 5));

    plane.apply(&world.split(0, 1));
    wait_until("all goes to v2", || client.call("reviews:80", "Are", 20, "") == only("v2", 20));
    Ok(())
}

fn follows_endpoints() -> Result<(), String> {
    let world = World::new()?;
    let plane = Plane::start(&world.endpoints(&["a"]));
    let mut client = world.client(&plane);
    assert_eq!(client.call("all:80", "Are", 10, ""), only("a", 10));
    plane.apply(&world.endpoints(&["a", "b"]));
    wait_until("both answer", || client.call("all:80", "Are", 10, "").len() == 2);
    plane.apply(&world.endpoints(&["b"]));
    wait_until("only the other answers", || client.call("all:80", "Are", 10, "") == only("b", 10));
    Ok(())
}

fn follows_priorities() -> Result<(), String> {
    let world = World::new()?;
    let mut first = world.serve("first");
    let plane = Plane::start(&world.standing_by("first", "b"));
    let mut client = world.client(&plane);
    assert_eq!(client.call("all:80", "Are", 20, ""), only("first", 20));
    first.signal(Signal::KILL);
    first.wait();
    wait_until("who stands by takes over", || client.call("all:80", "Are", 20, "") == only("b", 20));
    let _again = world.serve("first");
    wait_until("who was away is back", || client.call("all:80", "Are", 20, "") == only("first", 20));
    // And by word of the control plane alone.
    plane.apply(&world.standing_by("b", "first"));
    wait_until("they have changed places", || client.call("all:80", "Are", 20, "") == only("b", 20));
    Ok(())
}

fn takes_every_balancer() -> Result<(), String> {
    let world = World::new()?;
    let with = |said: &str| format!("{}---\n{}", world.endpoints(&["a", "b"]), policy("all", said));
    let plane = Plane::start(&with("balancing: {policy: peakEwma}"));
    let mut client = world.client(&plane);
    let clusters = |what: &str| plane.metrics().sum(what, &[("type", "cluster")]);
    for balancer in
        ["peakEwma", "leastRequest", "weightedRoundRobin", "roundRobin", "random", "maglev", "ringHash"]
    {
        let before = clusters("lighter_control_acks_total");
        plane.apply(&with(&format!("balancing: {{policy: {balancer}}}")));
        let known =
            |answers: &BTreeMap<String, u32>| answers.keys().all(|name| ["a", "b"].contains(&&**name));
        assert!(known(&client.call("all:80", "Are", 20, "")), "{balancer}");
        if balancer != "peakEwma" {
            wait_until("it is taken", || clusters("lighter_control_acks_total") > before);
        }
        assert!(known(&client.call("all:80", "Are", 20, "")), "{balancer}");
        assert_eq!(clusters("lighter_control_nacks_total"), 0.0, "{balancer}");
    }
    plane.apply(&with("balancing: {policy: ringHash, hash: [{header: x-user}]}"));
    let mut each = |user: u32| client.call("all:80", "Are", 10, &format!("x-user={user}"));
    wait_until("each user stays with a server", || (0..10).all(|user| each(user).len() == 1));
    let servers: std::collections::BTreeSet<_> = (0..20).flat_map(|user| each(user).into_keys()).collect();
    assert_eq!(servers.len(), 2, "{servers:?}");
    Ok(())
}

/// What it knows and cannot do would have it refuse the whole table.
fn takes_routes() -> Result<(), String> {
    let world = World::new()?;
    let plane = Plane::start(&world.split(1, 0));
    let mut client = world.client(&plane);
    assert_eq!(client.call("reviews:80", "Are", 5, ""), only("v1", 5));
    let (said, mut weights) = ("{backendRefs: [{name: v1", [[0, 1], [1, 0]].into_iter().cycle());
    for more in [
        "sessionPersistence: {absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}",
        "sessionPersistence: {idleTimeout: 1h}",
        "sessionPersistence: {type: Header}",
    ] {
        // The change is seen by where calls go.
        let [v1, v2] = weights.next().unwrap_or_default();
        let (file, to) = (world.split(v1, v2), if v1 > 0 { "v1" } else { "v2" });
        assert!(file.contains(said));
        plane.apply(&file.replace(said, &format!("{{{more}, {}", &said[1..])));
        wait_until(more, || client.call("reviews:80", "Are", 5, "") == only(to, 5));
    }
    assert_eq!(plane.metrics().sum("lighter_control_nacks_total", &[]), 0.0);
    Ok(())
}

fn stays_with_the_last_good_config() -> Result<(), String> {
    let world = World::new()?;
    let mut plane = Plane::start(&world.endpoints(&["a"]));
    let mut client = world.client(&plane);
    assert_eq!(client.call("all:80", "Are", 5, ""), only("a", 5));
    for (bad, said) in [
        (format!("{}  colour: blue\n", world.endpoints(&["b"])), "unknown field `colour`"),
        (String::new(), "there are no resources in the files any more"),
    ] {
        plane.apply(&bad);
        plane.program.wait_until_it_says(said);
        assert_eq!(client.call("all:80", "Are", 5, ""), only("a", 5));
    }
    plane.apply(&world.endpoints(&["b"]));
    wait_until("the repaired file counts", || client.call("all:80", "Are", 5, "") == only("b", 5));
    Ok(())
}

fn outlives_the_control_plane() -> Result<(), String> {
    let world = World::new()?;
    let mut plane = Plane::start(&world.endpoints(&["a"]));
    let mut client = world.client(&plane);
    assert_eq!(client.call("all:80", "Are", 5, ""), only("a", 5));
    plane.program.signal(Signal::KILL);
    plane.program.wait();
    assert_eq!(client.call("all:80", "Are", 100, ""), only("a", 100));
    plane.apply(&world.endpoints(&["b"]));
    plane.start_again();
    wait_until("it hears of the change", || client.call("all:80", "Are", 5, "") == only("b", 5));
    Ok(())
}

/// Servers that say who they are.
struct World {
    python: PathBuf,
    servers: BTreeMap<&'static str, SocketAddr>,
    folder: tempfile::TempDir,
    _program: Program,
}

impl World {
    fn new() -> Result<Self, String> {
        let python = python("grpc")?;
        let names = ["a", "b", "v1", "v2"];
        let addresses = names.into_iter().chain(["first"]).map(|name| (name, free_address()));
        let servers: BTreeMap<_, _> = addresses.collect();
        let folder = tempfile::tempdir().unwrap();
        let program = serve(&python, folder.path(), names.map(|name| (name, servers[name])));
        Ok(World { python, servers, folder, _program: program })
    }

    /// Starts a server that has a process of its own.
    fn serve(&self, name: &str) -> Program {
        serve(&self.python, self.folder.path(), [(name, self.servers[name])])
    }

    /// `all`, where one server stands by for another.
    fn standing_by(&self, first: &str, standby: &str) -> String {
        let endpoint = |name: &str| {
            let address = self.servers[name];
            format!("address: '{}', port: {}", address.ip(), address.port())
        };
        let endpoints = format!(" [{{{}}}, {{{}, priority: 1}}]\n", endpoint(first), endpoint(standby));
        service("all", "grpc", &[]).replace(" []\n", &endpoints)
    }

    /// `reviews` in two versions, by weight.
    fn split(&self, v1: u32, v2: u32) -> String {
        let version = |name: &str| service(name, "grpc", &[self.servers[name]]);
        let route = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: reviews}}\nspec:\n  \
             parentRefs: [{{kind: Service, group: '', name: reviews}}]\n  rules:\n  \
             - {{matches: [{{method: {{service: test.Who, method: Were}}}}], backendRefs: [{{name: v2, port: 80}}]}}\n  \
             - {{matches: [{{headers: [{{name: x-preview, value: 'yes'}}]}}], backendRefs: [{{name: v2, port: 80}}]}}\n  \
             - {{backendRefs: [{{name: v1, port: 80, weight: {v1}}}, {{name: v2, port: 80, weight: {v2}}}]}}\n"
        );
        [service("reviews", "grpc", &[]), version("v1"), version("v2"), route].join("---\n")
    }

    /// `all`, with these of the servers.
    fn endpoints(&self, names: &[&str]) -> String {
        let endpoints: Vec<_> = names.iter().map(|name| self.servers[name]).collect();
        service("all", "grpc", &endpoints)
    }

    fn client(&self, plane: &Plane) -> Client {
        Client::start(&self.python, self.folder.path(), plane.ads)
    }
}

/// A client that calls when it is told to.
struct Client {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Client {
    fn start(python: &Path, folder: &Path, ads: SocketAddr) -> Self {
        let bootstrap = serde_json::json!({
            "xds_servers": [{
                "server_uri": ads.to_string(),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {"id": "python"},
        });
        let file = folder.join("bootstrap.json");
        std::fs::write(&file, bootstrap.to_string()).unwrap();
        let mut command = Command::new(python);
        command.arg(script("xds_client.py")).env("GRPC_XDS_BOOTSTRAP", file);
        for proxy in ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env_remove(proxy);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Client { child, commands, answers: BufReader::new(answers) }
    }

    /// Calls so often, one call after the other. Gives who answered how often, and which errors there were.
    fn call(&mut self, target: &str, method: &str, count: u32, metadata: &str) -> BTreeMap<String, u32> {
        writeln!(self.commands, "call xds:///{target} {method} {count} {metadata}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("the client said {answer:?}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a process with these servers.
fn serve<'n>(
    python: &Path,
    folder: &Path,
    servers: impl IntoIterator<Item = (&'n str, SocketAddr)>,
) -> Program {
    let mut command = Command::new(python);
    command.arg(script("backends.py"));
    command.args(servers.into_iter().map(|(name, address)| format!("{name}={}", address.port())));
    let mut program = Program::start(command, folder);
    program.wait_until_it_says("ready");
    program
}

fn only(name: &str, count: u32) -> BTreeMap<String, u32> {
    BTreeMap::from([(name.to_owned(), count)])
}

pub fn script(name: &str) -> String {
    format!("{}/../tests/control/scripts/{name}", env!("CARGO_MANIFEST_DIR"))
}
