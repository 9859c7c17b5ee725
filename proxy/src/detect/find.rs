//! The part of detection that has sockets and time.

use std::future::pending;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{MOST_BYTES, PREFACE, Verdict, is_settings, recognise, settle};
use crate::buf::Buffer;
use crate::drain::{Phase, Ticket};
use crate::error::{Cause, ProxyError};
use crate::io::Io;
use crate::mesh::{Learned, Speech};
use crate::tcp::Upstream;
use crate::telemetry::Detected;

/// What was found.
pub(crate) struct Found {
    /// What the client speaks; never `Partial`.
    pub(crate) verdict: Verdict,
    /// The connection to the upstream, where one was made while the client kept silent, and the verdict is opaque.
    pub(crate) upstream: Option<Upstream>,
    /// How it was found.
    pub(crate) by: By,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The client's first bytes.
    Client,
    /// The server spoke first.
    Server,
    /// The client ended its side without a word, or stopped in the middle of a word.
    Silence,
}

/// Why nothing was found.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The client left, or kept silent until its time was over or the drain began: nothing was asked.
    Gone,
    /// The upstream could not be reached.
    Upstream(ProxyError),
}

/// Finds out what the client of `io` speaks; what was read of it is in `io.early` then.
///
/// `dial` connects to the upstream: it is polled only if the client keeps silent for `patience`, or if this port's
/// servers are known to speak first, and never where the port speaks HTTP or TLS, whose clients speak first.
pub(crate) async fn find(
    io: &mut Io,
    speech: Speech,
    learned: &Learned,
    patience: Duration,
    idle: Option<Duration>,
    ticket: &Ticket,
    dial: impl Future<Output = Result<Upstream, ProxyError>>,
) -> Result<Found, Lost> {
    let mut heard = BytesMut::from(&*std::mem::take(&mut io.early));
    let search = async {
        match speech {
            Speech::Opaque => Ok(Found { verdict: Verdict::Opaque, upstream: None, by: By::Client }),
            Speech::Http => told(io, &mut heard, preface_or_request).await,
            Speech::Tls => told(io, &mut heard, hello).await,
            Speech::Unknown => watched(io, &mut heard, learned, patience, dial).await,
        }
    };
    let limit = async {
        match idle {
            Some(idle) => sleep(idle).await,
            None => pending().await,
        }
    };
    let found = tokio::select! {
        biased;
        found = search => found,
        () = ticket.reached(Phase::Draining) => Err(Lost::Gone),
        () = limit => Err(Lost::Gone),
    };
    io.early = heard.freeze();
    found
}

/// Which version of HTTP the client of `io` speaks, where it can speak nothing else.
pub(crate) async fn version(io: &mut Io) -> Result<Verdict, Lost> {
    let mut heard = BytesMut::from(&*std::mem::take(&mut io.early));
    let found = told(io, &mut heard, preface_or_request).await;
    io.early = heard.freeze();
    found.map(|found| found.verdict)
}

/// Waits for as many bytes as `judge` needs. Only for protocols in which the client speaks first.
async fn told(io: &Io, heard: &mut BytesMut, judge: fn(&[u8]) -> Verdict) -> Result<Found, Lost> {
    loop {
        match judge(heard) {
            Verdict::Partial => {}
            verdict => return Ok(Found { verdict, upstream: None, by: By::Client }),
        }
        if hear(io, heard).await? == 0 {
            return Err(Lost::Gone);
        }
    }
}

/// Lets the client speak first if it does so in time, and whoever speaks first otherwise.
async fn watched(
    io: &Io,
    heard: &mut BytesMut,
    learned: &Learned,
    patience: Duration,
    dial: impl Future<Output = Result<Upstream, ProxyError>>,
) -> Result<Found, Lost> {
    let mut dial = pin!(dial);
    let mut upstream: Option<Upstream> = None;
    // Whether the server's first bytes were an HTTP/2 preface: they say nothing, and it is not asked again.
    let mut settings = false;
    let mut silent_until = Instant::now() + patience;
    let mut dialling = learned.server_first();
    loop {
        let decided = match recognise(heard) {
            Verdict::Partial => None,
            verdict => Some((verdict, By::Client)),
        };
        let decided = match decided {
            Some(decided) => Some(decided),
            None => tokio::select! {
                biased;
                bytes = hear(io, heard) => match bytes? {
                    0 if heard.is_empty() => Some((Verdict::Opaque, By::Silence)),
                    0 => Some((settle(heard), By::Silence)),
                    _ => {
                        silent_until = Instant::now() + patience;
                        None
                    }
                },
                first = answer(&mut upstream), if upstream.is_some() && !settings => {
                    if first? {
                        settings = true;
                        None
                    } else {
                        learned.set_server_first(true);
                        Some((Verdict::Opaque, By::Server))
                    }
                },
                dialled = &mut dial, if dialling && upstream.is_none() => {
                    upstream = Some(dialled.map_err(Lost::Upstream)?);
                    None
                },
                () = sleep_until(silent_until), if !heard.is_empty() || !dialling => {
                    dialling = true;
                    (!heard.is_empty()).then(|| (settle(heard), By::Silence))
                },
            },
        };
        match decided {
            None => {}
            Some((Verdict::Opaque, by)) => {
                if dialling && upstream.is_none() {
                    upstream = Some(dial.await.map_err(Lost::Upstream)?);
                }
                return Ok(Found { verdict: Verdict::Opaque, upstream, by });
            }
            Some((verdict, by)) => {
                // Its clients speak first after all.
                learned.set_server_first(false);
                return Ok(Found { verdict, upstream: None, by });
            }
        }
    }
}

/// Reads what the client sends next, within what is looked at. Holds no buffer while it waits.
pub(super) async fn hear(io: &Io, heard: &mut BytesMut) -> Result<usize, Lost> {
    read(io, heard, MOST_BYTES).await.map_err(|_gone| Lost::Gone)
}

/// Whether the upstream's first bytes, which are `early` then, are an HTTP/2 server preface.
async fn answer(upstream: &mut Option<Upstream>) -> Result<bool, Lost> {
    let Some(upstream) = upstream else { return pending().await };
    let mut first = BytesMut::new();
    match read(&upstream.io, &mut first, MOST_BYTES).await {
        Ok(_) => {
            upstream.io.early = first.freeze();
            Ok(is_settings(&upstream.io.early))
        }
        Err(error) => {
            let reset = ProxyError::new(Cause::UpstreamReset, "the upstream reset the connection");
            Err(Lost::Upstream(reset.at(upstream.address).with_source(error)))
        }
    }
}

/// Appends one read to `into`, which is to hold no more than `most`.
pub(crate) async fn read(io: &Io, into: &mut BytesMut, most: usize) -> io::Result<usize> {
    loop {
        io.tcp.readable().await?;
        let mut buffer = Buffer::take();
        let space = buffer.spare();
        let space = space.len().min(most.saturating_sub(into.len()).max(1));
        match io.tcp.try_read(&mut buffer.spare()[..space]) {
            Ok(bytes) => {
                into.extend_from_slice(&buffer.spare()[..bytes]);
                return Ok(bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// What a detection is counted as.
pub(crate) fn outcome(speech: Speech, found: &Result<Found, Lost>) -> Detected {
    let found = match found {
        _ if speech == Speech::Opaque => return Detected::Known,
        Ok(found) => found,
        Err(Lost::Gone) => return Detected::Closed,
        Err(Lost::Upstream(_)) => return Detected::Limit,
    };
    match (found.verdict, found.by) {
        (Verdict::Http1, _) => Detected::Http1,
        (Verdict::Http2, _) => Detected::Http2,
        (Verdict::Tls, _) => Detected::Tls,
        (_, By::Client) => Detected::Opaque,
        (_, By::Server) => Detected::ServerFirst,
        (_, By::Silence) => Detected::Limit,
    }
}

/// Waits until a TLS client's hello is whole, for as long as the client goes on sending.
pub(crate) async fn server_name(io: &mut Io, patience: Duration) -> Result<Option<String>, Lost> {
    let mut heard = BytesMut::from(&*std::mem::take(&mut io.early));
    let name = loop {
        match crate::sni::parse(&heard) {
            crate::sni::Hello::Whole(name) => break name,
            crate::sni::Hello::Not => break None,
            crate::sni::Hello::Partial => {}
        }
        match timeout(patience, read(io, &mut heard, crate::sni::MOST_BYTES)).await {
            Ok(Ok(0)) | Err(_) => break None, // Silence or an end: what there is goes on as it is.
            Ok(Ok(_)) => {}
            Ok(Err(_gone)) => return Err(Lost::Gone),
        }
    };
    io.early = heard.freeze();
    Ok(name)
}

/// For a port that speaks HTTP: which version. What is neither is left to HTTP/1 to refuse.
fn preface_or_request(prefix: &[u8]) -> Verdict {
    if prefix.starts_with(PREFACE) {
        Verdict::Http2
    } else if PREFACE.starts_with(prefix) {
        Verdict::Partial
    } else {
        Verdict::Http1
    }
}

/// For a port that speaks TLS: whether this is TLS.
fn hello(prefix: &[u8]) -> Verdict {
    match crate::sni::begins(prefix) {
        None => Verdict::Partial,
        Some(true) => Verdict::Tls,
        Some(false) => Verdict::Opaque,
    }
}
