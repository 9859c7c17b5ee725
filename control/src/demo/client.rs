//! The demo's own HTTP client: kept connections for the load, one-off requests for the admin ports.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A caller of one address, on one kept connection.
pub struct Client {
    address: SocketAddr,
    kept: Option<TcpStream>,
    /// Connections made so far.
    pub dialled: u64,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Longest wait for an answer. One that takes longer counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

impl Client {
    /// Nothing is dialled yet.
    pub fn new(address: SocketAddr) -> Self {
        Client { address, kept: None, dialled: 0 }
    }

    /// Asks for `path`. Never asks twice.
    pub async fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.ask("GET", path, "").await
    }

    /// Has what `path` means be done. Never asks twice.
    pub async fn post(&mut self, path: &str) -> io::Result<Answer> {
        self.ask("POST", path, "content-length: 0\r\n").await
    }

    async fn ask(&mut self, method: &str, path: &str, fields: &str) -> io::Result<Answer> {
        let exchange = self.exchange(method, path, fields);
        timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn exchange(&mut self, method: &str, path: &str, fields: &str) -> io::Result<Answer> {
        let mut socket = match self.kept.take() {
            Some(socket) => socket,
            None => {
                let socket = TcpStream::connect(self.address).await?;
                socket.set_nodelay(true)?;
                self.dialled += 1;
                socket
            }
        };
        let request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n{fields}\r\n", self.address);
        socket.write_all(request.as_bytes()).await?;
        let mut received = Vec::with_capacity(1024);
        loop {
            if socket.read_buf(&mut received).await? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection ended before the answer",
                ));
            }
            if let Some(answer) = parse(&received)? {
                self.kept = Some(socket);
                return Ok(answer);
            }
        }
    }
}

/// Asks `address` for `path` once, on a connection of its own. A status other than 200 is an error.
pub async fn fetch(address: SocketAddr, path: &str) -> io::Result<String> {
    let Told { status, body, .. } = ask(address, path).await?;
    match status {
        200 => Ok(body),
        other => Err(io::Error::other(format!("{path} answered {other}: {}", body.trim()))),
    }
}

/// What one request was answered.
#[derive(Debug)]
pub struct Told {
    /// The status.
    pub status: u16,
    /// What the mesh says of it: `x-lighter-error`.
    pub cause: Option<String>,
    /// The body.
    pub body: String,
}

/// Asks `address` for `path` once, on a connection of its own.
pub async fn ask(address: SocketAddr, path: &str) -> io::Result<Told> {
    tell("GET", address, path).await
}

/// Has `address` do what `path` means. A status other than 200 is an error.
pub async fn post(address: SocketAddr, path: &str) -> io::Result<()> {
    match tell("POST", address, path).await? {
        Told { status: 200, .. } => Ok(()),
        Told { status, .. } => Err(io::Error::other(format!("{path} answered {status}"))),
    }
}

async fn tell(method: &str, address: SocketAddr, path: &str) -> io::Result<Told> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        // HTTP/1.0: the answer ends with the connection, whatever its length.
        let request = format!("{method} {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut received = Vec::new();
        socket.read_to_end(&mut received).await?;
        let Head { status, cause, length: _, end } = head(&received)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Told { status, cause, body: String::from_utf8_lossy(&received[end..]).into_owned() })
    };
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The answer in `received`, if it is all there.
fn parse(received: &[u8]) -> io::Result<Option<Answer>> {
    let Some(Head { status, length, end: start, .. }) = head(received)? else { return Ok(None) };
    let length = length.ok_or_else(|| malformed("an answer without Content-Length"))?;
    match received.get(start..start + length) {
        Some(body) if received.len() == start + length => Ok(Some(Answer { status, body: body.to_vec() })),
        Some(_) => Err(malformed("bytes after the answer")),
        None => Ok(None),
    }
}

/// What is read of an answer's head.
struct Head {
    status: u16,
    length: Option<usize>,
    cause: Option<String>,
    /// Where the body begins.
    end: usize,
}

/// The head, if it is all there.
fn head(received: &[u8]) -> io::Result<Option<Head>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let end = match head.parse(received).map_err(|error| malformed(&error.to_string()))? {
        httparse::Status::Complete(end) => end,
        httparse::Status::Partial => return Ok(None),
    };
    let field = |name: &str| {
        let field = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(field.value).trim().to_owned())
    };
    let length = match field("content-length").map(|length| length.parse()) {
        Some(Ok(length)) => Some(length),
        Some(Err(_)) => return Err(malformed("a Content-Length that is no number")),
        None => None,
    };
    Ok(Some(Head { status: head.code.unwrap_or_default(), length, cause: field("x-lighter-error"), end }))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_only_when_its_last_byte_is_there() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).unwrap().is_none(), "{end}");
        }
        let answer = parse(bytes).unwrap().unwrap();
        assert_eq!((answer.status, &*answer.body), (200, &b"abc"[..]));
    }

    #[test]
    fn an_answer_of_unknown_length_or_with_more_behind_it_is_refused() {
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").is_err());
    }
}
