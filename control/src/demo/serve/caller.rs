//! How one of the demo's services calls another: by name, on a kept connection, without a second try.

use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::http::Answer;

/// What became of the connections that a service made.
#[derive(Default)]
pub struct Connections {
    dialled: AtomicU64,
    lost: AtomicU64,
}

impl Connections {
    /// `{"dialled": …, "lost": …}`: connections made, and connections that ended though they were kept.
    pub fn to_json(&self) -> Value {
        json!({
            "dialled": self.dialled.load(Ordering::Relaxed),
            "lost": self.lost.load(Ordering::Relaxed),
        })
    }
}

/// Calls one other service.
pub struct Caller<'a> {
    host: &'a str,
    port: u16,
    connections: &'a Connections,
    kept: Option<BufReader<TcpStream>>,
}

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl<'a> Caller<'a> {
    /// Nothing is dialled yet.
    pub fn new(host: &'a str, port: u16, connections: &'a Connections) -> Self {
        Caller { host, port, connections, kept: None }
    }

    /// The other's answer as JSON. A status other than 200 is an error, and so is a connection that breaks.
    pub fn get(&mut self, path: &str) -> io::Result<Value> {
        Ok(serde_json::from_slice(&self.read(path)?)?)
    }

    /// The other's answer as it is. A status other than 200 is an error, and so is a connection that breaks.
    pub fn read(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let host = self.host;
        let mut connection = match self.kept.take().filter(|kept| self.is_open(kept)) {
            Some(kept) => kept,
            None => self.dial().map_err(|error| saying(host, &error))?,
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: */*\r\n\r\n");
        let answer = connection
            .get_mut()
            .write_all(request.as_bytes())
            .and_then(|()| Answer::read(&mut connection))
            .inspect_err(|_| self.count_lost())
            .map_err(|error| saying(host, &error))?;
        self.kept = Some(connection);
        if answer.status != 200 {
            let text = String::from_utf8_lossy(&answer.body);
            return Err(io::Error::other(format!("{host} answered {}: {}", answer.status, text.trim())));
        }
        Ok(answer.body)
    }

    fn dial(&self) -> io::Result<BufReader<TcpStream>> {
        let connection = TcpStream::connect((self.host, self.port))?;
        connection.set_nodelay(true)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        self.connections.dialled.fetch_add(1, Ordering::Relaxed);
        Ok(BufReader::new(connection))
    }

    /// Whether a kept connection has not been closed by the other side in the meantime.
    fn is_open(&self, kept: &BufReader<TcpStream>) -> bool {
        let socket = kept.get_ref();
        let quiet = socket.set_nonblocking(true).and_then(|()| socket.peek(&mut [0]));
        let open = matches!(quiet, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            && socket.set_nonblocking(false).is_ok();
        if !open {
            self.count_lost();
        }
        open
    }

    fn count_lost(&self) {
        self.connections.lost.fetch_add(1, Ordering::Relaxed);
    }
}

fn saying(host: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{host}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::serve::http::Response;
    use std::io::Read;
    use std::net::TcpListener;

    /// Answers each request of the first connection once, closes it, then answers on a second.
    fn closes_after_one(listener: TcpListener) {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 1024]).unwrap();
            Response::ok(&json!({"n": 1})).write(&mut connection).unwrap();
        }
    }

    #[test]
    fn a_kept_connection_that_was_closed_is_counted_and_dialled_again() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || closes_after_one(listener));
        let connections = Connections::default();
        let mut caller = Caller::new("localhost", port, &connections);
        assert_eq!(caller.get("/").unwrap(), json!({"n": 1}));
        // The other side's end is seen before the next request, so that no request is lost with it.
        while caller.kept.as_ref().unwrap().get_ref().peek(&mut [0]).unwrap() != 0 {}
        assert_eq!(caller.get("/").unwrap(), json!({"n": 1}));
        assert_eq!(connections.to_json(), json!({"dialled": 2, "lost": 1}));
    }

    #[test]
    fn a_service_that_does_not_answer_is_an_error_with_its_name() {
        let connections = Connections::default();
        // Port 9 of the loopback: nobody listens.
        let error = Caller::new("localhost", 9, &connections).get("/").unwrap_err();
        assert!(error.to_string().starts_with("localhost: "), "{error}");
    }
}
