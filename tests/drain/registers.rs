//! An application that has registers in its memory and knows nothing of a mesh: HTTP/1.1, HTTP/2 and gRPC on one port, hooks by
//! which it gives its state and takes it, and what a test tells it and asks of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::support::metrics;
use crate::support::process::{Program, free_port};
use crate::support::raw::{Body, Peer};

/// The header by which its answers say who gave them.
pub const INSTANCE: &str = "x-instance";
/// The header with a request's number. No two that change something have the same one.
pub const NUMBER: &str = "x-number";

/// Plays the role that the first argument names, if it does, and gives the status to end with.
pub fn play() -> Option<i32> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (port, name, forgets) = match arguments[..] {
        ["@registers", port, name] => (port, name, None),
        ["@registers", port, name, forgets] => (port, name, Some(forgets.to_owned())),
        _ => return None,
    };
    let (memory, told) = Default::default();
    let registers = Registers { name: name.to_owned(), forgets, memory, told };
    serve(port.parse().unwrap(), &Arc::new(registers));
    Some(0)
}

/// One that runs.
pub struct App {
    pub name: String,
    pub address: SocketAddr,
    program: Program,
}

impl App {
    pub fn start(folder: &Path, name: &str) -> Self {
        Self::start_at(folder, name, free_port(), None)
    }

    /// One that loses the register `forgets` of whatever state it is given.
    pub fn forgetful(folder: &Path, name: &str, forgets: &str) -> Self {
        Self::start_at(folder, name, free_port(), Some(forgets))
    }

    fn start_at(folder: &Path, name: &str, port: u16, forgets: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["@registers", &port.to_string(), name]).args(forgets);
        let mut program = Program::start(command, folder);
        program.wait_until_it_says("listening");
        App { name: name.to_owned(), address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), program }
    }

    /// Tells it something: `hold/WHAT`, `go/WHAT`, `fail/WHAT`, `mend/WHAT` of a hook, of `stay` or of `well`; `filler/BYTES`;
    /// `slow/MILLISECONDS` that a request takes, streams apart.
    pub fn tell(&self, what: &str) {
        let (status, said) = metrics::ask(self.address, "POST", &format!("/test/{what}"));
        assert_eq!(status, 200, "{what}: {said}");
    }

    /// How often: a hook's name; `WHAT.waits`: so many are held now; `requests`; `loose`: snapshots of what was not frozen;
    /// `thawing`: requests that came while it was frozen.
    pub fn count(&self, what: &str) -> u64 {
        let (_, said) = metrics::ask(self.address, "GET", "/test/counts");
        let line = said.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// The numbers of the requests that changed something here, in their order.
    pub fn numbers(&self) -> Vec<u64> {
        let (_, said) = metrics::ask(self.address, "GET", "/test/numbers");
        said.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// What a register has.
    pub fn register(&self, name: &str) -> u64 {
        let (_, said) = metrics::ask(self.address, "GET", &format!("/test/register/{name}"));
        said.trim().parse().unwrap()
    }

    /// Ends it at once, with all that it has in its memory.
    pub fn kill(&mut self) {
        self.program.signal(Signal::KILL);
        self.program.wait();
    }

    /// Starts it again after that, with nothing, where it was.
    pub fn start_again(&mut self, folder: &Path) {
        *self = Self::start_at(folder, &self.name, self.address.port(), None);
    }
}

struct Registers {
    name: String,
    forgets: Option<String>,
    memory: Mutex<Memory>,
    told: Condvar,
}

#[derive(Default)]
struct Memory {
    /// The state: of this, and of what makes it long.
    registers: BTreeMap<String, u64>,
    filler: Vec<u8>,
    /// How often it has changed, and at which of these times each register did last.
    version: u64,
    versions: BTreeMap<String, u64>,
    is_frozen: bool,
    /// How long a request takes at least.
    takes: Duration,
    /// What is held, and what fails.
    held: BTreeSet<String>,
    failing: BTreeSet<String>,
    counts: BTreeMap<String, u64>,
    numbers: Vec<u64>,
}

/// A status, and a body.
type Answer = (u16, Vec<u8>);

impl Registers {
    fn answer(&self, method: &str, path: &str, number: Option<&str>, body: &[u8]) -> Answer {
        // What is asked for by a query is asked for by a path here.
        let path = path.replace("?since=", "/");
        let words: Vec<&str> = path.split('/').skip(1).collect();
        let text = std::str::from_utf8(body).map(str::trim);
        if words.first() == Some(&"r") {
            let takes = self.memory().takes;
            std::thread::sleep(takes);
        }
        match (method, &words[..]) {
            ("GET", ["r", name]) => self.request(None, |memory| *memory.register(name)),
            ("PUT", ["r", name]) => match text.map(str::parse) {
                Ok(Ok(value)) => {
                    self.request(number, |memory| std::mem::replace(memory.register(name), value))
                }
                _ => (400, b"no number".to_vec()),
            },
            ("POST", ["r", name, "add"]) => self.request(number, |memory| memory.add(name)),
            ("GET" | "POST", ["stay"]) => self.hook("stay", |_| Ok(b"stayed".to_vec())),
            ("GET", ["well"]) => self.hook("well", |_| Ok(b"well".to_vec())),
            ("GET", ["state"]) => self.hook("snapshot", |memory| {
                if !memory.is_frozen {
                    memory.count("loose");
                }
                Ok(memory.written())
            }),
            ("PUT", ["state"]) => self.hook("restore", |memory| memory.read(body, self.forgets.as_deref())),
            ("GET", ["changes", since]) => self.hook("changes", |memory| memory.since(since)),
            ("PATCH", ["state"]) => self.hook("patch", |memory| memory.patch(body)),
            ("POST", ["freeze"]) => self.hook("freeze", |memory| memory.freeze(true)),
            ("POST", ["thaw"]) => self.hook("thaw", |memory| memory.freeze(false)),
            (_, ["test", asked @ ..]) => self.asked(asked),
            _ => (404, b"there is nothing".to_vec()),
        }
    }

    /// A request that gives a number.
    fn request(&self, number: Option<&str>, what: impl FnOnce(&mut Memory) -> u64) -> Answer {
        let mut memory = self.memory();
        memory.count("requests");
        if memory.is_frozen {
            memory.count("thawing");
        }
        memory.numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        (200, what(&mut memory).to_string().into())
    }

    /// Something that can be held, and made to fail.
    fn hook(&self, name: &str, what: impl FnOnce(&mut Memory) -> Result<Vec<u8>, &'static str>) -> Answer {
        let mut memory = self.memory();
        memory.count(name);
        let waits = format!("{name}.waits");
        *memory.counts.entry(waits.clone()).or_default() += 1;
        memory = self.told.wait_while(memory, |memory| memory.held.contains(name)).unwrap();
        *memory.counts.entry(waits).or_default() -= 1;
        if memory.failing.contains(name) {
            // Of what has changed: that it is not known any more.
            let status = if name == "changes" { 410 } else { 500 };
            return (status, b"it was told to fail".to_vec());
        }
        match what(&mut memory) {
            Ok(body) => (200, body),
            Err(why) => (400, why.into()),
        }
    }

    /// What a test tells it and asks of it.
    fn asked(&self, words: &[&str]) -> Answer {
        let mut memory = self.memory();
        match *words {
            ["hold", what] => drop(memory.held.insert(what.to_owned())),
            ["go", what] => drop(memory.held.remove(what)),
            ["fail", what] => drop(memory.failing.insert(what.to_owned())),
            ["mend", what] => drop(memory.failing.remove(what)),
            ["filler", bytes] => {
                let mut random = fastrand::Rng::with_seed(1);
                memory.filler = (0..bytes.parse().unwrap()).map(|_| random.u8(..)).collect();
            }
            ["slow", millis] => memory.takes = Duration::from_millis(millis.parse().unwrap()),
            ["register", name] => return (200, memory.register(name).to_string().into()),
            ["counts"] => return (200, lines(&memory.counts).into()),
            ["numbers"] => {
                let lines: String = memory.numbers.iter().fold(String::new(), |mut lines, number| {
                    let _ = writeln!(lines, "{number}");
                    lines
                });
                return (200, lines.into());
            }
            _ => return (404, b"nobody knows what that is".to_vec()),
        }
        self.told.notify_all();
        (200, Vec::new())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }
}

impl Memory {
    /// A register, which may be changed.
    fn register(&mut self, name: &str) -> &mut u64 {
        self.version += 1;
        self.versions.insert(name.to_owned(), self.version);
        self.registers.entry(name.to_owned()).or_default()
    }

    fn add(&mut self, name: &str) -> u64 {
        *self.register(name) += 1;
        *self.register(name)
    }

    fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    fn freeze(&mut self, freezes: bool) -> Result<Vec<u8>, &'static str> {
        self.is_frozen = freezes;
        Ok(Vec::new())
    }

    /// All of the state: the registers, an empty line, and the rest.
    fn written(&self) -> Vec<u8> {
        let mut state = lines(&self.registers).into_bytes();
        state.push(b'\n');
        state.extend(&self.filler);
        state
    }

    /// The registers that have changed since: that is no part of what makes it long.
    fn since(&mut self, version: &str) -> Result<Vec<u8>, &'static str> {
        let since: u64 = version.parse().map_err(|_| "it is no number")?;
        let changed = |(name, _): &(&String, &u64)| self.versions.get(*name).is_some_and(|at| *at > since);
        let registers = self.registers.iter().filter(changed);
        Ok(lines(&registers.map(|(name, value)| (name.clone(), *value)).collect()).into_bytes())
    }

    /// Takes what has changed.
    fn patch(&mut self, changes: &[u8]) -> Result<Vec<u8>, &'static str> {
        let text = std::str::from_utf8(changes).map_err(|_| "it is no text")?;
        for line in text.lines() {
            let (name, value) = line.split_once(' ').ok_or("it has a line without a value")?;
            *self.register(name) = value.parse().map_err(|_| "a value is no number")?;
        }
        self.is_frozen = false;
        Ok(Vec::new())
    }

    /// Takes a state in the place of what is there.
    fn read(&mut self, state: &[u8], forgets: Option<&str>) -> Result<Vec<u8>, &'static str> {
        let mut registers = BTreeMap::new();
        let mut rest = state;
        loop {
            let end = rest.iter().position(|byte| *byte == b'\n').ok_or("it ends too early")?;
            let line = std::str::from_utf8(&rest[..end]).map_err(|_| "it is no text")?;
            rest = &rest[end + 1..];
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(' ').ok_or("it has a line without a value")?;
            registers.insert(name.to_owned(), value.parse().map_err(|_| "a value is no number")?);
        }
        if let Some(forgets) = forgets {
            registers.remove(forgets);
        }
        (self.registers, self.filler, self.is_frozen) = (registers, rest.to_vec(), false);
        self.versions.clear();
        Ok(Vec::new())
    }
}

fn lines(of: &BTreeMap<String, u64>) -> String {
    of.iter().fold(String::new(), |mut lines, (name, value)| {
        let _ = writeln!(lines, "{name} {value}");
        lines
    })
}

fn serve(port: u16, registers: &Arc<Registers>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.unwrap();
        println!("listening");
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            tokio::task::spawn_local(connection(tcp, registers.clone()));
        }
    });
}

async fn connection(tcp: TcpStream, registers: Arc<Registers>) {
    let mut first = [0; 3];
    while let Ok(1..3) = tcp.peek(&mut first).await {
        tokio::task::yield_now().await;
    }
    if &first != b"PRI" {
        let tcp = tcp.into_std().unwrap();
        tcp.set_nonblocking(false).unwrap();
        std::thread::spawn(move || http1(Peer::idle(tcp), &registers));
        return;
    }
    let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::task::spawn_local(http2(request, respond, registers.clone()));
    }
}

fn http1(mut peer: Peer, registers: &Registers) {
    while let Some(head) = peer.head() {
        let Body::Whole(body) = peer.body(&head) else { return };
        let method = head.line.split(' ').next().unwrap_or_default();
        // What changes from here on may be given twice.
        let version = registers.memory().version;
        let (status, body) = registers.answer(method, head.target(), head.get(NUMBER), &body);
        let head = format!(
            "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n{INSTANCE}: {}\r\nx-lighter-state-version: {version}\r\n\r\n",
            body.len(),
            registers.name
        );
        if !peer.try_send(head) || !peer.try_send(body) {
            return;
        }
    }
}

async fn http2(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, registers: Arc<Registers>) {
    let (head, mut body) = request.into_parts();
    if head.headers.get("content-type").is_some_and(|kind| kind == "application/grpc") {
        if head.uri.path() == STAY {
            let registers = registers.clone();
            let stays = tokio::task::spawn_blocking(move || registers.answer("POST", "/stay", None, b""));
            stays.await.unwrap();
        }
        return grpc(body, respond, &registers).await;
    }
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return };
        let _ = body.flow_control().release_capacity(data.len());
        whole.extend(data);
    }
    let name = registers.name.clone();
    // It may be held.
    let answer = tokio::task::spawn_blocking(move || {
        let number = head.headers.get(NUMBER).and_then(|number| number.to_str().ok());
        registers.answer(head.method.as_str(), head.uri.path(), number, &whole)
    });
    let (status, body) = answer.await.unwrap();
    let head = Response::builder().status(status).header(INSTANCE, name).body(()).unwrap();
    if let Ok(mut stream) = respond.send_response(head, false) {
        let _ = stream.send_data(body.into(), true);
    }
}

/// Each message adds one to the register `streamed`, and is answered with what it has then.
async fn grpc(mut body: RecvStream, mut respond: SendResponse<Bytes>, registers: &Registers) {
    let head = Response::builder().header("content-type", "application/grpc");
    let head = head.header(INSTANCE, &registers.name).body(()).unwrap();
    let Ok(mut answer) = respond.send_response(head, false) else { return };
    let mut unread = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        unread.extend(data);
        while unread.len() >= MESSAGE {
            unread.drain(..MESSAGE);
            let (_, said) = registers.request(None, |memory| memory.add("streamed"));
            let mut message = vec![0, 0, 0, 0, said.len() as u8];
            message.extend(said);
            if answer.send_data(message.into(), false).is_err() {
                return;
            }
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let _ = answer.send_trailers(trailers);
}

/// The method that begins to answer only once it is no longer held.
const STAY: &str = "/registers.Registers/Stay";

/// How long a message is: its head, and one byte.
const MESSAGE: usize = 6;
