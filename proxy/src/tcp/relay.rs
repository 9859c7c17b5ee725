//! Bytes both ways between two sockets, until both ways ended or one broke.
//!
//! A way that carries little is read into a buffer that is given back at once: two system calls a message, and no
//! memory at rest. A way that fills a whole buffer carries bulk and goes through a kernel pipe until it pauses.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::io::Errno;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::pipe::{PIPE_BYTES, Pipe};
use super::websocket::{Frames, GOING_AWAY};
use crate::buf::Buffer;
use crate::drain::{Phase, Ticket};
use crate::error::Cause;
use crate::http::h1::edit::Slices;
use crate::io::{Io, Stream};
use crate::link::exchange::Exchange;

/// What passed, and how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Relayed {
    /// Bytes from downstream that upstream took.
    pub(crate) bytes_in: u64,
    /// Bytes from upstream that downstream took.
    pub(crate) bytes_out: u64,
    /// Why it broke. `None`: both sides ended by themselves.
    pub(crate) cause: Option<Cause>,
}

/// What two sides say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Talk {
    /// It is not known.
    Opaque,
    /// In a drain its client is told to go, between two frames, and nothing follows that. What it answers, and says until
    /// then, is passed on, so that the server hears it too.
    WebSocket,
}

/// Passes bytes both ways until both ended. The end of one way is passed on and leaves the other open. Whatever
/// breaks it (a reset, `idle` without a byte, the drain's deadline, `is_cut`) closes both sides with a reset,
/// so that no cut looks like an end.
pub(crate) async fn relay(
    talk: Talk,
    downstream: &mut Io,
    upstream: &mut Io,
    idle: Option<Duration>,
    ticket: &Ticket,
    mut is_cut: impl FnMut(&mut Context<'_>) -> bool,
) -> Relayed {
    let mut there = Way::new(std::mem::take(&mut downstream.early));
    let mut back = Way::new(std::mem::take(&mut upstream.early));
    back.following = (talk == Talk::WebSocket).then(Box::default);
    let (down, up) = (&mut downstream.stream, &mut upstream.stream);
    // Moved only when it fires too early: what moves bytes touches no timer.
    let mut timer = pin!(tokio::time::sleep(idle.unwrap_or_default()));
    let mut since = Instant::now();
    let cause = poll_fn(|cx| {
        ticket.watch(cx.waker());
        if ticket.phase() == Phase::Closed {
            return Poll::Ready(Some(Cause::Draining));
        }
        if ticket.phase() == Phase::Draining {
            back.say_goodbye();
        }
        if is_cut(cx) {
            return Poll::Ready(Some(Cause::NotServing));
        }
        let before = there.moved + back.moved;
        let went = there.poll(cx, down, up).map_err(|broken| match broken {
            Broken::Source => Cause::DownstreamAborted,
            Broken::Sink => Cause::UpstreamReset,
        });
        let came = back.poll(cx, up, down).map_err(|broken| match broken {
            Broken::Source => Cause::UpstreamReset,
            Broken::Sink => Cause::DownstreamAborted,
        });
        match (went, came) {
            (Poll::Ready(Err(cause)), _) | (_, Poll::Ready(Err(cause))) => return Poll::Ready(Some(cause)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(None),
            _ => {}
        }
        if there.moved + back.moved != before {
            since = Instant::now();
        }
        let Some(limit) = idle else { return Poll::Pending };
        while timer.as_mut().poll(cx).is_ready() {
            if since.elapsed() >= limit {
                return Poll::Ready(Some(Cause::IdleTimeout));
            }
            timer.as_mut().reset(since + limit);
        }
        Poll::Pending
    })
    .await;
    if cause.is_some() {
        downstream.reset_on_close();
        upstream.reset_on_close();
    }
    Relayed { bytes_in: there.moved, bytes_out: back.moved, cause }
}

/// One way. Bytes are held in at most one place at a time: what came early, then a buffer or a pipe.
struct Way {
    early: Bytes,
    buffer: Option<Buffer>,
    pipe: Option<Pipe>,
    mode: Mode,
    ended: End,
    moved: u64,
    /// Of WebSocket towards its client.
    following: Option<Box<Following>>,
}

/// How far a way of WebSocket has come.
#[derive(Default)]
struct Following {
    frames: Frames,
    goodbye: Goodbye,
}

#[derive(Clone, Copy, Default)]
enum Goodbye {
    /// Nobody leaves.
    #[default]
    No,
    /// It is said as soon as no frame is half written.
    Wanted,
    /// So many bytes of it are written. Nothing follows it.
    Said(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Buffers, and a pipe as soon as one is filled.
    Chat,
    /// Through a pipe until the source pauses.
    Bulk,
    /// Buffers only: the system refused a pipe or a splice.
    Plain,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The source goes on.
    Open,
    /// The source ended; the sink is not told yet.
    Read,
    /// The sink is told.
    Passed,
}

/// Which side of a way broke.
#[derive(Debug)]
enum Broken {
    Source,
    Sink,
}

impl Way {
    fn new(early: Bytes) -> Self {
        let (mode, ended) = (Mode::Chat, End::Open);
        Way { early, buffer: None, pipe: None, mode, ended, moved: 0, following: None }
    }

    /// Tells the sink that this side goes away, where there are words for that.
    fn say_goodbye(&mut self) {
        if let Some(following) = &mut self.following
            && matches!(following.goodbye, Goodbye::No)
            && !following.frames.is_closed()
        {
            following.goodbye = Goodbye::Wanted;
        }
    }

    /// Moves what can be moved. Ready when the source ended, all it sent is written, and the sink is told.
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Stream, to: &mut Stream) -> Poll<Result<(), Broken>> {
        let splices = from.plain().is_some() && to.plain().is_some() && self.following.is_none();
        loop {
            if let Err(_error) = ready!(self.poll_write(cx, to)) {
                return Poll::Ready(Err(Broken::Sink));
            }
            match self.ended {
                End::Open => {}
                End::Read => {
                    // Fails only where the sink is gone already, which its own way will tell.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.ended = End::Passed;
                }
                End::Passed => return Poll::Ready(Ok(())),
            }
            // Frames are followed where they are read.
            if let (End::Open, None, Stream::Link(from)) = (self.ended, &self.following, &mut *from)
                && ready!(self.poll_pass(cx, from, to))?
            {
                continue;
            }
            if self.ended == End::Open
                && let Err(_error) = ready!(self.poll_read(cx, from, splices))
            {
                return Poll::Ready(Err(Broken::Source));
            }
        }
    }

    /// Writes all that is held.
    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        if self.following.is_some() {
            ready!(self.poll_write_frames(cx, to))?;
        }
        while !self.early.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.early))?;
            self.early.advance(written);
            self.moved += written as u64;
        }
        if let Some(buffer) = &mut self.buffer {
            while !buffer.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, buffer.filled()))?;
                buffer.consume(written);
                self.moved += written as u64;
            }
            self.buffer = None;
        }
        if let Some(pipe) = &mut self.pipe
            && pipe.held() > 0
            && let Some(to) = to.plain()
        {
            let before = pipe.held();
            let drained = pipe.poll_drain(cx, to);
            self.moved += (before - pipe.held()) as u64;
            ready!(drained)?;
        }
        Pin::new(to).poll_flush(cx)
    }

    /// Writes what is held of WebSocket, and goodbye where it is wanted.
    fn poll_write_frames(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        let Some(following) = &mut self.following else { return Poll::Ready(Ok(())) };
        loop {
            if let Goodbye::Wanted = following.goodbye
                && following.frames.is_whole()
            {
                following.goodbye = Goodbye::Said(0);
            }
            if let Goodbye::Said(said) = &mut following.goodbye {
                while *said < GOING_AWAY.len() {
                    *said += ready!(Pin::new(&mut *to).poll_write(cx, &GOING_AWAY[*said..]))?;
                }
                // Nobody takes it any more.
                self.early = Bytes::new();
                self.buffer = None;
                return Poll::Ready(Ok(()));
            }
            let held = match &self.buffer {
                _ if !self.early.is_empty() => &self.early,
                Some(buffer) => buffer.filled(),
                None => &[],
            };
            if held.is_empty() {
                self.buffer = None;
                return Poll::Ready(Ok(()));
            }
            let most = match following.goodbye {
                Goodbye::Wanted => following.frames.until_whole(held),
                _ => held.len(),
            };
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &held[..most]))?;
            following.frames.pass(&held[..written]);
            self.moved += written as u64;
            match &mut self.buffer {
                _ if !self.early.is_empty() => self.early.advance(written),
                Some(buffer) => buffer.consume(written),
                None => {}
            }
        }
    }

    /// Writes what comes over a link from where it is. False: it is to be read.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Exchange,
        to: &mut Stream,
    ) -> Poll<Result<bool, Broken>> {
        if !ready!(from.poll_content(cx)).map_err(|_| Broken::Source)? {
            return Poll::Ready(Ok(false));
        }
        let mut slices = Slices::new();
        from.content(usize::MAX, &mut slices);
        let written = ready!(to.poll_send(&slices, cx)).map_err(|_| Broken::Sink)?;
        drop(slices);
        if written == 0 {
            return Poll::Ready(Err(Broken::Sink));
        }
        from.passed(written);
        self.moved += written as u64;
        Poll::Ready(Ok(true))
    }

    /// Reads once; nothing is held before.
    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut Stream, splices: bool) -> Poll<io::Result<()>> {
        if let Some(from) = from.plain()
            && self.mode == Mode::Bulk
        {
            match self.poll_splice(cx, from)? {
                Poll::Ready(Some(bytes)) => {
                    if bytes == 0 {
                        self.ended = End::Read;
                    }
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(None) => self.mode = Mode::Plain,
                Poll::Pending => {
                    self.mode = Mode::Chat;
                    self.pipe = None;
                    return Poll::Pending;
                }
            }
        }
        // Readiness first: a way at rest takes no buffer.
        if let Some(from) = from.plain() {
            ready!(from.poll_read_ready(cx))?;
        }
        let mut buffer = Buffer::take();
        let bytes = ready!(buffer.poll_read(from, cx))?;
        let full = buffer.room() == 0;
        match bytes {
            0 => self.ended = End::Read,
            _ => self.buffer = Some(buffer),
        }
        if full && splices && self.mode == Mode::Chat {
            self.mode = Mode::Bulk;
        }
        Poll::Ready(Ok(()))
    }

    /// Fills the pipe. `None`: this system or this socket does not splice, or there is no descriptor for a pipe.
    fn poll_splice(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<Option<usize>>> {
        let pipe = match &mut self.pipe {
            Some(pipe) => pipe,
            None => match Pipe::take() {
                Ok(pipe) => self.pipe.insert(pipe),
                Err(_no_descriptor) => return Poll::Ready(Ok(None)),
            },
        };
        match ready!(pipe.poll_fill(cx, from, PIPE_BYTES)) {
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::NOSYS)) => {
                Poll::Ready(Ok(None))
            }
            filled => Poll::Ready(filled.map(Some)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::drain::Connections;
    use crate::loopback::pair;

    /// A client and a server with a relay between them.
    async fn relayed(
        early: &'static [u8],
        idle: Option<Duration>,
    ) -> (TcpStream, TcpStream, impl Future<Output = Relayed>, Connections) {
        let (client, down) = pair().await;
        let (up, server) = pair().await;
        let connections = Connections::new();
        let ticket = connections.enter();
        let relay = async move {
            let mut down = Io::with_early(down, Bytes::from_static(early));
            let mut up = Io::new(up);
            relay(Talk::Opaque, &mut down, &mut up, idle, &ticket, |_| false).await
        };
        (client, server, relay, connections)
    }

    #[tokio::test]
    async fn a_client_of_websocket_is_told_between_two_frames_and_hears_no_more() {
        let (mut client, down) = pair().await;
        let (up, mut server) = pair().await;
        let connections = Connections::new();
        let ticket = connections.enter();
        let (mut down, mut up) = (Io::new(down), Io::new(up));
        let relay = relay(Talk::WebSocket, &mut down, &mut up, None, &ticket, |_| false);
        let talk = async {
            let mut heard = [0; 4];
            server.write_all(b"\x81\x03wh").await.unwrap();
            client.read_exact(&mut heard).await.unwrap();
            connections.advance(Phase::Draining);
            // What was begun is finished, and what comes behind it is not passed on.
            server.write_all(b"y\x81\x02no").await.unwrap();
            let mut heard = [0; 5];
            client.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"y\x88\x02\x03\xe9");
            let last = b"\x81\x81\0\0\0\0x\x88\x82\0\0\0\0\x03\xe9";
            client.write_all(last).await.unwrap();
            let mut heard = [0; 15];
            server.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, last, "the server hears what the client says and answers");
            server.write_all(GOING_AWAY).await.unwrap();
            drop(server);
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            drop(client);
        };
        let (relayed, ()) = tokio::join!(relay, talk);
        assert_eq!(relayed.cause, None);
    }

    #[tokio::test]
    async fn half_close_is_passed_on_each_way() {
        let (mut client, mut server, relay, _connections) = relayed(b"ear", None).await;
        let talk = async {
            client.write_all(b"ly").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"early");
            // The other way is still open, for as long as the server wants.
            server.write_all(b"answer").await.unwrap();
            drop(server);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"answer");
        };
        let (relayed, ()) = tokio::join!(relay, talk);
        assert_eq!(relayed, Relayed { bytes_in: 5, bytes_out: 6, cause: None });
    }

    #[tokio::test]
    async fn bulk_arrives_whole_both_ways_at_once() {
        const BYTES: usize = 9_000_001;
        let (client, server, relay, _connections) = relayed(b"", None).await;
        let pattern: Vec<u8> = (0..BYTES).map(|at| (at * 7 + at / 251) as u8).collect();
        let side = |stream: TcpStream| async {
            let (mut read, mut write) = stream.into_split();
            let mut heard = Vec::new();
            let send = async {
                // Pauses in between, so that each way changes between bulk and chat.
                for part in pattern.chunks(1_000_003) {
                    write.write_all(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
                write.shutdown().await.unwrap();
            };
            let (_, got) = tokio::join!(send, read.read_to_end(&mut heard));
            got.unwrap();
            assert!(heard == pattern);
        };
        let (relayed, (), ()) = tokio::join!(relay, side(client), side(server));
        let bytes = BYTES as u64;
        assert_eq!(relayed, Relayed { bytes_in: bytes, bytes_out: bytes, cause: None });
    }

    #[tokio::test]
    async fn a_reset_is_passed_on_as_a_reset() {
        let (client, mut server, relay, _connections) = relayed(b"", None).await;
        let talk = async {
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            let error = server.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        };
        let (relayed, ()) = tokio::join!(relay, talk);
        assert_eq!(relayed.cause, Some(Cause::DownstreamAborted));
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
        let (mut client, mut server, relay, _connections) = relayed(b"", None).await;
        let sent = async {
            let part = vec![7u8; 1 << 20];
            let mut sent = 0;
            // Nobody reads: the sender is held back once the sockets and one pipe are full.
            while let Ok(result) = tokio::time::timeout(Duration::from_millis(100), client.write(&part)).await
            {
                sent += result.unwrap();
                assert!(sent < 64 << 20, "the relay takes bytes without end");
            }
            client.shutdown().await.unwrap();
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard.len(), sent);
            drop(server);
            sent
        };
        let (relayed, sent) = tokio::join!(relay, sent);
        assert_eq!(relayed.bytes_in, sent as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_with_a_reset() {
        let (mut client, mut server, relay, _connections) = relayed(b"", Some(Duration::from_secs(60))).await;
        let start = Instant::now();
        let talk = async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            client.write_all(b"x").await.unwrap();
            server.read_exact(&mut [0]).await.unwrap();
            let error = server.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        };
        let (relayed, ()) = tokio::join!(relay, talk);
        assert_eq!(relayed.cause, Some(Cause::IdleTimeout));
        assert!(start.elapsed() >= Duration::from_secs(100));
    }

    #[tokio::test]
    async fn the_drain_deadline_cuts_with_a_reset_and_not_before() {
        let (mut client, mut server, relay, connections) = relayed(b"", None).await;
        let talk = async {
            connections.advance(Phase::Draining);
            client.write_all(b"still carried").await.unwrap();
            server.read_exact(&mut [0; 13]).await.unwrap();
            connections.advance(Phase::Closed);
            assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(server.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        };
        let (relayed, ()) = tokio::join!(relay, talk);
        assert_eq!(relayed.cause, Some(Cause::Draining));
    }
}
