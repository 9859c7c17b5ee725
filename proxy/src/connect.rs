//! The explicit proxy port: HTTP CONNECT (RFC 9110 §9.3.6), requests in absolute form, SOCKS5 (RFC 1928).
//!
//! For workloads whose traffic cannot be intercepted. What goes through a tunnel is carried as an intercepted
//! connection would be: by name or address to a Service, or into the world if `outboundPolicy` lets it.

mod ask;
mod head;
mod socks;

use std::time::Duration;

use bytes::{Buf, BytesMut};
use lighter_config::snapshot::Protocol;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::carry::{Call, Engine};
use crate::detect;
use crate::error::{Cause, ProxyError};
use crate::http::local::ErrorAnswer;
use crate::tcp::{Onward, Upstream};
use crate::telemetry::Direction;

use ask::{Ask, Way};

/// What a parser made of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed<T> {
    /// More are needed.
    More,
    /// It is whole, and took so many bytes.
    Whole(T, usize),
    /// It can never become whole. What the client is told.
    Bad(Vec<u8>),
}

/// Serves a connection to the explicit proxy port.
pub(crate) async fn negotiated(mut call: Call) -> Engine {
    match timeout(PATIENCE, negotiate(&mut call)).await {
        Ok(Some(Negotiated::Tunnel(tongue, ask))) => tunnel(call, tongue, ask).await,
        Ok(Some(Negotiated::Requests)) => call.into_requests().await,
        // Said nothing sensible, or nothing in time.
        Ok(None) | Err(_) => None,
    }
}

/// Every parser of this port on the same bytes, for the fuzzers.
pub(crate) fn parse_any(bytes: &[u8]) {
    fn check<T: PartialEq + std::fmt::Debug>(parse: fn(&[u8]) -> Parsed<T>, bytes: &[u8]) {
        if let Parsed::Whole(whole, taken) = parse(bytes) {
            assert!(taken <= bytes.len());
            assert_eq!(parse(&bytes[..taken]), Parsed::Whole(whole, taken));
        }
    }
    check(socks::greeting, bytes);
    check(socks::request, bytes);
    check(head::parse, bytes);
}

/// What a client of this port wants.
enum Negotiated {
    /// A connection to somewhere.
    Tunnel(Tongue, Ask),
    /// To send requests that say themselves where they go.
    Requests,
}

/// In what language a client asked for a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tongue {
    Http,
    Socks,
}

/// Hears what the client wants. `None`: it is gone, or was told what is wrong.
async fn negotiate(call: &mut Call) -> Option<Negotiated> {
    let mut heard = BytesMut::from(&*std::mem::take(&mut call.io.early));
    while heard.is_empty() {
        hear(call, &mut heard).await?;
    }
    if heard[0] == socks::VERSION {
        let answer = take(call, &mut heard, socks::greeting).await?;
        call.io.write_all(&answer).await.ok()?;
        let ask = take(call, &mut heard, socks::request).await?;
        call.io.early = heard.freeze();
        return Some(Negotiated::Tunnel(Tongue::Socks, ask));
    }
    while !head::is_connect(&heard) {
        if !head::may_become_connect(&heard) {
            call.io.early = heard.freeze();
            return Some(Negotiated::Requests);
        }
        hear(call, &mut heard).await?;
    }
    let ask = take(call, &mut heard, head::parse).await?;
    call.io.early = heard.freeze();
    Some(Negotiated::Tunnel(Tongue::Http, ask))
}

/// Opens a tunnel: tells the client whether it stands, and carries what goes through it.
async fn tunnel(mut call: Call, tongue: Tongue, ask: Ask) -> Engine {
    let way = ask.way(&call.worker.shared).await;
    let opened = match way {
        Err(cause) => Err((Onward::Address(Direction::Outbound, ask.address()), refusal(cause))),
        // What is spoken there decides where it goes; whether it can be reached shows then.
        Ok(Way::Port(target)) if target.destination.protocol() != Protocol::Tcp => {
            tell(&mut call, tongue.established()).await?;
            return call.into_port(target, Protocol::Auto).await;
        }
        Ok(Way::Port(target)) => connect(&call, [Onward::Port(target)]).await,
        Ok(Way::World(addresses)) => {
            let onwards = addresses.into_iter().map(|address| Onward::Address(Direction::Outbound, address));
            connect(&call, onwards).await
        }
    };
    match opened {
        Ok((onward, upstream)) => {
            tell(&mut call, tongue.established()).await?;
            call.into_upstream(onward, upstream).await
        }
        Err((onward, error)) => {
            call.count_refusal(&onward, error.cause);
            tell(&mut call, &tongue.refused(&error)).await;
            None
        }
    }
}

/// The first that can be reached, or what went wrong with the last.
async fn connect(
    call: &Call,
    onwards: impl IntoIterator<Item = Onward>,
) -> Result<(Onward, Upstream), (Onward, ProxyError)> {
    let nowhere = Onward::Address(Direction::Outbound, UNSPECIFIED);
    let mut last = (nowhere, refusal(Cause::NoEndpoint));
    for onward in onwards {
        match crate::tcp::dial(&call.worker, &onward, call.peer).await {
            Ok(upstream) => return Ok((onward, upstream)),
            Err(error) => last = (onward, error),
        }
    }
    Err(last)
}

fn refusal(cause: Cause) -> ProxyError {
    let detail = match cause {
        Cause::NotInRegistry => "the destination is in no Service",
        Cause::NoConfig => "the Service has no such port",
        Cause::Loop => "the destination is this sidecar itself",
        Cause::ConnectTimeout => "the destination's name was not found in time",
        _ => "the destination's name or address leads nowhere",
    };
    ProxyError::new(cause, detail)
}

async fn tell(call: &mut Call, answer: &[u8]) -> Option<()> {
    call.io.write_all(answer).await.ok()
}

/// Takes what `parse` makes of what the client sends; what comes behind it stays in `heard`.
async fn take<T>(call: &mut Call, heard: &mut BytesMut, parse: fn(&[u8]) -> Parsed<T>) -> Option<T> {
    loop {
        match parse(heard) {
            Parsed::Whole(whole, bytes) => {
                heard.advance(bytes);
                return Some(whole);
            }
            Parsed::Bad(answer) => {
                tell(call, &answer).await;
                return None;
            }
            Parsed::More => hear(call, heard).await?,
        }
    }
}

async fn hear(call: &Call, heard: &mut BytesMut) -> Option<()> {
    let bytes = detect::read(&call.io, heard, head::MOST_BYTES).await.ok()?;
    (bytes > 0).then_some(())
}

impl Tongue {
    fn established(self) -> &'static [u8] {
        match self {
            Tongue::Http => b"HTTP/1.1 200 Connection Established\r\n\r\n",
            Tongue::Socks => socks::ESTABLISHED,
        }
    }

    fn refused(self, error: &ProxyError) -> Vec<u8> {
        match self {
            Tongue::Http => ErrorAnswer::of(error, false).http1(false, true),
            Tongue::Socks => socks::refused(error.cause).to_vec(),
        }
    }
}

/// Longest wait for what a client wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Stands for a destination that has no address.
const UNSPECIFIED: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
