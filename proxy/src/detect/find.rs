//! The part of detection that has sockets and time.

use std::future::pending;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{MOST_BYTES, PREFACE, Verdict, is_promising, is_settings, recognise, settle};
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
    /// The client left, or kept silent until its time was over or a while into the drain: nothing was asked.
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
    // Who came in before the door closed, perhaps in the same moment, is heard: their bytes may be still on the way.
    let drained = async {
        ticket.reached(Phase::Draining).await;
        let _ = timeout(LAST_CALL, ticket.reached(Phase::Closed)).await;
    };
    let found = tokio::select! {
        biased;
        found = search => found,
        () = drained => Err(Lost::Gone),
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
                        let pause = if is_promising(heard) { patience.max(MID_WORD) } else { patience };
                        silent_until = Instant::now() + pause;
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
    let heard = match upstream.io.stream.plain() {
        Some(_) => read(&upstream.io, &mut first, MOST_BYTES).await,
        // A stream of a link gives what it has, and what is not taken waits there.
        None => upstream.io.read_buf(&mut (&mut first).limit(MOST_BYTES)).await,
    };
    match heard {
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
        let Some(tcp) = io.stream.plain() else { return Err(io::ErrorKind::Unsupported.into()) };
        tcp.readable().await?;
        let mut buffer = Buffer::take();
        match buffer.try_read(tcp, most.saturating_sub(into.len()).max(1)) {
            Ok(bytes) => {
                into.extend_from_slice(buffer.filled());
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
        Err(Lost::Upstream(_)) => return Detected::NoUpstream,
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

/// Longest pause in the middle of what looks like HTTP or TLS: well above what acknowledgements are delayed by.
const MID_WORD: Duration = Duration::from_millis(200);

/// How long a drain waits for the first bytes of a client, and for the rest of its word.
const LAST_CALL: Duration = MID_WORD;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bytes::Bytes;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    use super::*;
    use crate::drain::Connections;
    use crate::loopback::pair;

    /// A port under test: what it has learned, and whether its upstream was dialled.
    #[derive(Default)]
    struct Port {
        learned: Learned,
        dialled: Cell<bool>,
        connections: Connections,
    }

    const PATIENCE: Duration = Duration::from_millis(10);
    /// So long that whatever waits for it never ends.
    const FOR_EVER: Duration = Duration::from_secs(1 << 20);

    impl Port {
        /// Detects a client that does as `client` says, before a server that says `greeting` when it is dialled.
        async fn find<C: Future<Output = TcpStream>>(
            &self,
            speech: Speech,
            patience: Duration,
            greeting: &'static [u8],
            client: impl FnOnce(TcpStream) -> C,
        ) -> (Result<Found, Lost>, Bytes) {
            let (client_end, own_end) = pair().await;
            let mut io = Io::new(own_end);
            let ticket = self.connections.enter();
            let dial = async {
                self.dialled.set(true);
                let (mut server, own_end) = pair().await;
                server.write_all(greeting).await.unwrap();
                Ok(Upstream::to(own_end))
            };
            let found = {
                let find = find(&mut io, speech, &self.learned, patience, None, &ticket, dial);
                let (found, _client) = tokio::join!(find, client(client_end));
                found
            };
            (found, io.early)
        }
    }

    async fn silent(client: TcpStream) -> TcpStream {
        client
    }

    fn verdict(found: &Result<Found, Lost>) -> (Verdict, By) {
        let found = found.as_ref().ok().unwrap();
        (found.verdict, found.by)
    }

    #[tokio::test]
    async fn a_request_in_pieces_is_recognised_without_a_dial() {
        let port = Port::default();
        let client = |mut client: TcpStream| async {
            for piece in [&b"GE"[..], b"T / HT", b"TP/1.1\r\n"] {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client
        };
        let (found, early) = port.find(Speech::Unknown, FOR_EVER, b"", client).await;
        assert_eq!(verdict(&found), (Verdict::Http1, By::Client));
        assert!(early.starts_with(b"GET / HTTP/1.1"));
        assert!(!port.dialled.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_greeting_decides_where_the_client_is_silent_and_is_remembered() {
        let port = Port::default();
        let (found, early) = port.find(Speech::Unknown, PATIENCE, b"220 mail", silent).await;
        assert_eq!(verdict(&found), (Verdict::Opaque, By::Server));
        assert!(early.is_empty());
        assert_eq!(&found.ok().unwrap().upstream.unwrap().io.early[..], b"220 mail");
        // The next time nobody waits for the client at all.
        let (found, _) = port.find(Speech::Unknown, FOR_EVER, b"220 mail", silent).await;
        assert_eq!(verdict(&found), (Verdict::Opaque, By::Server));
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_server_preface_does_not_decide() {
        let port = Port::default();
        let client = |mut client: TcpStream| async {
            tokio::time::sleep(PATIENCE * 100).await;
            client.write_all(PREFACE).await.unwrap();
            client
        };
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x05";
        let (found, early) = port.find(Speech::Unknown, PATIENCE, settings, client).await;
        assert_eq!(verdict(&found), (Verdict::Http2, By::Client));
        assert_eq!(&early[..], PREFACE);
        assert!(port.dialled.get() && !port.learned.server_first());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_in_the_middle_of_a_word_is_not_kept_waiting() {
        for (word, expected) in [(&b"PING"[..], Verdict::Opaque), (b"GET /a", Verdict::Http1)] {
            let client = |mut client: TcpStream| async {
                client.write_all(word).await.unwrap();
                client
            };
            let (found, early) = Port::default().find(Speech::Unknown, PATIENCE, b"", client).await;
            assert_eq!(verdict(&found), (expected, By::Silence));
            assert_eq!(early, word);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_whose_second_piece_waits_for_an_acknowledgement_is_still_http() {
        let client = |mut client: TcpStream| async {
            client.write_all(b"GET ").await.unwrap();
            tokio::time::sleep(Duration::from_millis(45)).await;
            client.write_all(b"/ HTTP/1.1\r\n").await.unwrap();
            client
        };
        let (found, _) = Port::default().find(Speech::Unknown, PATIENCE, b"", client).await;
        assert_eq!(verdict(&found), (Verdict::Http1, By::Client));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_cannot_be_reached_is_counted_as_such() {
        let (_client, own_end) = pair().await;
        let (mut io, connections, learned) = (Io::new(own_end), Connections::new(), Learned::default());
        let dial = async { Err(ProxyError::new(Cause::ConnectRefused, "nothing listens there")) };
        let found =
            find(&mut io, Speech::Unknown, &learned, PATIENCE, None, &connections.enter(), dial).await;
        assert!(matches!(found, Err(Lost::Upstream(_))));
        assert_eq!(outcome(Speech::Unknown, &found), Detected::NoUpstream);
    }

    #[tokio::test]
    async fn a_client_that_ends_its_side_at_once_is_passed_on() {
        let client = |mut client: TcpStream| async {
            client.shutdown().await.unwrap();
            client
        };
        let (found, _) = Port::default().find(Speech::Unknown, FOR_EVER, b"", client).await;
        assert_eq!(verdict(&found), (Verdict::Opaque, By::Silence));
    }

    #[tokio::test(start_paused = true)]
    async fn where_http_is_said_nobody_dials_for_a_silent_client() {
        let port = Port::default();
        let client = |mut client: TcpStream| async {
            tokio::time::sleep(PATIENCE * 1000).await;
            client.write_all(b"\x16\x03 no HTTP").await.unwrap();
            client
        };
        let (found, _) = port.find(Speech::Http, PATIENCE, b"hello", client).await;
        // HTTP/1 refuses it: opaque is no way around a port that speaks HTTP.
        assert_eq!(verdict(&found), (Verdict::Http1, By::Client));
        assert!(!port.dialled.get());
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_in_before_the_door_closed_is_heard() {
        for speech in [Speech::Http, Speech::Unknown] {
            let port = Port::default();
            port.connections.advance(Phase::Draining);
            let client = |mut client: TcpStream| async {
                client.write_all(b"GET ").await.unwrap();
                tokio::time::sleep(Duration::from_millis(45)).await;
                client.write_all(b"/ HTTP/1.1\r\n").await.unwrap();
                client
            };
            let (found, early) = port.find(speech, FOR_EVER, b"", client).await;
            assert_eq!(verdict(&found), (Verdict::Http1, By::Client));
            assert!(early.starts_with(b"GET "));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_clients_that_asked_for_nothing() {
        let port = Port::default();
        let connections = port.connections.clone();
        let client = |client: TcpStream| async move {
            connections.advance(Phase::Lame);
            tokio::task::yield_now().await;
            connections.advance(Phase::Draining);
            client
        };
        let (found, _) = port.find(Speech::Http, FOR_EVER, b"", client).await;
        assert!(matches!(found, Err(Lost::Gone)));
    }
}
