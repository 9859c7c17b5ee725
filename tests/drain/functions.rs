//! What a function on a device remembers moves with its Service: from one device to an unlike one and to the host, while it is used.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use libtest_mimic::Trial;

use crate::migrate::{PATIENT, instances, is_done, stories};
use crate::places::{most_waited, one_at_a_time};
use crate::support::process::free_address;
use crate::support::raw::{Body, Head, Peer};
use crate::support::{full, test_where, wait_until};
use crate::world::{Sidecar, World};

mod load;
pub mod planned;

use load::Load;

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("functions::what_one_remembers_moves_between_unlike_devices_and_no_request_fails", || {
            with_runtime(|| one_at_a_time(moves))
        }),
        test_where(
            "functions::a_memory_that_is_kept_moves_between_unlike_devices_and_no_request_fails",
            || with_runtime(|| one_at_a_time(keeps)),
        ),
        test_where("functions::what_cannot_be_moved_is_refused_with_the_reason", || with_runtime(refused)),
        test_where("functions::callers_neither_read_nor_write_what_moves", || with_runtime(barred)),
    ]
}

fn with_runtime(test: fn()) -> Result<(), String> {
    if !cfg!(feature = "wasm") {
        return Err("this `lighter` was built without components (`--features wasm`)".into());
    }
    test();
    Ok(())
}

fn moves() {
    let moves = if full() { 100 } else { 3 };
    moved(moves, (&component("registers"), "fresh"), 0);
}

/// The same registers in the function's own memory, which is more than is copied in one short round.
fn keeps() {
    let moves = if full() { 100 } else { 2 };
    let room = 600_000;
    let (world, places) = moved(moves, (&component("ledger"), "kept"), room);
    for (turn, story) in stories(&world).iter().enumerate() {
        let copies = story["copies"].as_array().unwrap();
        let bytes = |at: usize| copies[at]["bytes"].as_u64().unwrap();
        let turn =
            story["name"].as_str().and_then(|name| name.strip_prefix("turn-")?.parse().ok()).unwrap_or(turn);
        let least = if stops(turn) { 1 } else { 3 };
        assert!(copies.len() >= least && bytes(0) >= room, "{story}");
        for (at, copy) in copies.iter().enumerate().skip(1) {
            assert!(
                copy["changes"] == true && bytes(at) < bytes(0),
                "what has not changed goes once: {story}"
            );
        }
    }
    let lost = |place: &Place| place.sidecar.metrics().sum("lighter_device_memories_lost_total", &[]);
    assert!(places.iter().all(|place| lost(place) == 0.0));
    // A call that breaks off takes the memory away, and that is no secret.
    let last = &places[moves % places.len()];
    let why = ask(&mut Peer::connect(last.door), "kept-1?put=8&break=1").unwrap_err();
    assert!(why.contains("what it kept in its memory is lost"), "{why}");
    wait_until("it is counted", || lost(last) == 1.0);
    assert_eq!(held(&mut Peer::connect(last.door), "kept-1"), 0);
}

/// Moves what this component remembers, so many times, while it is used.
fn moved(moves: usize, (file, memory): (&Path, &str), room: u64) -> (World, [Place; 3]) {
    let world = World::new();
    let parks = format!(", timeout: 60s, park: {{requests: {ROOM}, wait: 180s}}");
    world.apply(&shop("registers", &parks));
    let start = |name, class, more, limits| {
        Place::with(&world, name, class, ("registers", file, memory), more, limits)
    };
    // No two are alike in what they are, how fast they read, and what they let a run take.
    let places = [
        start("a", "csd", "mediaBytesPerSecond: 1000000, LIMITS", "memoryBytes: 4194304"),
        start("b", "dpu", "priority: low, LIMITS", "memoryBytes: 8388608, deadline: 30s"),
        start("host", "host", "LIMITS", "memoryBytes: 67108864, keyBytes: 67108864"),
    ];
    let (web, door) = caller(&world);
    let mut peer = Peer::connect(door);
    for number in 0..KEPT {
        let more = if number == 0 && room > 0 { format!("&room={room}") } else { String::new() };
        let asked = format!("kept-{number}?put={}{more}", number + 1);
        assert_eq!(ask(&mut peer, &asked).unwrap().1, 0);
    }
    let load = Load::start(door);
    load.more_of("a", 200);
    let (mut blackouts, mut spans) = ([Vec::new(), Vec::new()], Vec::new());
    for turn in 0..moves {
        let [from, to] = [&places[turn % places.len()], &places[(turn + 1) % places.len()]];
        let began = Instant::now();
        let name = format!("turn-{turn}");
        let rounds = if stops(turn) { ", precopyRounds: 0" } else { "" };
        begin_with(&world, &name, from, to, rounds);
        is_done(&world, &name);
        spans.push((began, Instant::now()));
        load.more_of(to.name, 50);
        blackouts[usize::from(stops(turn))].push(load.blackout(from.name, to.name, began));
        assert!(to.serves() && !from.serves());
        assert_eq!(web.endpoints(), 1);
        load.more_of(to.name, 150);
    }
    let record = load.end();
    record.check();
    record.finds_a_lost_write();
    for number in 0..KEPT {
        assert_eq!(held(&mut peer, &format!("kept-{number}")), number + 1);
    }
    // Both ends counted the same: nothing was done twice, and nothing that was answered was not.
    let asked = record.answers.lock().unwrap().len() + 2 * KEPT as usize;
    let runs = |place: &Place, status: &[(&str, &str)]| {
        place.sidecar.metrics().sum("lighter_device_runs_total", status)
    };
    wait_until("every run is counted", || {
        places.iter().map(|place| runs(place, &[("status", "CS_SUCCESS")])).sum::<f64>() == asked as f64
    });
    assert_eq!(
        places.iter().map(|place| runs(place, &[])).sum::<f64>(),
        asked as f64,
        "none ended otherwise"
    );
    for (at, place) in places.iter().enumerate() {
        let metrics = place.sidecar.metrics();
        let turns = |role: usize| (0..moves).filter(|turn| (turn + role) % places.len() == at).count() as f64;
        for (hook, times) in [("freeze", turns(0)), ("snapshot", turns(0)), ("restore", turns(1))] {
            let done = metrics.sum("lighter_state_hooks_total", &[("hook", hook), ("outcome", "done")]);
            assert_eq!(done, times, "{hook} at {}", place.name);
        }
        // What has changed follows, in as many rounds as it takes; where all waits for the last copy, there are none.
        let rounds = |role: usize| {
            (0..moves).filter(|turn| !stops(*turn) && (turn + role) % places.len() == at).count() as f64
        };
        for (hook, least) in [("changes", rounds(0)), ("patch", rounds(1))] {
            let done = metrics.sum("lighter_state_hooks_total", &[("hook", hook), ("outcome", "done")]);
            assert!(done >= least, "{hook} at {}: {done}", place.name);
        }
        assert_eq!(metrics.sum("lighter_state_refused_total", &[]), 0.0);
    }
    let counts = world.counts();
    assert_eq!(counts.sum("lighter_control_migrations_total", &[("outcome", "done")]), moves as f64);
    assert_eq!(counts.sum("lighter_control_state_losses_total", &[]), 0.0);
    assert!(stories(&world).iter().all(|story| story["outcome"] == "done"));
    for (how, mut blackouts) in ["with pre-copy", "stop-and-copy"].into_iter().zip(blackouts) {
        blackouts.sort();
        println!(
            "{} moves {how}: nobody was answered for {:?} at the median, {:?} at most",
            blackouts.len(),
            blackouts[blackouts.len() / 2],
            blackouts[blackouts.len() - 1]
        );
    }
    let [moving, steady] = record.slowest(&spans);
    let waited = most_waited(&web, places.iter().map(|place| &place.sidecar), ROOM);
    println!(
        "{asked} requests: 99 in a hundred took {moving:?} at most while it moved, {steady:?} otherwise; at once waited {waited} of \
         {ROOM} at most"
    );
    (world, places)
}

/// Whether in this turn all of the state is copied while nobody serves: beside the others, in the same run.
fn stops(turn: usize) -> bool {
    turn % 2 == 1
}

/// The component with one more module, whose function changes its table, and an instance of that.
fn with_a_table(component: Vec<u8>) -> Vec<u8> {
    let module = [
        &b"\0asm\x01\0\0\0"[..],
        &[1, 4, 1, 0x60, 0, 0],
        &[3, 2, 1, 0],
        &[4, 4, 1, 0x70, 0, 1],
        &[10, 10, 1, 8, 0, 0x41, 0, 0xd0, 0x70, 0x26, 0, 0x0b],
    ]
    .concat();
    // Behind the head each section says what it is and how long. Modules are counted from 0.
    let (mut rest, mut modules) = (&component[8..], 0);
    while let Some((id, behind)) = rest.split_first() {
        let digits = behind.iter().take_while(|byte| **byte >= 0x80).count() + 1;
        let length =
            behind[..digits].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
        modules += u8::from(*id == 1);
        rest = &behind[digits + length..];
    }
    [&component[..], &[1, module.len() as u8], &module, &[2, 4, 1, 0, modules, 0]].concat()
}

fn refused() {
    let world = World::new();
    world.apply(&shop("registers", SLOW));
    // One more module makes another program of it, of whose memory nobody can read all that lasts.
    let other = with_a_table(std::fs::read(component("registers")).unwrap());
    std::fs::write(world.path("other.wasm"), other).unwrap();
    let native = ", activation: planned, memoryBytes: 268435456, natives: [{name: served, exec: [sleep, '60'], memoryBytes: 1048576}]";
    let a = Place::start(&world, "a", "csd", &format!("LIMITS{native}"), "memoryBytes: 4194304");
    let twin = Place::start(&world, "twin", "gpu", "LIMITS", "memoryBytes: 4194304");
    let b = Place::with(&world, "b", "dpu", ("registers", &world.path("other.wasm"), "fresh"), "LIMITS", "");
    let c = Place::with(&world, "c", "host", ("registers", &world.path("other.wasm"), "kept"), "LIMITS", "");
    let (_web, door) = caller(&world);
    let mut peer = Peer::connect(door);
    put(&mut peer, "x", 7);
    let refuses = |to: &Place, why: &str| {
        // What is registered follows what the Service says within a moment.
        let mut said = String::new();
        wait_until(&format!("it is said why: {why}"), || {
            said = world.refused(&["migrate", "shop", "--from", &a.instance, "--to", &to.instance]);
            said.contains(why)
        });
        assert!(said.contains("not_movable: "), "{said}");
        assert!(a.serves() && !to.serves());
    };
    refuses(&b, "`registers` is another program at");
    refuses(&c, "`registers` keeps its memory, and the component changes a table (`table.set`)");
    world.apply(&shop("nobodys", SLOW));
    refuses(&twin, "the device has no function `nobodys`");
    world.apply(&shop("scan", SLOW));
    refuses(&twin, "`scan` is built in, and remembers nothing");
    world.apply(&shop("served", SLOW));
    refuses(&twin, "`served` is a program of its own");
    world.apply(&shop("registers", SLOW));
    wait_until("it moves to where the same program is", || {
        begin(&world, "well", &a, &twin);
        wait_until("it is over", || {
            stories(&world).iter().any(|story| story["name"] == "well" && !story["outcome"].is_null())
        });
        let is_done =
            stories(&world).iter().any(|story| story["name"] == "well" && story["outcome"] == "done");
        if !is_done {
            world.operator(&["delete", "migration", "well"]);
        }
        is_done
    });
    assert_eq!(held(&mut peer, "x"), 7);
    assert!(twin.serves());
}

/// However one asks, and whoever one is.
fn barred() {
    let world = World::new();
    world.apply(&shop("registers", SLOW));
    let a = Place::start(&world, "a", "csd", "LIMITS", "memoryBytes: 4194304");
    let (_web, door) = caller(&world);
    put(&mut Peer::connect(door), "x", 7);
    let keys = ["", "x-lighter-state-key: \r\n", &format!("x-lighter-state-key: {}\r\n", "0".repeat(64))];
    let paths = [
        "/~state/registers",
        "/%7Estate/registers",
        "/~state/registers/freeze",
        "/~state/registers/thaw",
        "/~state/nobody",
    ];
    // By its own sidecar, by a caller's, and past both.
    for at in [a.door, door, a.listens] {
        for path in paths {
            for method in ["GET", "PUT", "PATCH", "POST", "DELETE"] {
                for key in keys {
                    let (head, body) = Peer::connect(at).exchange(format!(
                        "{method} {path} HTTP/1.1\r\nHost: shop\r\n{key}Content-Length: 0\r\nConnection: close\r\n\r\n"
                    ));
                    assert!(matches!(head.status(), 404 | 405), "{method} {path}: {head:?} {body:?}");
                    assert!(
                        !head.fields.iter().any(|(name, _)| name == "x-lighter-state-version"),
                        "{head:?}"
                    );
                }
            }
        }
    }
    let mut peer = Peer::connect(door);
    assert_eq!(put(&mut peer, "x", 8), 7, "nobody has changed it, and nothing is frozen");
    assert_eq!(held(&mut peer, "x"), 8);
}

/// An instance of `shop` that is a device.
struct Place {
    name: &'static str,
    instance: String,
    sidecar: Sidecar,
    /// Where its sidecar takes requests, and where its functions are asked.
    door: SocketAddr,
    listens: SocketAddr,
}

impl Place {
    fn start(world: &World, name: &'static str, class: &str, more: &str, limits: &str) -> Self {
        Self::with(world, name, class, ("registers", &component("registers"), "fresh"), more, limits)
    }

    /// One with this component, whose memory is `fresh` or `kept`. `LIMITS` in `more` stands for its limits, to which `limits` are added.
    fn with(
        world: &World,
        name: &'static str,
        class: &str,
        (function, file, memory): (&str, &Path, &str),
        more: &str,
        limits: &str,
    ) -> Self {
        let before = instances(world);
        world.token(name, "shop");
        std::fs::write(world.path(&format!("{name}.jsonl")), name).unwrap();
        // Machine code of all tests: an unoptimized compiler takes seconds.
        let cache = concat!(env!("CARGO_TARGET_TMPDIR"), "/components");
        let (door, listens) = (free_address(), free_address());
        let more = more.replace("LIMITS", &format!("limits: {{runs: 64, {limits}}}"));
        let own = format!(
            "service: shop\nlink: '{}'\n{PATIENT}inbound: [{{listen: '{door}', app: '{listens}', port: 80}}]\n\
             device: {{class: {class}, listen: '{listens}', componentCache: {cache}, datasets: [{{name: where, version: '1', \
             path: {name}.jsonl, format: jsonl, tenant: keeper}}], components: [{{name: {function}, path: '{}', tenant: keeper, \
             memory: {memory}}}], \
             {more}}}\n",
            free_address(),
            file.display()
        );
        let sidecar = world.start(name, &own).ready();
        let mut new = None;
        wait_until("it is there", || {
            new = instances(world).into_iter().find(|instance| !before.contains(instance));
            new.is_some()
        });
        let place = Place { name, instance: new.unwrap(), sidecar, door, listens };
        wait_until("it is ready", || place.sidecar.metrics().sum("lighter_registry_ready", &[]) == 1.0);
        if before.is_empty() {
            wait_until("it serves", || place.serves());
        }
        place
    }

    /// Whether it has the state.
    fn serves(&self) -> bool {
        self.sidecar.metrics().sum("lighter_state_serving", &[]) == 1.0
    }
}

fn component(name: &str) -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/functions");
    folder.join(format!("{name}.wasm")).canonicalize().unwrap()
}

fn caller(world: &World) -> (Sidecar, SocketAddr) {
    let (web, door) = world.caller_with("web", "shop", PATIENT);
    wait_until("the one that serves is known", || web.endpoints() == 1);
    (web, door)
}

/// The Service, with more in its `state`.
fn shop(function: &str, more: &str) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: shop}}\nspec:\n  ports: [{{port: 80, targetPort: 8080, \
         appProtocol: http}}]\n  state: {{class: volatile, function: {function}{more}}}\n"
    )
}

/// Asks for a migration that may take its time.
fn begin(world: &World, name: &str, from: &Place, to: &Place) {
    begin_with(world, name, from, to, "");
}

/// The same with more in its `spec`.
fn begin_with(world: &World, name: &str, from: &Place, to: &Place, more: &str) {
    world.apply(&format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Migration\nmetadata: {{name: {name}}}\nspec: {{service: shop, \
         from: {{instance: {}}}, to: {{instance: {}}}, prepareTimeout: 60s, quiesceTimeout: 60s, switchTimeout: 60s, \
         drainTimeout: 60s{more}}}\n",
        from.instance, to.instance
    ));
}

fn put(peer: &mut Peer, register: &str, number: u64) -> u64 {
    ask(peer, &format!("{register}?put={number}")).unwrap().1
}

fn held(peer: &mut Peer, register: &str) -> u64 {
    ask(peer, register).unwrap().1
}

/// Asks for a register: the head, the number, and where that came from.
fn ask(peer: &mut Peer, register: &str) -> Result<(Head, u64, String), String> {
    let (head, body) = peer.exchange(format!("GET /registers/{register} HTTP/1.1\r\nHost: shop\r\n\r\n"));
    let text = match &body {
        Body::Whole(body) => String::from_utf8_lossy(body),
        Body::Cut(_) => return Err(format!("cut: {head:?}")),
    };
    match number_and_place(head.status(), &text) {
        Some((number, place)) => Ok((head, number, place)),
        None => Err(format!("{head:?} {text:?}")),
    }
}

fn number_and_place(status: u16, text: &str) -> Option<(u64, String)> {
    let (number, place) = text.trim().split_once(' ').filter(|_| status == 200)?;
    Some((number.parse().ok()?, place.to_owned()))
}

/// So many requests have room at a sidecar: one more than callers have under way.
const ROOM: usize = 16;
/// As long as a test may hold a request.
const SLOW: &str = ", timeout: 60s, park: {wait: 180s}";
/// Registers that nobody changes while they move.
const KEPT: u64 = 100;
