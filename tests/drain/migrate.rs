//! A stateless service moves from one instance to another while it is used, and whatever happens to the control plane.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use libtest_mimic::Trial;
use rustix::process::Signal;
use serde_json::Value;

use crate::handover::SHOP;
use crate::load::{Load, Rate};
use crate::support::process::{Program, free_address};
use crate::support::{at_rest, full, test, wait_until};
use crate::world::{Sidecar, World, get};

pub fn tests() -> Vec<Trial> {
    vec![
        test("migrate::moves_back_and_forth_fail_no_request", back_and_forth),
        test("migrate::a_control_plane_killed_in_any_phase_goes_on", killed),
        test("migrate::what_cannot_be_moved_stays_and_says_why", stays),
    ]
}

fn back_and_forth() {
    let moves = if full() { 100 } else { 10 };
    let world = World::new();
    world.apply(SHOP);
    let places = [Place::start(&world, "shop-a"), Place::start(&world, "shop-b")];
    let (web, listen) = world.caller_with("web", "shop", PATIENT);
    wait_until("both are known", || web.endpoints() == 2);
    let load = Load::start(listen, RATE);
    load.more(50);
    for turn in 0..moves {
        let [from, to] = [&places[turn % 2], &places[(turn + 1) % 2]];
        let said = world.operator(&["migrate", "shop", "--from", &from.instance, "--to", &to.instance]);
        assert!(said.contains("nothing is under way at the old instance"), "{said}");
        assert_eq!(named(&said), PHASES, "{said}");
        is_alone(to, from, &web, &load);
    }
    println!("{moves} migrations: {}", load.end());
    let counts = world.counts();
    assert_eq!(counts.sum("lighter_control_withdrawn_instances", &[]), 1.0);
    let done = counts.sum("lighter_control_migrations_total", &[("outcome", "done")]);
    assert_eq!(done, moves as f64);
    let all = stories(&world);
    assert_eq!(all.len(), moves);
    for story in &all {
        assert_eq!((&story["outcome"], &story["left"]), (&"done".into(), &0.into()), "{story}");
        assert_eq!(phases(story), PHASES, "{story}");
    }
    let took = all.iter().filter_map(|story| story["took"].as_u64());
    println!("a migration took {} ms on average", took.sum::<u64>() / moves as u64);
}

/// In Warm, while the new instance is not ready; in Switch, while a caller does not answer; and in DrainOld, while a stream is
/// under way at the old instance.
fn killed() {
    let mut world = World::new();
    world.apply(SHOP);
    let a = Place::start(&world, "shop-a");
    let mut b = Place::without_program(&world, "shop-b");
    let (web, listen) = world.caller_with("web", "shop", PATIENT);
    let (deaf, _) = world.caller("deaf", "shop");
    wait_until("the first one is known", || web.endpoints() == 1 && deaf.endpoints() == 1);
    let load = Load::start(listen, RATE);
    load.more(50);

    begin(&world, "warm", &a, &b);
    is_in(&world, "warm");
    world.kill_plane();
    load.more(20);
    world.start_plane();
    is_in(&world, "warm");
    b.start_program(&world);
    is_done(&world, "warm");
    is_alone(&b, &a, &web, &load);

    deaf.program.signal(Signal::STOP);
    begin(&world, "switch", &b, &a);
    is_in(&world, "switch");
    wait_until("it is counted", || {
        world.counts().sum("lighter_control_migrations_under_way", &[("phase", "switch")]) == 1.0
    });
    world.kill_plane();
    load.more(20);
    world.start_plane();
    // Whoever was there is waited for: it may call the old place still.
    load.more(50);
    is_in(&world, "switch");
    deaf.program.signal(Signal::CONT);
    is_done(&world, "switch");
    is_alone(&a, &b, &web, &load);

    let stream = Stream::open(listen);
    begin(&world, "drain", &a, &b);
    is_in(&world, "drain_old");
    world.kill_plane();
    load.more(20);
    world.start_plane();
    load.more(50);
    is_in(&world, "drain_old");
    stream.end();
    is_done(&world, "drain");
    is_alone(&b, &a, &web, &load);
    println!("{}", load.end());

    for name in ["warm", "switch", "drain"] {
        let story = story(&world, name);
        assert_eq!(
            (phases(&story), &story["left"]),
            (PHASES.map(str::to_owned).into(), &0.into()),
            "{story}"
        );
    }
    let told = world.operator(&["get", "migrations", "-o", "wide"]);
    assert_eq!(told.lines().filter(|line| line.contains(" done ")).count(), 3, "{told}");
}

fn stays() {
    let world = World::new();
    world.apply(SHOP);
    let a = Place::start(&world, "shop-a");
    let mut b = Place::without_program(&world, "shop-b");
    let (web, listen) = world.caller_with("web", "shop", PATIENT);
    let (deaf, _) = world.caller("deaf", "shop");
    wait_until("the first one is known", || web.endpoints() == 1 && deaf.endpoints() == 1);
    let said = world.refused(&["migrate", "shop", "--from", &a.instance, "--to", "nobody"]);
    assert!(said.contains("no instance `nobody` of default/shop is registered"), "{said}");

    begin(&world, "not-ready", &a, &b);
    is_in(&world, "warm");
    world.operator(&["migrate", "--abort", "not-ready"]);
    wait_until("it is aborted", || story(&world, "not-ready")["outcome"] == "aborted");
    assert_eq!(story(&world, "not-ready")["because"], "somebody asked for it");
    let said = world.refused(&["migrate", "--abort", "not-ready"]);
    assert!(said.contains("is over: aborted"), "{said}");

    // Once it is decided there is no abort, and the old place takes the service back where the new one fails.
    b.start_program(&world);
    wait_until("both are known", || web.endpoints() == 2);
    deaf.program.signal(Signal::STOP);
    begin(&world, "fails", &a, &b);
    is_in(&world, "switch");
    let said = world.refused(&["migrate", "--abort", "fails"]);
    assert!(said.contains("is decided"), "{said}");
    wait_until("callers know", || web.endpoints() == 1);
    b.program = None;
    wait_until("it is rolled back", || story(&world, "fails")["outcome"] == "rolled_back");
    wait_until("the old place answers", || get(listen) == (200, "done".to_owned()));
    deaf.program.signal(Signal::CONT);
    let said = world.operator(&["get", "migrations", "fails"]);
    assert!(said.contains(&format!("`{}` was not ready any more", b.instance)), "{said}");
    let counts = world.counts();
    for (outcome, count) in [("refused", 1.0), ("aborted", 1.0), ("rolled_back", 1.0), ("done", 0.0)] {
        let counted = counts.sum("lighter_control_migrations_total", &[("outcome", outcome)]);
        assert_eq!(counted, count, "{outcome}");
    }
}

/// An instance of `shop`.
struct Place {
    instance: String,
    sidecar: Sidecar,
    app: SocketAddr,
    program: Option<Program>,
}

impl Place {
    fn start(world: &World, name: &str) -> Self {
        let mut place = Place::without_program(world, name);
        place.start_program(world);
        place
    }

    /// One whose program does not run yet, so that it is not ready.
    fn without_program(world: &World, name: &str) -> Self {
        let before = instances(world);
        let app = free_address();
        let sidecar =
            world.instance("shop", name, app, &format!("{PATIENT}appProbe: {{http: /, interval: 20ms}}"));
        let mut new = None;
        wait_until("it is there", || {
            new = instances(world).into_iter().find(|instance| !before.contains(instance));
            new.is_some()
        });
        Place { instance: new.unwrap(), sidecar, app, program: None }
    }

    fn start_program(&mut self, world: &World) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["@serve", &self.app.port().to_string()]);
        let mut program = Program::start(command, &world.path(""));
        program.wait_until_it_says("listening");
        self.program = Some(program);
    }

    /// Requests of callers that came here.
    fn requests(&self) -> f64 {
        let metrics = self.sidecar.metrics();
        metrics.sum("lighter_requests_total", &[("direction", "inbound")])
    }
}

/// The instances of `shop` that are connected.
pub fn instances(world: &World) -> Vec<String> {
    let all: Value = serde_json::from_str(&world.operator(&["get", "sidecars", "-o", "json"])).unwrap();
    let ids = all["sidecars"].as_array().unwrap().iter().filter_map(|sidecar| sidecar["id"].as_str());
    // Who has not said yet what it is called has no name.
    let names = ids.filter_map(|id| id.strip_prefix("default/shop/")).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// Every request from now on comes to one place.
fn is_alone(one: &Place, other: &Place, web: &Sidecar, load: &Load) {
    wait_until("one is known", || web.endpoints() == 1);
    let there = at_rest(Duration::from_millis(50), || other.requests());
    let here = one.requests();
    load.more(20);
    assert_eq!(other.requests(), there, "nobody goes to the old place");
    wait_until("they come to the new one", || one.requests() > here);
}

/// Asks for a migration that may take its time.
fn begin(world: &World, name: &str, from: &Place, to: &Place) {
    world.apply(&format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Migration\nmetadata: {{name: {name}}}\nspec: {{service: shop, class: stateless, \
         from: {{instance: {}}}, to: {{instance: {}}}, prepareTimeout: 60s, switchTimeout: 60s, drainTimeout: 60s}}\n",
        from.instance, to.instance
    ));
}

pub fn stories(world: &World) -> Vec<Value> {
    let all: Value = serde_json::from_str(&world.operator(&["get", "migrations", "-o", "json"])).unwrap();
    all["migrations"].as_array().unwrap().clone()
}

pub fn story(world: &World, name: &str) -> Value {
    stories(world).into_iter().find(|story| story["name"] == name).unwrap_or_default()
}

/// But `hold`, which there is only where the sidecars of callers are heard as it begins.
pub fn phases(story: &Value) -> Vec<String> {
    let entered = story["phases"].as_array().unwrap().iter();
    let phases = entered.map(|entered| entered["phase"].as_str().unwrap().to_owned());
    phases.filter(|phase| phase != "hold").collect()
}

/// The phases that `lighter migrate` names in a terminal, in their order.
pub fn named(said: &str) -> Vec<&str> {
    let lines = said.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(" +"));
    lines.filter(|(_, after)| after.ends_with(" ms")).map(|(phase, _)| phase.trim_end()).collect()
}

/// Waits until the migration that began last is there.
pub fn is_in(world: &World, phase: &str) {
    wait_until(phase, || stories(world).last().is_some_and(|story| story["phase"] == phase));
}

pub fn is_done(world: &World, name: &str) {
    wait_until("it is done", || story(world, name)["outcome"] == "done");
}

/// A stream of gRPC that is under way until it is ended.
pub struct Stream {
    ends: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Stream {
    pub fn open(door: SocketAddr) -> Self {
        let (ends, ended) = mpsc::channel();
        let (opens, opened) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let tcp = tokio::net::TcpStream::connect(door).await.unwrap();
                let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
                tokio::spawn(connection);
                let request = http::Request::post("http://shop/shop.Feed/Watch")
                    .header("content-type", "application/grpc");
                let (answer, mut up) = client.send_request(request.body(()).unwrap(), false).unwrap();
                let mut down = answer.await.unwrap().into_body();
                opens.send(()).unwrap();
                tokio::task::spawn_blocking(move || ended.recv().unwrap()).await.unwrap();
                up.send_data(Bytes::new(), true).unwrap();
                while let Some(data) = down.data().await {
                    data.unwrap();
                }
                assert_eq!(down.trailers().await.unwrap().unwrap()["grpc-status"], "0");
            });
        });
        opened.recv().unwrap();
        Stream { ends, thread }
    }

    /// It was there all the time.
    pub fn end(self) {
        self.ends.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

/// Where processors are busy, a client may be slow to say which protocol it speaks. Without a link nothing else is carried.
pub const PATIENT: &str = "detectTimeout: 5s\n";

/// No streams: each lasts for a second, and every migration would wait for one.
const RATE: Rate = Rate { requests: 100, streams: 0 };

const PHASES: [&str; 6] = ["plan", "prepare", "warm", "switch", "drain_old", "done"];
