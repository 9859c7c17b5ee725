//! HTTP/1.1: an upstream that answers at once, and generators that never pipeline.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::epoll::{Poller, connect};
use crate::measure::Load;

const SMALL: usize = 128;
const LARGE: usize = 64 * 1024;

/// Answers `GET /small` and `GET /large` on a thread of its own; says on which port.
pub fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || serve(&listener));
    port
}

/// Sends the next request on each of `connections` as soon as it has its answer, for as long as `time`.
pub fn closed_loop(port: u16, path: &str, connections: usize, time: Duration) -> Load {
    let mut generator = Generator::new(port, path, connections);
    let start = Instant::now();
    for at in 0..connections {
        generator.send(at, Instant::now());
    }
    while start.elapsed() < time {
        for at in generator.finished(Duration::from_millis(100)) {
            generator.send(at, Instant::now());
        }
    }
    generator.answers(start).load()
}

/// Sends `rate` requests a second, whatever the answers do. Latency counts from when a request was due.
pub fn fixed_rate(port: u16, path: &str, connections: usize, rate: u32, time: Duration) -> Load {
    paced(port, path, connections, rate, time).load()
}

/// The same, for whoever wants to know of some of the requests only.
pub fn paced(port: u16, path: &str, connections: usize, rate: u32, time: Duration) -> Answers {
    let mut generator = Generator::new(port, path, connections);
    let start = Instant::now();
    let pace = Duration::from_secs(1) / rate;
    let mut due = start + pace;
    // First in, first out, so that every connection is used and rests alike.
    let mut resting: std::collections::VecDeque<usize> = (0..connections).collect();
    while start.elapsed() < time {
        let now = Instant::now();
        while due <= now {
            let Some(at) = resting.pop_front() else { break };
            generator.send(at, due);
            due += pace;
        }
        let wait = due.saturating_duration_since(Instant::now());
        resting.extend(generator.finished(wait));
    }
    generator.answers(start)
}

/// Opens `count` connections, each of which asks once and then rests.
pub fn idle(port: u16, count: usize) -> Vec<TcpStream> {
    let mut answer = vec![0; 4096];
    let request = request(port, "/small");
    let open = |_| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("one more connection");
        stream.write_all(&request).unwrap();
        let mut got = 0;
        while !whole(&answer[..got]) {
            match stream.read(&mut answer[got..]).unwrap() {
                0 => panic!("an idle connection was closed before its answer"),
                some => got += some,
            }
        }
        stream
    };
    (0..count).map(open).collect()
}

/// One request with its answer; whether it was a 200.
pub fn probe(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(&request(port, "/small"))?;
        let mut answer = [0; 1024];
        let got = stream.read(&mut answer)?;
        Ok(answer[..got].starts_with(b"HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

/// What was answered.
pub struct Answers {
    /// When each request was due, and how many nanoseconds later it was answered.
    all: Vec<(Instant, u32)>,
    time: Duration,
}

impl Answers {
    fn load(self) -> Load {
        let units = self.all.len() as f64;
        Load { units, time: self.time, latencies: self.all.into_iter().map(|(_, nanos)| nanos).collect() }
    }

    /// The latencies, in nanoseconds, of those that were due within a time.
    pub fn due(&self, within: Range<Instant>) -> Vec<u32> {
        self.all.iter().filter(|(due, _)| within.contains(due)).map(|(_, nanos)| *nanos).collect()
    }
}

struct Generator {
    poller: Poller,
    connections: Vec<Client>,
    request: Vec<u8>,
    answered: Vec<(Instant, u32)>,
    buffer: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    sent: Option<Instant>,
    head: Vec<u8>,
    /// Bytes of the body that are still to come, once the head is read.
    rest: Option<usize>,
}

impl Generator {
    fn new(port: u16, path: &str, connections: usize) -> Self {
        let poller = Poller::new();
        let connections = (0..connections)
            .map(|at| {
                let stream = connect(port).expect("the proxy accepts connections");
                poller.add(&stream, at as u64);
                Client { stream, sent: None, head: Vec::with_capacity(1024), rest: None }
            })
            .collect();
        let request = request(port, path);
        Generator { poller, connections, request, answered: Vec::new(), buffer: vec![0; 256 * 1024] }
    }

    fn send(&mut self, at: usize, due: Instant) {
        let client = &mut self.connections[at];
        client.sent = Some(due);
        client.head.clear();
        client.rest = None;
        let sent = client.stream.write(&self.request).expect("the proxy takes a request");
        assert_eq!(sent, self.request.len(), "a request fits into an empty socket buffer");
    }

    /// The connections that now have their whole answer.
    fn finished(&mut self, wait: Duration) -> Vec<usize> {
        let mut done = Vec::new();
        for token in self.poller.wait(wait) {
            let at = token as usize;
            let client = &mut self.connections[at];
            let Some(sent) = client.sent else { continue };
            if client.read(&mut self.buffer) {
                client.sent = None;
                self.answered.push((sent, sent.elapsed().as_nanos().min(u32::MAX.into()) as u32));
                done.push(at);
            }
        }
        done
    }

    fn answers(self, start: Instant) -> Answers {
        Answers { all: self.answered, time: start.elapsed() }
    }
}

impl Client {
    /// Reads what is there; whether the answer is whole.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            let got = match self.stream.read(buffer) {
                Ok(0) => panic!("the proxy closed a connection under load"),
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => panic!("the proxy broke a connection under load: {error}"),
            };
            let rest = match self.rest {
                Some(rest) => rest.checked_sub(got).expect("no more than the promised body"),
                None => {
                    self.head.extend_from_slice(&buffer[..got]);
                    let Some((head, body)) = lengths(&self.head) else { continue };
                    assert!(self.head.starts_with(b"HTTP/1.1 200"), "an answer under load is a 200");
                    (head + body).checked_sub(self.head.len()).expect("no more than the promised body")
                }
            };
            self.rest = Some(rest);
            if rest == 0 {
                return true;
            }
        }
    }
}

fn request(port: u16, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nuser-agent: peers/1\r\naccept: */*\r\n\r\n")
        .into()
}

fn whole(answer: &[u8]) -> bool {
    lengths(answer).is_some_and(|(head, body)| answer.len() == head + body)
}

/// The lengths of head and body, once the head is whole.
fn lengths(answer: &[u8]) -> Option<(usize, usize)> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&answer[..head]).expect("an answer's head is ASCII");
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
    });
    Some((head, length.expect("every answer has a Content-Length")))
}

fn serve(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let mut poller = Poller::new();
    poller.add(listener, u64::MAX);
    let answers = [answer(SMALL), answer(LARGE)];
    let mut connections = Vec::<Option<Served>>::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let ready: Vec<u64> = poller.wait(Duration::from_secs(3600)).collect();
        for token in ready {
            if token != u64::MAX {
                let slot = &mut connections[token as usize];
                if slot.as_mut().is_some_and(|served| !served.turn(&mut buffer, &answers)) {
                    *slot = None;
                }
                continue;
            }
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                stream.set_nodelay(true).unwrap();
                let at = connections.iter().position(Option::is_none).unwrap_or(connections.len());
                poller.add(&stream, at as u64);
                let served = Served { stream, head: Vec::with_capacity(1024), unsent: None };
                if at == connections.len() {
                    connections.push(Some(served))
                } else {
                    connections[at] = Some(served)
                }
            }
        }
    }
}

fn answer(length: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nserver: peers\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + length, b'x');
    answer
}

/// A connection of the upstream.
struct Served {
    stream: TcpStream,
    head: Vec<u8>,
    /// Which answer, and how much of it is sent.
    unsent: Option<(usize, usize)>,
}

impl Served {
    /// Reads and writes as far as it goes; whether the connection lives.
    fn turn(&mut self, buffer: &mut [u8], answers: &[Vec<u8>; 2]) -> bool {
        loop {
            if let Some((which, sent)) = self.unsent {
                match self.stream.write(&answers[which][sent..]) {
                    Ok(more) if sent + more == answers[which].len() => self.unsent = None,
                    Ok(more) => self.unsent = Some((which, sent + more)),
                    Err(error) => return error.kind() == ErrorKind::WouldBlock,
                }
                continue;
            }
            match self.stream.read(buffer) {
                Ok(0) => return false,
                Ok(got) => self.head.extend_from_slice(&buffer[..got]),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
            if self.head.ends_with(b"\r\n\r\n") {
                self.unsent = Some((usize::from(self.head.starts_with(b"GET /large")), 0));
                self.head.clear();
            }
        }
    }
}
