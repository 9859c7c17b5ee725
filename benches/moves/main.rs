//! A service that moves while it is used: for how long nobody answers, and what callers notice.
//!
//! `cargo bench --bench moves` starts a control plane, two instances with their sidecars and the sidecar of a caller, each a
//! `lighter` process as it is shipped, and an application that is moved to and fro: one that keeps nothing between requests,
//! and one whose state changes with every other request. With `changes`, most of that is copied while it serves, and without, all
//! of it while nobody does. Prints a table as Markdown, beside what is aimed at, and as JSON with `--json FILE`; ends with 1
//! where a request failed.
//!
//! For how long nobody answers is measured at the caller's socket: from the last answer of the old instance to the first one of
//! the new. Without state both answer for a while, as callers are told of the new one before the old one has ended what it has:
//! that is 0 then. Beside it stands how far apart answers are anyway.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod app;
mod load;
#[path = "../../tests/support/mod.rs"]
mod support;
#[allow(dead_code)] // It has more than is needed here.
#[path = "../../tests/join/world.rs"]
mod world;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use load::Load;
use support::process::{Program, free_address, free_port};
use support::wait_until;
use world::{Sidecar, World};

const USAGE: &str = "\
cargo bench --bench moves -- [OPTIONS]
  --moves N         moves of each row (default 5)
  --mib A,B         sizes of the state in MiB (default 1,64)
  --only A,B        only these: stateless pre-copy stop-and-copy
  --json FILE       writes every number to FILE as well";

/// How the state is copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// There is none.
    Stateless,
    /// Most of it while the old instance serves.
    PreCopy,
    /// All of it while nobody does.
    StopAndCopy,
}

impl Way {
    const ALL: [Way; 3] = [Way::Stateless, Way::PreCopy, Way::StopAndCopy];

    fn name(self) -> &'static str {
        match self {
            Way::Stateless => "stateless",
            Way::PreCopy => "pre-copy",
            Way::StopAndCopy => "stop-and-copy",
        }
    }

    /// For how many milliseconds nobody is to answer where so many MiB move, if anything is aimed at.
    fn aim(self, mib: usize) -> Option<u64> {
        match (self, mib) {
            (Way::Stateless, _) => Some(0),
            (Way::PreCopy, 1) => Some(20),
            (Way::PreCopy, 64) => Some(100),
            _ => None,
        }
    }

    /// What a Service says that keeps its state so.
    fn state(self) -> String {
        let changes = match self {
            Way::Stateless => return String::new(),
            Way::PreCopy => ", changes: /changes",
            Way::StopAndCopy => "",
        };
        format!(
            "  state: {{class: volatile, snapshot: /state, restore: /state{changes}, freeze: /freeze, thaw: /thaw}}\n"
        )
    }
}

struct Options {
    moves: usize,
    mib: Vec<usize>,
    ways: Vec<Way>,
    json: Option<PathBuf>,
}

impl Options {
    fn from_args() -> Self {
        let mut options = Options { moves: 5, mib: vec![1, 64], ways: Way::ALL.to_vec(), json: None };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| usage(&format!("{arg} needs a value")));
            let number =
                |text: &str| text.parse::<usize>().unwrap_or_else(|_| usage(&format!("{text} is no number")));
            match arg.as_str() {
                "--moves" => options.moves = number(&value()).max(1),
                "--mib" => options.mib = value().split(',').map(number).collect(),
                "--only" => {
                    let said = value();
                    options.ways.retain(|way| said.split(',').any(|name| name == way.name()));
                }
                "--json" => options.json = Some(value().into()),
                // Cargo itself passes this to every benchmark.
                "--bench" => {}
                other => usage(&format!("unknown argument {other}")),
            }
        }
        options
    }
}

fn usage(problem: &str) -> ! {
    eprintln!("{problem}\n{USAGE}");
    std::process::exit(2)
}

fn main() {
    if let Some(status) = app::play() {
        std::process::exit(status);
    }
    let options = Options::from_args();
    support::process::raise_descriptor_limit();
    let (with, without) = options.ways.iter().partition::<Vec<Way>, _>(|way| **way != Way::Stateless);
    let mut rows: Vec<Value> = without.iter().map(|way| row(0, *way, options.moves)).collect();
    for mib in &options.mib {
        rows.extend(with.iter().map(|way| row(*mib, *way, options.moves)));
    }
    println!(
        "| state | copied | moves | nobody answers, median | at most | aim | between two answers otherwise, p99 | copied meanwhile, at \
         most | requests | failed | p99 during moves | otherwise |\n|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    );
    for row in &rows {
        println!("{}", markdown(row));
    }
    if let Some(path) = &options.json {
        std::fs::write(path, json!({ "rows": rows }).to_string()).expect("the JSON file can be written");
    }
    let failed: u64 = rows.iter().filter_map(|row| row["failed"].as_u64()).sum();
    if failed > 0 {
        eprintln!("{failed} requests failed");
        std::process::exit(1);
    }
}

/// Moves a state of so many MiB to and fro.
fn row(mib: usize, way: Way, moves: usize) -> Value {
    let world = World::new();
    let state = way.state();
    world.apply(&format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: shop}}\nspec:\n  ports: [{{port: 80, targetPort: \
         8080, appProtocol: http}}]\n{state}"
    ));
    let places = [Place::start(&world, "a", mib), Place::start(&world, "b", 0)];
    let (web, listen) = world.caller_with("web", "shop", "detectTimeout: 5s\n");
    let go = |name: &str, from: &Place, to: &Place| {
        let to_and_fro = ["--from", &from.instance, "--to", &to.instance, "--name", name];
        world.operator(&[&["migrate", "shop"], &to_and_fro[..]].concat());
    };
    if way == Way::Stateless {
        // Both are called at first. From here on one is, and the other one is where it goes.
        wait_until("both are known", || web.endpoints() == 2);
        go("first", &places[1], &places[0]);
    }
    wait_until("the one that serves is known", || web.endpoints() == 1);
    let load = Load::start(listen);
    std::thread::sleep(STEADY);
    let mut spans = Vec::new();
    for turn in 0..moves {
        let [from, to] = [&places[turn % 2], &places[(turn + 1) % 2]];
        let began = load.now();
        go(&format!("turn-{turn}"), from, to);
        spans.push((began, load.now()));
        std::thread::sleep(STEADY / 2);
    }
    let told = load.end();
    let all: Value = serde_json::from_str(&world.operator(&["get", "migrations", "-o", "json"])).unwrap();
    let stories = all["migrations"].as_array().unwrap();
    assert_eq!(stories.len(), moves + usize::from(way == Way::Stateless), "{all}");
    let (mut blackouts, mut frozen) = (Vec::new(), 0);
    for (turn, span) in spans.iter().enumerate() {
        let [from, to] = [&places[turn % 2], &places[(turn + 1) % 2]];
        let story = stories.iter().find(|story| story["name"] == format!("turn-{turn}")).unwrap();
        assert_eq!(story["outcome"], "done", "{story}");
        let blackout = told.blackout(from.name, to.name, *span).expect("both have answered");
        eprintln!("{mib} MiB {}: {blackout:?}, {}, {}", way.name(), story["phases"], story["copies"]);
        blackouts.push(micros(blackout));
        let last = story["copies"].as_array().and_then(|copies| copies.last()?["bytes"].as_u64());
        frozen = frozen.max(last.unwrap_or_default());
    }
    blackouts.sort_unstable();
    let [within, others] = told.p99(&spans).map(micros);
    json!({
        "mib": mib,
        "way": way.name(),
        "moves": moves,
        "aim_ms": way.aim(mib),
        "blackout_us": blackouts,
        "pace_us": micros(told.pace(&spans)),
        "frozen_bytes": frozen,
        "requests": told.answered(),
        "failed": told.failed(),
        "p99_moving_us": within,
        "p99_steady_us": others,
    })
}

fn markdown(row: &Value) -> String {
    let number = |of: &Value| of.as_u64().unwrap_or_default();
    let blackouts: Vec<u64> = row["blackout_us"].as_array().into_iter().flatten().map(number).collect();
    let millis = |micros: u64| format!("{:.1} ms", micros as f64 / 1e3);
    let (state, way) = match row["way"].as_str().unwrap_or_default() {
        "stateless" => ("none".to_owned(), ""),
        way => (format!("{} MiB", row["mib"]), way),
    };
    let aim = row["aim_ms"]
        .as_u64()
        .map(|aim| if aim == 0 { "0 ms".to_owned() } else { format!("under {aim} ms") });
    format!(
        "| {state} | {way} | {} | {} | {} | {} | {} | {:.0} KiB | {} | {} | {} | {} |",
        row["moves"],
        millis(blackouts[blackouts.len() / 2]),
        millis(blackouts[blackouts.len() - 1]),
        aim.unwrap_or_default(),
        millis(number(&row["pace_us"])),
        number(&row["frozen_bytes"]) as f64 / 1024.0,
        row["requests"],
        row["failed"],
        millis(number(&row["p99_moving_us"])),
        millis(number(&row["p99_steady_us"])),
    )
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// An instance of `shop`.
struct Place {
    name: &'static str,
    instance: String,
    _sidecar: Sidecar,
    _app: Program,
}

impl Place {
    /// One whose application begins with so many MiB.
    fn start(world: &World, name: &'static str, mib: usize) -> Self {
        let before = instances(world);
        let port = free_port();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["@state", &port.to_string(), name, &mib.to_string()]);
        let mut app = Program::start(command, &world.path(""));
        app.wait_until_it_says("listening");
        let more = format!("link: '{}'\n", free_address());
        let at = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let sidecar = world.instance("shop", &format!("shop-{name}"), at, &more).ready();
        let mut new = None;
        wait_until("it is there", || {
            new = instances(world).into_iter().find(|instance| !before.contains(instance));
            new.is_some()
        });
        wait_until("it is ready", || sidecar.metrics().sum("lighter_registry_ready", &[]) == 1.0);
        if mib > 0 {
            wait_until("it serves", || sidecar.metrics().sum("lighter_state_serving", &[]) == 1.0);
        }
        Place { name, instance: new.unwrap(), _sidecar: sidecar, _app: app }
    }
}

/// The instances of `shop` that are connected.
fn instances(world: &World) -> Vec<String> {
    let all: Value = serde_json::from_str(&world.operator(&["get", "sidecars", "-o", "json"])).unwrap();
    let ids = all["sidecars"].as_array().unwrap().iter().filter_map(|sidecar| sidecar["id"].as_str());
    let names = ids.filter_map(|id| id.strip_prefix("default/shop/")).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// How long nothing moves at first.
const STEADY: Duration = Duration::from_secs(2);
