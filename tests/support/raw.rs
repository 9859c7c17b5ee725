//! Peers that send and show every byte: the judges of framing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::PATIENCE;

/// One end of a connection that speaks HTTP/1, or whatever a test sends.
pub struct Peer {
    pub stream: TcpStream,
    unread: Vec<u8>,
    seen: Option<(Seen, usize)>,
}

/// All that an upstream received, by connection in the order of their coming.
pub type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

/// A message's head.
#[derive(Clone, Debug)]
pub struct Head {
    pub line: String,
    pub fields: Vec<(String, String)>,
}

/// How a body ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// As its framing said.
    Whole(Vec<u8>),
    /// The connection ended first.
    Cut(Vec<u8>),
}

impl Peer {
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_where_taken(address).expect("the connection stands")
    }

    /// None where the other side resets the connection before it is seen to stand.
    pub fn connect_where_taken(address: SocketAddr) -> Option<Self> {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => Some(Self::over(stream)),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("connecting to {address}: {error}"),
        }
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream, unread: Vec::new(), seen: None }
    }

    /// One that may rest for as long as it likes.
    pub fn idle(stream: TcpStream) -> Self {
        let peer = Self::over(stream);
        peer.stream.set_read_timeout(None).unwrap();
        peer
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// Sends as far as the other side takes it.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// The same connection once more, with nothing read of it.
    pub fn another(&self) -> Self {
        Peer { stream: self.stream.try_clone().unwrap(), unread: Vec::new(), seen: None }
    }

    /// Sends back whatever comes, and its end.
    pub fn echo(mut self) {
        let early = std::mem::take(&mut self.unread);
        self.try_send(early);
        let _ = std::io::copy(&mut self.stream.try_clone().unwrap(), &mut self.stream);
        self.finish();
    }

    /// Says that nothing more comes.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let _ = socket_linger_zero(&self.stream);
    }

    /// The next head, or none where the connection ends before it.
    pub fn head(&mut self) -> Option<Head> {
        loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return Some(Head::parse(&head));
            }
            if self.more() == 0 {
                assert!(self.unread.is_empty(), "half a head: {:?}", String::from_utf8_lossy(&self.unread));
                return None;
            }
        }
    }

    /// The next head, which must come.
    pub fn expect_head(&mut self) -> Head {
        self.head().expect("a head, not the end of the connection")
    }

    /// The next `count` bytes, fewer if the connection ends first.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count && self.more() > 0 {}
        let rest = self.unread.split_off(count.min(self.unread.len()));
        std::mem::replace(&mut self.unread, rest)
    }

    /// Reads and throws away `count` bytes; gives how many came.
    pub fn skip(&mut self, count: u64) -> u64 {
        let mut got = self.unread.len().min(count as usize);
        self.unread.drain(..got);
        let mut buffer = vec![0; 256 * 1024];
        while (got as u64) < count {
            let most = buffer.len().min((count - got as u64) as usize);
            match self.stream.read(&mut buffer[..most]) {
                Ok(0) => break,
                Ok(some) => got += some,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("reading a body: {error}"),
            }
        }
        got as u64
    }

    /// The body behind `head`, by its framing; an answer without framing ends with its connection.
    pub fn body(&mut self, head: &Head) -> Body {
        if head.has("transfer-encoding", "chunked") {
            return self.chunked();
        }
        let Some(length) = head.get("content-length").map(|text| text.parse().unwrap()) else {
            return if head.line.starts_with("HTTP/") {
                Body::Whole(self.rest())
            } else {
                Body::Whole(vec![])
            };
        };
        let bytes = self.bytes(length);
        if bytes.len() == length { Body::Whole(bytes) } else { Body::Cut(bytes) }
    }

    /// Everything to the end of the connection, however it ends.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() > 0 {}
        std::mem::take(&mut self.unread)
    }

    /// One line without its end, empty where the connection ends.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.more() == 0 {
                return None;
            }
        }
    }

    /// One request and its whole answer.
    pub fn exchange(&mut self, request: impl AsRef<[u8]>) -> (Head, Body) {
        self.send(request);
        let head = self.expect_head();
        let body = self.body(&head);
        (head, body)
    }

    fn chunked(&mut self) -> Body {
        let mut whole = Vec::new();
        loop {
            let Some(line) = self.line() else { return Body::Cut(whole) };
            let size =
                usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).expect("a chunk's size");
            if size == 0 {
                loop {
                    match self.line() {
                        None => return Body::Cut(whole),
                        Some(end) if end.is_empty() => return Body::Whole(whole),
                        Some(_) => {}
                    }
                }
            }
            let chunk = self.bytes(size + 2);
            whole.extend_from_slice(&chunk[..chunk.len().min(size)]);
            if chunk.len() < size + 2 {
                return Body::Cut(whole);
            }
        }
    }

    /// Reads once. A reset is an end like another here; what it cut shows in what is missing.
    fn more(&mut self) -> usize {
        let mut buffer = [0; 64 * 1024];
        let got = match self.stream.read(&mut buffer) {
            Ok(got) => got,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the other side says nothing; so far: {:?}", String::from_utf8_lossy(&self.unread))
            }
            Err(_) => 0,
        };
        self.unread.extend_from_slice(&buffer[..got]);
        if let Some((seen, at)) = &self.seen {
            seen.lock().unwrap()[*at].extend_from_slice(&buffer[..got]);
        }
        got
    }
}

impl Head {
    pub fn parse(head: &[u8]) -> Self {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}"));
                (name.to_owned(), value.trim().to_owned())
            })
            .collect();
        Head { line, fields }
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a status line")
    }

    /// A request's target.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// The only value of a header, or the first.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields
            .iter()
            .filter(move |(is, _)| is.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether a header has this value, in whatever case.
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.all(name).any(|is| is.eq_ignore_ascii_case(value))
    }

    /// The cause that the sidecar names, if the answer is its own.
    pub fn cause(&self) -> Option<&str> {
        self.get("x-lighter-error")
    }
}

/// A server that does what a closure does with each connection, on a thread of its own.
pub struct Upstream {
    pub address: SocketAddr,
    pub seen: Seen,
}

impl Upstream {
    /// Every connection is given to `serve` with its number from 0.
    pub fn start(serve: impl Fn(Peer, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Seen::default();
        let (serve, all) = (Arc::new(serve), seen.clone());
        std::thread::spawn(move || {
            for (at, stream) in listener.incoming().enumerate() {
                all.lock().unwrap().push(Vec::new());
                let mut peer = Peer::over(stream.unwrap());
                // A connection that is kept and unused is no fault of the other side.
                peer.stream.set_read_timeout(None).unwrap();
                peer.seen = Some((all.clone(), at));
                let serve = serve.clone();
                std::thread::spawn(move || serve(peer, at));
            }
        });
        Upstream { address, seen }
    }

    /// Answers each request with 200 and `body`, and keeps the connection.
    pub fn answering(body: &'static str) -> Self {
        Self::start(move |mut peer, _| {
            while let Some(head) = peer.head() {
                peer.body(&head);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                if !peer.try_send(answer) {
                    return;
                }
            }
        })
    }

    /// Answers each request with its own body, and keeps the connection.
    pub fn echoing() -> Self {
        Self::start(|mut peer, _| {
            while let Some(head) = peer.head() {
                let Body::Whole(body) = peer.body(&head) else { return };
                let start = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                if !peer.try_send(start) || !peer.try_send(body) {
                    return;
                }
            }
        })
    }

    /// How many connections came.
    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// All that came on all connections.
    pub fn received(&self) -> String {
        self.seen.lock().unwrap().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

fn socket_linger_zero(stream: &TcpStream) -> std::io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO))?)
}
