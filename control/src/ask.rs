//! Asks a sidecar's admin port for one page. Nothing that answers there can have this wait or fill without end.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long it may take until the whole answer is there.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much it may be: some ten thousand routes.
const MOST_BYTES: usize = 128 << 20;

/// What to do where nothing answers.
pub const IS_IT_THERE: &str = "is a sidecar running there? --admin says where its admin port is";

/// The page at `path`.
pub fn get(admin: SocketAddr, path: &str) -> io::Result<String> {
    page(&exchange(admin, path, PATIENCE, MOST_BYTES)?)
}

/// All that is answered.
fn exchange(admin: SocketAddr, path: &str, patience: Duration, most: usize) -> io::Result<Vec<u8>> {
    let end = Instant::now() + patience;
    // A time-out of zero is refused by the standard library.
    let left = || match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::new(ErrorKind::TimedOut, "it does not answer in time")),
        left => Ok(left),
    };
    let mut stream = TcpStream::connect_timeout(&admin, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    // HTTP/1.0: the answer comes in one piece, and ends with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {admin}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(some) if answer.len() + some > most => return Err(malformed("an answer without end")),
            Ok(some) => answer.extend_from_slice(&buffer[..some]),
            // A time-out is one or the other; then `left` says so.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The body of an answer of 200 that is all there.
fn page(answer: &[u8]) -> io::Result<String> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let start = match head.parse(answer) {
        Ok(httparse::Status::Complete(start)) => start,
        Ok(httparse::Status::Partial) => return Err(cut()),
        Err(_) => return Err(malformed("what answers is not HTTP")),
    };
    let status = head.code.unwrap_or_default();
    if status != 200 {
        return Err(malformed(&format!("it answered {status}")));
    }
    let length = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.map(|field| std::str::from_utf8(field.value).ok()?.trim().parse::<usize>().ok());
    // Complete means that the head is a part of the answer.
    let body = answer.get(start..).unwrap_or_default();
    match length {
        Some(None) => Err(malformed("a Content-Length that is no number")),
        Some(Some(length)) if length != body.len() => Err(cut()),
        _ => Ok(String::from_utf8_lossy(body).into_owned()),
    }
}

fn cut() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the connection ended within the answer")
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Where each caller is told this, and that it is all unless `hold`.
    fn telling(answer: &'static [u8], hold: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                // Read first: what is unread as a socket closes makes a reset of its end.
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(answer);
                held.extend(hold.then_some(stream));
            }
        });
        address
    }

    #[test]
    fn a_page_is_its_body() {
        let at = telling(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc\n", false);
        assert_eq!(get(at, "/metrics").unwrap(), "abc\n");
        assert_eq!(page(b"HTTP/1.0 200 OK\r\n\r\n\xff").unwrap(), "\u{fffd}");
    }

    #[test]
    fn what_is_no_whole_page_is_an_error() {
        for (answer, expected) in [
            (&b""[..], "ended within"),
            (b"HTTP/1.1 200 OK\r\n", "ended within"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", "ended within"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc", "no number"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: \xff\r\n\r\nabc", "no number"),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "answered 403"),
            (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        ] {
            let error = page(answer).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn nobody_is_waited_for_or_read_without_end() {
        let silent = telling(b"HTTP/1.1 200 OK\r\n", true);
        let error = exchange(silent, "/", Duration::from_millis(50), MOST_BYTES).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let endless = telling(&[b'x'; 5000], true);
        let error = exchange(endless, "/", PATIENCE, 4000).unwrap_err();
        assert!(error.to_string().contains("without end"), "{error}");
    }
}
