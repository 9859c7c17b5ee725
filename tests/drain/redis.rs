//! Redis behind sidecars: its clients keep their connections where the server leaves, and where the service moves with its state.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::migrate::{PATIENT, instances, is_done, is_in, story};
use crate::support::process::{Program, find, free_address, free_port, listens};
use crate::support::{PATIENCE, full, test_where, wait_until};
use crate::world::{Sidecar, World};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("redis::a_session_goes_on_where_its_server_leaves", leaves),
        test_where("redis::clients_keep_their_connections_while_redis_moves", moves),
        test_where("redis::a_transaction_is_waited_for_or_nothing_moves", transaction),
    ]
}

/// With a password, which its client has said once.
fn leaves() -> Result<(), String> {
    let locked = |name| Server::start_with(name, free_port(), &LOCKED);
    let (a, mut b) = (locked("a")?, locked("b")?);
    let world = World::new();
    world.apply(&cache(a.address));
    let (web, door) = world.caller_with("web", "shop", PATIENT);
    wait_until("it is known", || web.endpoints() == 1);
    let (mut client, mut listener) = (Client::connect(door), Client::connect(door));
    assert!(client.ask("GET k").starts_with("NOAUTH"));
    assert!(client.ask("AUTH wrong").starts_with("WRONGPASS"));
    for client in [&mut client, &mut listener] {
        assert_eq!(client.ask(AUTH), "OK");
    }
    assert_eq!(client.ask("SELECT 3"), "OK");
    assert_eq!(client.ask("CLIENT SETNAME me"), "OK");
    assert_eq!(client.ask("INCR k"), "1");
    assert_eq!(listener.ask("SUBSCRIBE news"), "subscribe news 1");
    let large = "x".repeat(1 << 20);
    assert_eq!(client.ask(&format!("SET large {large}")), "OK");
    assert!(client.ask("GET large") == large);

    world.apply(&cache(b.address));
    let redis =
        |what: &str, labels: &[(&str, &str)]| web.metrics().sum(&format!("lighter_redis_{what}"), labels);
    // Who listens says nothing, and is there by itself.
    wait_until("the one who listens is there", || {
        redis("reattachments_total", &[("outcome", "done")]) >= 1.0
    });
    assert_eq!(client.ask("INCR k"), "1", "another server, which has nothing");
    assert_eq!(client.ask("CLIENT GETNAME"), "me");
    assert_eq!(redis("replayed_commands_total", &[]), 5.0, "AUTH of both, SELECT, SETNAME and SUBSCRIBE");
    let mut beside = Client::connect(b.address);
    assert_eq!(beside.ask(AUTH), "OK");
    assert_eq!(beside.ask("PUBLISH news here"), "1");
    assert_eq!(listener.hear(), "message news here");
    let said = Command::new(find("redis-cli")?)
        .args(["-p", &door.port().to_string(), "-n", "3", "GET", "k"])
        .env("REDISCLI_AUTH", PASSWORD)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "1", "{said:?}");

    // The server closes what rests.
    assert!(beside.ask("CLIENT KILL TYPE normal SKIPME yes").parse::<u32>().unwrap() > 0);
    assert_eq!(client.ask("INCR k"), "2");
    assert_eq!(client.ask("CLIENT GETNAME"), "me");
    assert_eq!(redis("outcomes_unknown_total", &[]), 0.0);

    // What it was doing when it died is not known, and the connection goes on.
    client.say("BLPOP nothing 0");
    wait_until("it waits there", || redis("pinned", &[("cause", "blocking")]) == 1.0);
    b.program.signal(Signal::KILL);
    b.program.wait();
    assert!(client.hear().starts_with("ERR lighter: outcome unknown"));
    assert_eq!(redis("outcomes_unknown_total", &[]), 1.0);
    assert_eq!(redis("pinned", &[]), 0.0);
    let b = Server::start_with("b", b.address.port(), &LOCKED)?;
    assert_eq!(client.ask("INCR k"), "1");
    assert_eq!(client.ask("CLIENT GETNAME"), "me");

    let mut wrong = TcpStream::connect(door).unwrap();
    let said = format!("*2\r\n$4\r\nAUTH\r\n${}\r\n{PASSWORD}\r\n*1\r\n$4\r\nPING\r\n*x\r\n", PASSWORD.len());
    wrong.write_all(said.as_bytes()).unwrap();
    let mut heard = String::new();
    wrong.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "+OK\r\n+PONG\r\n-ERR Protocol error: invalid length\r\n");
    assert_eq!(redis("malformed_total", &[("by", "client")]), 1.0);
    drop((a, b));
    Ok(())
}

fn moves() -> Result<(), String> {
    let moves = if full() { 51 } else { 5 };
    let world = World::new();
    world.apply(&shop());
    let places = Place::both(&world, Server::start("a")?)?;
    let (web, door) = world.caller_with("web", "shop", PATIENT);
    wait_until("the one that serves is known", || web.endpoints() == 1);
    // The second one has no sidecar of its own, and goes where the state is first.
    let mut listeners = [Client::connect(door), Client::connect(places[0].door())];
    for listener in &mut listeners {
        assert_eq!(listener.ask("SUBSCRIBE news"), "subscribe news 1");
    }
    let mut loops: Vec<Loop> = (0..3).map(|_| Loop::start(door, None)).collect();
    loops.push(Loop::start(door, Some("me")));
    loops.push(Loop::start(places[0].door(), None));
    let more = |loops: &[Loop], count: usize| {
        let had: Vec<usize> = loops.iter().map(Loop::done).collect();
        for (one, had) in loops.iter().zip(had) {
            wait_until("everybody is answered", || one.done() >= had + count);
        }
    };
    more(&loops, 50);
    let mut pins = [0; Stay::ALL.len()];
    for turn in 0..moves {
        let [from, to] = [&places[turn % 2], &places[(turn + 1) % 2]];
        let name = format!("turn-{turn}");
        // From time to time with somebody who cannot go elsewhere as it is: that is waited for.
        let stay = Stay::of(turn);
        let stays = stay.map(|stay| {
            pins[stay as usize] += 1;
            (stay, stay.begin(door, from))
        });
        let parks = || from.sidecar.program.said().matches("phase=\"parking\"").count();
        let before = parks();
        begin(&world, &name, from, to, "60s");
        let free = stays.map(|(stay, client)| {
            wait_until("its sidecar has heard of it", || parks() > before);
            is_in(&world, "quiesce");
            assert_eq!(stay.pinned(from), 1.0, "{stay:?}");
            assert!(!to.serves());
            stay.end(client, from)
        });
        is_done(&world, &name);
        wait_until("the new one serves", || to.serves() && !from.serves());
        if let Some(mut client) = free {
            assert_eq!(client.ask("PING"), "PONG", "and then it comes along");
        }
        more(&loops, 30);
    }
    let there = &places[moves % 2];
    let mut publisher = Client::connect(door);
    wait_until("those who listen have come along", || publisher.ask("PUBLISH news x") == "2");
    for mut listener in listeners {
        assert_eq!(listener.hear(), "message news x");
    }
    let (named, others): (Vec<Loop>, Vec<Loop>) = loops.into_iter().partition(|one| one.is_named);
    let named: Vec<Added> = named.into_iter().flat_map(Loop::end).collect();
    let others: Vec<Added> = others.into_iter().flat_map(Loop::end).collect();
    assert_eq!(publisher.ask("GET count"), others.len().to_string());
    assert_eq!(publisher.ask("SELECT 3"), "OK");
    assert_eq!(publisher.ask("GET count"), named.len().to_string());
    is_linearizable(&named);
    is_linearizable(&others);
    // Each was done once, at one of the two.
    let done: u64 = places.iter().map(|place| place.server.calls("incr")).sum();
    assert_eq!(done, (named.len() + others.len()) as u64);
    assert_eq!(there.server.dataset("count"), others.len().to_string());

    let redis = |sidecar: &Sidecar, what: &str| sidecar.metrics().sum(&format!("lighter_redis_{what}"), &[]);
    let [a, b] = &places;
    for sidecar in [&web, &a.sidecar, &b.sidecar] {
        for nothing in ["commands_refused_total", "outcomes_unknown_total", "malformed_total", "pinned"] {
            assert_eq!(redis(sidecar, nothing), 0.0, "{nothing}");
        }
        let failed = sidecar.metrics().sum("lighter_redis_reattachments_total", &[("outcome", "done")]);
        assert_eq!(failed, redis(sidecar, "reattachments_total"), "each found its way");
    }
    assert!(redis(&web, "reattachments_total") >= moves as f64, "whoever calls goes along");
    assert!(redis(&web, "replayed_commands_total") >= (3 * moves) as f64, "AUTH, SELECT and SETNAME");
    for stay in Stay::ALL {
        let count = |of: &Sidecar| of.metrics().sum("lighter_redis_pinned_total", &[("cause", stay.label())]);
        let expected = pins[stay as usize];
        assert!(expected > 0, "{stay:?}");
        assert_eq!(
            [count(&web), count(&a.sidecar) + count(&b.sidecar)],
            [f64::from(expected); 2],
            "{stay:?}"
        );
    }
    let all: f64 = [&web, &a.sidecar, &b.sidecar].map(|of| redis(of, "pinned_total")).iter().sum();
    assert_eq!(all, f64::from(2 * pins.iter().sum::<u32>()), "nobody else ever stayed");
    assert!(redis(&a.sidecar, "reattachments_total") > 0.0, "whoever has no sidecar is sent on");
    let asked = redis(&web, "commands_total") + redis(&web, "replayed_commands_total");
    let came = redis(&a.sidecar, "commands_total") + redis(&b.sidecar, "commands_total");
    assert!(came >= asked, "what callers asked came in: {asked} of {came}");
    println!(
        "{moves} moves, {} commands that add: {} times a session went on elsewhere at the caller's sidecar, {} at the places'; \
         waited for were {pins:?} in a transaction, with a WATCH and in BLPOP",
        done,
        redis(&web, "reattachments_total"),
        redis(&a.sidecar, "reattachments_total") + redis(&b.sidecar, "reattachments_total")
    );
    Ok(())
}

fn transaction() -> Result<(), String> {
    let world = World::new();
    world.apply(&shop());
    let [a, b] = Place::both(&world, Server::start_without_folder("a")?)?;
    let (web, door) = world.caller_with("web", "shop", PATIENT);
    wait_until("the one that serves is known", || web.endpoints() == 1);
    let mut client = Client::connect(door);
    let pinned =
        |place: &Place| place.sidecar.metrics().sum("lighter_redis_pinned", &[("cause", "transaction")]);
    assert_eq!(client.ask("MULTI"), "OK");
    assert_eq!(client.ask("INCR count"), "QUEUED");
    assert_eq!(pinned(&a), 1.0);
    begin(&world, "impatient", &a, &b, "300ms");
    wait_until("it is given up", || story(&world, "impatient")["outcome"] == "aborted");
    assert!(a.serves() && !b.serves());
    begin(&world, "patient", &a, &b, "60s");
    is_in(&world, "quiesce");
    let parks = || a.sidecar.program.said().matches("phase=\"parking\"").count() == 2;
    wait_until("its sidecar has heard of it", parks);
    // It waits like everything that is new.
    let mut other = Client::connect(door);
    other.say("INCR count");
    assert_eq!(client.ask("INCR count"), "QUEUED", "what is inside goes on");
    assert_eq!(client.ask("EXEC"), "1 2");
    is_done(&world, "patient");
    assert_eq!(other.hear(), "3");
    assert_eq!(client.ask("GET count"), "3");
    assert!(b.serves() && !a.serves());
    assert_eq!((pinned(&a), pinned(&b)), (0.0, 0.0));
    let total = a.sidecar.metrics().sum("lighter_redis_pinned_total", &[("cause", "transaction")]);
    assert_eq!(total, 1.0);
    Ok(())
}

/// A server of Redis, which writes nothing down.
struct Server {
    address: SocketAddr,
    program: Program,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start(name: &str) -> Result<Self, String> {
        Self::start_at(name, free_port())
    }

    /// One that has nowhere to write a file: it gives its state in one stream.
    fn start_without_folder(name: &str) -> Result<Self, String> {
        Self::start_with(name, free_port(), &["--dir", "/proc", "--repl-diskless-sync-delay", "0"])
    }

    fn start_at(name: &str, port: u16) -> Result<Self, String> {
        Self::start_with(name, port, &[])
    }

    fn start_with(name: &str, port: u16, more: &[&str]) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix(&format!("lighter-redis-{name}-")).tempdir().unwrap();
        let mut command = Command::new(find("redis-server")?);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
        command.arg(folder.path()).args(USER).args(more);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut program = Program::start(command, Path::new(folder.path()));
        program.wait_until("it listens", || listens(address));
        Ok(Server { address, program, _folder: folder })
    }

    /// How often a command was called here.
    fn calls(&self, command: &str) -> u64 {
        let said = Client::connect(self.address).ask("INFO commandstats");
        let begins = format!("cmdstat_{command}:calls=");
        let line = said.lines().find_map(|line| line.strip_prefix(&begins));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    /// A value that it has.
    fn dataset(&self, key: &str) -> String {
        Client::connect(self.address).ask(&format!("GET {key}"))
    }
}

/// A client that knows nothing of a mesh.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(door: SocketAddr) -> Self {
        let stream = TcpStream::connect(door).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// Says these words as a command.
    fn say(&mut self, words: &str) {
        let words: Vec<&str> = words.split(' ').collect();
        let mut said = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| said += &format!("${}\r\n{word}\r\n", word.len()));
        self.stream.get_mut().write_all(said.as_bytes()).unwrap();
    }

    /// The next thing that is said to it.
    fn hear(&mut self) -> String {
        self.try_hear().expect("the connection stays")
    }

    fn try_hear(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at(1);
        match (kind, rest) {
            ("+" | "-" | ":", _) => Ok(rest.to_owned()),
            ("$" | "*", "-1") => Ok("nothing".to_owned()),
            ("$", length) => {
                let mut bytes = vec![0; length.parse::<usize>().unwrap() + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Ok(String::from_utf8(bytes).unwrap())
            }
            ("*", count) => {
                let each = (0..count.parse().unwrap()).map(|_| self.try_hear());
                Ok(each.collect::<std::io::Result<Vec<String>>>()?.join(" "))
            }
            _ => panic!("{line}"),
        }
    }

    fn ask(&mut self, words: &str) -> String {
        self.say(words);
        self.hear()
    }
}

/// Something that was added to a number, what it came to, and when it was asked for and answered.
#[derive(Clone, Copy)]
struct Added {
    value: usize,
    began: Instant,
    ended: Instant,
}

/// A client that never pauses.
struct Loop {
    over: Arc<AtomicBool>,
    added: Arc<Mutex<Vec<Added>>>,
    thread: JoinHandle<()>,
    is_named: bool,
}

impl Loop {
    /// Adds to `count`. One that is named does so in a database of its own, and has said who it is.
    fn start(door: SocketAddr, name: Option<&'static str>) -> Self {
        let (over, added) = (Arc::new(AtomicBool::default()), Arc::new(Mutex::new(Vec::new())));
        let (is_over, adds) = (over.clone(), added.clone());
        let thread = std::thread::spawn(move || {
            let mut client = Client::connect(door);
            if let Some(name) = name {
                assert_eq!(client.ask(&format!("AUTH {NAME} {PASSWORD}")), "OK");
                assert_eq!(client.ask("SELECT 3"), "OK");
                assert_eq!(client.ask(&format!("CLIENT SETNAME {name}")), "OK");
            }
            while !is_over.load(Relaxed) {
                let began = Instant::now();
                let said = client.ask("INCR count");
                let value = said.parse().unwrap_or_else(|_| panic!("not answered: {said}"));
                adds.lock().unwrap().push(Added { value, began, ended: Instant::now() });
                if let Some(name) = name {
                    assert_eq!(client.ask("CLIENT GETNAME"), name);
                    assert_eq!(client.ask("ACL WHOAMI"), NAME);
                }
            }
        });
        Loop { over, added, thread, is_named: name.is_some() }
    }

    fn done(&self) -> usize {
        assert!(!self.thread.is_finished(), "no client ends by itself");
        self.added.lock().unwrap().len()
    }

    fn end(self) -> Vec<Added> {
        self.over.store(true, Relaxed);
        self.thread.join().unwrap();
        Arc::into_inner(self.added).unwrap().into_inner().unwrap()
    }
}

/// What a session has begun that ties it to its server.
#[derive(Clone, Copy, Debug)]
enum Stay {
    Transaction,
    Watch,
    Blocking,
}

impl Stay {
    const ALL: [Stay; 3] = [Stay::Transaction, Stay::Watch, Stay::Blocking];

    /// What somebody does as the service moves for this time.
    fn of(turn: usize) -> Option<Self> {
        Stay::ALL.get((turn % 5).checked_sub(1)?).copied()
    }

    fn label(self) -> &'static str {
        match self {
            Stay::Transaction => "transaction",
            Stay::Watch => "watch",
            Stay::Blocking => "blocking",
        }
    }

    /// How many sessions stay at `place` for this.
    fn pinned(self, place: &Place) -> f64 {
        place.sidecar.metrics().sum("lighter_redis_pinned", &[("cause", self.label())])
    }

    /// Somebody begins this.
    fn begin(self, door: SocketAddr, at: &Place) -> Client {
        let mut client = Client::connect(door);
        match self {
            Stay::Transaction => {
                assert_eq!(client.ask("MULTI"), "OK");
                assert_eq!(client.ask("SET kept x"), "QUEUED");
            }
            Stay::Watch => assert_eq!(client.ask("WATCH kept"), "OK"),
            Stay::Blocking => client.say("BLPOP queue 0"),
        }
        wait_until("it is where it stays", || self.pinned(at) == 1.0);
        client
    }

    /// It ends. For what is new that would have to come over the sidecar it would wait in vain.
    fn end(self, mut client: Client, at: &Place) -> Client {
        match self {
            Stay::Transaction => assert_eq!(client.ask("EXEC"), "OK"),
            Stay::Watch => assert_eq!(client.ask("UNWATCH"), "OK"),
            Stay::Blocking => {
                assert_eq!(Client::connect(at.server.address).ask("RPUSH queue x"), "1");
                assert_eq!(client.hear(), "queue x");
            }
        }
        client
    }
}

/// Each number came once, and none that was asked for after another was answered is lower.
fn is_linearizable(all: &[Added]) {
    let mut values: Vec<usize> = all.iter().map(|added| added.value).collect();
    values.sort_unstable();
    assert!(values.iter().copied().eq(1..=all.len()), "each was counted once");
    let mut by_value = all.to_vec();
    by_value.sort_by_key(|added| added.value);
    let mut latest = by_value[0].began;
    for added in by_value {
        assert!(added.ended >= latest, "{} was answered before a lower one was asked for", added.value);
        latest = latest.max(added.began);
    }
}

/// An instance of `shop`.
struct Place {
    instance: String,
    sidecar: Sidecar,
    server: Server,
}

impl Place {
    /// Two of them, before `a` and another one: the first one serves.
    fn both(world: &World, a: Server) -> Result<[Self; 2], String> {
        let a = Place::before(world, "a", a);
        wait_until("the first one serves", || a.serves());
        let b = Place::before(world, "b", Server::start("b")?);
        wait_until("the second one is ready", || {
            b.sidecar.metrics().sum("lighter_registry_ready", &[]) == 1.0
        });
        Ok([a, b])
    }

    fn before(world: &World, name: &str, server: Server) -> Self {
        let before = instances(world);
        let more = format!("{PATIENT}link: '{}'\n", free_address());
        let sidecar = world.instance("shop", &format!("shop-{name}"), server.address, &more).ready();
        let mut new = None;
        wait_until("it is there", || {
            new = instances(world).into_iter().find(|instance| !before.contains(instance));
            new.is_some()
        });
        Place { instance: new.unwrap(), sidecar, server }
    }

    /// Where its sidecar takes connections.
    fn door(&self) -> SocketAddr {
        let file = std::fs::read_to_string(&self.sidecar.file).unwrap();
        let at = file.split_once("listen: '").and_then(|(_, rest)| rest.split_once('\''));
        at.expect("a listener").0.parse().unwrap()
    }

    fn serves(&self) -> bool {
        self.sidecar.metrics().sum("lighter_state_serving", &[]) == 1.0
    }
}

/// A Service without state at this endpoint.
fn cache(at: SocketAddr) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: shop}}\nspec:\n  ports: [{{port: 80, appProtocol: redis}}]\n  \
         endpoints: [{{address: {}, port: {}}}]\n",
        at.ip(),
        at.port()
    )
}

/// The Service whose state is that of Redis.
fn shop() -> String {
    "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {name: shop}\nspec:\n  ports: [{port: 80, targetPort: 6379, \
     appProtocol: redis}]\n  state: {class: volatile, redis: {}, timeout: 60s, park: {wait: 180s}}\n"
        .to_owned()
}

/// Asks for a migration that may take its time, but for what runs at the old place.
fn begin(world: &World, name: &str, from: &Place, to: &Place, quiesce: &str) {
    world.apply(&format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Migration\nmetadata: {{name: {name}}}\nspec: {{service: shop, \
         from: {{instance: {}}}, to: {{instance: {}}}, prepareTimeout: 60s, quiesceTimeout: {quiesce}, switchTimeout: 60s, \
         drainTimeout: 60s}}\n",
        from.instance, to.instance
    ));
}

/// Whom every server knows by a password, beside whoever says nothing.
const NAME: &str = "app";
const PASSWORD: &str = "secret";
const USER: [&str; 7] = ["--user", NAME, "on", ">secret", "~*", "&*", "+@all"];

/// A server that asks everybody for it.
const LOCKED: [&str; 2] = ["--requirepass", PASSWORD];
const AUTH: &str = "AUTH secret";
