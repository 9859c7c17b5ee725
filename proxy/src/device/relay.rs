//! A request that a program of its own answers, over HTTP on loopback. Bodies stream both ways, at the pace of whoever is slower.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::run::{Head, Said};
use super::waits::{Upload, Waits};
use super::{NotRelayed, Relayed};
use crate::http::hop::{self, Kind, Options};

/// Sends `request` to the program at `to`, and what it answers to `says`, each piece that `takes` lets pass. What is waited for
/// the caller goes to `waits`.
pub(super) async fn pass(
    mut request: Request<Incoming>,
    to: SocketAddr,
    takes: &mut dyn FnMut(u64) -> bool,
    says: &mpsc::Sender<Said>,
    waits: &Waits,
) -> Result<Relayed, NotRelayed> {
    let cannot = |error: std::io::Error| NotRelayed::Lost(format!("it cannot be connected to: {error}"));
    let stream = TcpStream::connect(to).await.map_err(cannot)?;
    // A small request waits for nothing.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let _driven = Driven(tokio::spawn(async move {
        // Whoever waits for the answer is told.
        let _ = connection.await;
    }));
    let is_sized = request.body().is_end_stream() || request.body().size_hint().exact().is_some();
    strip(request.headers_mut());
    request.headers_mut().remove(EXPECT);
    if !is_sized {
        // It would not be said at all with a method that usually has no body.
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // One that serves one connection after the other would wait for the next request of this one.
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    *request.version_mut() = Version::HTTP_11;
    let request = request.map(|body| Upload::new(body, waits));
    let (mut head, mut body) = sender.send_request(request).await.map_err(lost)?.into_parts();
    waits.answers();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(NotRelayed::Lost("it changed to another protocol, which nobody asked for".into()));
    }
    let in_chunks = head.headers.contains_key(TRANSFER_ENCODING);
    if in_chunks {
        // What it says of a length does not hold (RFC 9112 §6.3).
        head.headers.remove(CONTENT_LENGTH);
    }
    let relayed = match in_chunks || body.is_end_stream() || body.size_hint().exact().is_some() {
        true => Relayed::Whole,
        false => Relayed::UntilClosed,
    };
    strip(&mut head.headers);
    let head =
        Head { status: head.status.as_u16(), media_type: "".into(), fields: Some(Box::new(head.headers)) };
    say(says, Said::Piece(Some(head), Bytes::new()), waits).await?;
    while let Some(frame) = body.frame().await {
        // There is no place for trailers in what a device answers.
        let Ok(bytes) = frame.map_err(lost)?.into_data() else { continue };
        if !takes(bytes.len() as u64) {
            return Err(NotRelayed::Refused);
        }
        say(says, Said::Piece(None, bytes), waits).await?;
    }
    Ok(relayed)
}

async fn say(says: &mpsc::Sender<Said>, piece: Said, waits: &Waits) -> Result<(), NotRelayed> {
    let _wait = waits.begin();
    says.send(piece).await.map_err(|_| NotRelayed::Gone)
}

/// Takes away what is of one connection, and what only sidecars say to each other.
fn strip(fields: &mut HeaderMap) {
    let mut options = Options::default();
    for value in fields.get_all(CONNECTION) {
        // One that names what a message cannot do without is not heeded.
        let _ = options.read(value.as_bytes());
    }
    let stays = |name: &HeaderName| {
        let kind = hop::classify(name.as_str().as_bytes());
        let is_passed = matches!(kind, Kind::EndToEnd | Kind::ContentLength | Kind::Host | Kind::Expect)
            || matches!(kind, Kind::ForwardedFor | Kind::RequestId | Kind::ClientCert | Kind::ContentType);
        is_passed && name != TRAILER && !options.names(name.as_str().as_bytes())
    };
    let gone: Vec<HeaderName> = fields.keys().filter(|name| !stays(name)).cloned().collect();
    gone.iter().for_each(|name| drop(fields.remove(name)));
}

fn lost(error: hyper::Error) -> NotRelayed {
    use std::error::Error;
    let mut why = error.to_string();
    if let Some(source) = error.source() {
        why = format!("{why}: {source}");
    }
    NotRelayed::Lost(why)
}

/// A connection that ends with this.
struct Driven(JoinHandle<()>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_one_connection_goes_no_further() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("connection", "x-more"),
            ("x-mine", "1"),
            ("x-more", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("host", "a"),
            ("content-length", "5"),
        ] {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip(&mut fields);
        let mut left: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host"]);
    }
}
