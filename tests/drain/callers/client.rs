//! How one caller asks, and what it makes of the answer.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::record::Record;
use crate::load::{Connection, is_refused};
use crate::registers::{INSTANCE, NUMBER};
use crate::support::PATIENCE;

/// How a caller asks.
pub(super) enum Client {
    /// By a kept connection.
    Http1 {
        door: SocketAddr,
        kept: Option<TcpStream>,
    },
    Http2(Connection),
}

/// What became of a request.
pub(super) enum Outcome {
    /// Answered with this number.
    Done(u64),
    NotDone,
    Unknown,
}

/// What a whole answer says.
#[derive(Clone, Debug, Default)]
struct Said {
    status: u16,
    by: Option<String>,
    /// Where it is a sidecar's.
    cause: Option<String>,
    body: Vec<u8>,
}

impl Client {
    pub(super) fn new(door: SocketAddr, is_http2: bool) -> Self {
        match is_http2 {
            true => Client::Http2(Connection::new(door)),
            false => Client::Http1 { door, kept: None },
        }
    }

    /// Asks for what is answered with a number, and writes down how that was.
    pub(super) async fn number(
        &mut self,
        record: &Record,
        method: &str,
        path: &str,
        number: u64,
        body: &str,
    ) -> Outcome {
        let began = Instant::now();
        let what = format!("{method} {path}");
        let changes = method != "GET";
        let said = match timeout(PATIENCE, self.ask(record, method, path, number, body)).await {
            Ok(Ok(said)) => said,
            failed => {
                let why = failed.map_or("no answer".to_owned(), |failed| failed.unwrap_err());
                record.fail(&what, why);
                record.unanswered.fetch_add(1, Relaxed);
                return Outcome::Unknown;
            }
        };
        if let (200, Ok(value)) = (said.status, number_of(&said.body)) {
            record.answer(began, said.by.as_deref(), number, (method == "PUT").then_some(value));
            if changes {
                record.done(number);
            }
            return Outcome::Done(value);
        }
        record.fail(&what, format!("{said:?}"));
        match said.cause {
            Some(cause) if !may_be_done(&cause) => {
                if changes {
                    record.not_done(number);
                }
                Outcome::NotDone
            }
            Some(_) => {
                record.unknown.fetch_add(1, Relaxed);
                Outcome::Unknown
            }
            None => {
                record.unnamed.fetch_add(1, Relaxed);
                Outcome::Unknown
            }
        }
    }

    async fn ask(
        &mut self,
        record: &Record,
        method: &str,
        path: &str,
        number: u64,
        body: &str,
    ) -> Result<Said, String> {
        match self {
            Client::Http1 { door, kept } => {
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: shop\r\n{NUMBER}: {number}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                ask1(*door, kept, &request).await
            }
            Client::Http2(connection) => {
                let request = || {
                    let request = Request::builder().method(method).uri(format!("http://shop{path}"));
                    request.header(NUMBER, number).body(()).unwrap()
                };
                ask2(record, connection, request, body).await
            }
        }
    }
}

/// Asks by HTTP/1.1 on a connection that is kept, if it can be.
async fn ask1(door: SocketAddr, kept: &mut Option<TcpStream>, request: &str) -> Result<Said, String> {
    let is_reused = kept.is_some();
    let failed =
        |what: &'static str| move |error: std::io::Error| format!("{what} (reused: {is_reused}): {error}");
    let mut tcp = match kept.take() {
        Some(tcp) => tcp,
        None => {
            let tcp = TcpStream::connect(door).await.map_err(failed("connect"))?;
            tcp.set_nodelay(true).unwrap();
            tcp
        }
    };
    tcp.write_all(request.as_bytes()).await.map_err(failed("send"))?;
    let mut answer = Vec::new();
    loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = crate::support::raw::Head::parse(&answer[..end + 4]);
            let length = head.get("content-length").and_then(|length| length.parse().ok());
            let length: usize = length.ok_or_else(|| format!("no length: {head:?}"))?;
            let end = end + 4 + length;
            if answer.len() > end {
                return Err(format!("more than one answer: {:?}", String::from_utf8_lossy(&answer)));
            }
            if answer.len() == end {
                if !head.has("connection", "close") {
                    *kept = Some(tcp);
                }
                let owned = |name| head.get(name).map(str::to_owned);
                return Ok(Said {
                    status: head.status(),
                    by: owned(INSTANCE),
                    cause: owned("x-lighter-error"),
                    body: answer.split_off(end - length),
                });
            }
        }
        if tcp.read_buf(&mut answer).await.map_err(failed("read"))? == 0 {
            return Err(format!("cut (reused: {is_reused}) after {:?}", String::from_utf8_lossy(&answer)));
        }
    }
}

async fn ask2(
    record: &Record,
    connection: &Connection,
    request: impl Fn() -> Request<()>,
    body: &str,
) -> Result<Said, String> {
    loop {
        let (answer, mut up) = connection.ask(&record.refused, body.is_empty(), &request).await?;
        if !body.is_empty() {
            // What is wrong with it the answer says.
            let _ = up.send_data(Bytes::copy_from_slice(body.as_bytes()), true);
        }
        let (head, mut down) = match answer.await {
            Ok(answer) => answer.into_parts(),
            Err(error) if is_refused(&error) => {
                record.refused.fetch_add(1, Relaxed);
                continue;
            }
            Err(error) => return Err(format!("no answer: {error}")),
        };
        let field = |name: &str| head.headers.get(name)?.to_str().ok().map(str::to_owned);
        let mut said = Said {
            status: head.status.as_u16(),
            by: field(INSTANCE),
            cause: field("x-lighter-error"),
            body: Vec::new(),
        };
        while let Some(data) = down.data().await {
            let data = data.map_err(|error| format!("cut: {error}"))?;
            let _ = down.flow_control().release_capacity(data.len());
            said.body.extend(data);
        }
        return Ok(said);
    }
}

pub(super) fn number_of(body: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(body);
    text.trim().parse().map_err(|_| format!("no number: {text:?}"))
}

/// Whether the application may have done what was asked for, where a sidecar names this cause. All else it says instead of asking it.
pub(super) fn may_be_done(cause: &str) -> bool {
    cause == UNKNOWN
}

/// What is answered where an application that keeps state may have done it, and nobody knows.
pub const UNKNOWN: &str = "outcome_unknown";
