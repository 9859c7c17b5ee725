//! One HTTP/2 connection (RFC 9113), of either side. No socket and no clock of its own.
//!
//! Bytes that came go into [`Connection::recv`]; what is to go out lies in [`Connection::outbox`]. Which streams the peer
//! opened is told by [`Connection::accept`], and for which of them something changed by [`Connection::woken`].
//!
//! What came on a stream waits there until it is read, and counts against the peer's window until it is
//! [released](Connection::release), so that a slow reader slows its own sender only. Bodies are sent only as far as
//! [`Connection::capacity`] says, so that nothing that the peer does not take waits here but what the socket has not
//! taken yet.
//!
//! Whoever has a [`Key`] has to [let go](Connection::let_go) of it.

mod check;
mod flow;
mod heads;
mod limits;
mod offence;
mod recv;
mod send;
mod settings;
mod stream;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::time::Instant;

use bytes::Bytes;
use slab::Slab;

pub use self::heads::Wrong;
pub use self::limits::Limits;
use self::recv::Inbox;
pub use self::send::Closed;
use self::settings::Peer;
use self::stream::Stream;
use super::fields::{Fields, RequestHead, ResponseHead};
use super::frame::Code;
use super::hpack;
use crate::link::session::credit::Window;
use crate::link::session::{IdHasher, Meter, Outbox};

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It dialled, and opens the streams.
    Client,
    /// It was called.
    Server,
}

/// A stream, as long as nobody has let go of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(usize);

impl Key {
    /// A small number of its own among those of the streams that are open.
    pub fn index(self) -> usize {
        self.0
    }
}

/// A stream that the peer opened.
#[derive(Debug)]
pub struct Opened {
    /// The stream.
    pub key: Key,
    /// Its head, or that it was too large to be kept.
    pub head: Result<RequestHead, TooLarge>,
}

/// A head was larger than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// How a stream was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The peer reset it.
    Reset(Code),
    /// The peer has said that it has not looked at it (RFC 9113 §6.8).
    Unread,
    /// What the peer sent on it breaks the rules, or what it sent on the connection.
    Malformed,
    /// This side has given it up.
    Given,
    /// The connection is gone.
    Lost,
}

/// What comes next on a stream.
#[derive(Debug)]
pub enum Read {
    /// Part of the body.
    Data {
        /// To be [released](Connection::release) when it is no longer held.
        part: Bytes,
        /// Nothing comes behind it: [`Read::End`] need not be asked for.
        end: bool,
    },
    /// Fields behind the body. The end comes next.
    Trailers(Box<Fields>),
    /// It has ended well.
    End,
    /// It was cut off: what came is not whole.
    Cut(Cut),
}

/// Why a connection was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What the peer is told.
    pub code: Code,
    /// What this side says of it.
    pub detail: &'static str,
}

impl Fault {
    const fn new(code: Code, detail: &'static str) -> Self {
        Fault { code, detail }
    }
}

/// How far this side is with its goodbye (RFC 9113 §6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    Not,
    /// It was announced; what comes until the peer knows is still taken.
    Announced,
    /// Nothing more is taken.
    Settled,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    side: Side,
    limits: Limits,
    streams: Slab<Stream>,
    /// Those of them that are open, by their number.
    ids: HashMap<u32, usize, BuildHasherDefault<IdHasher>>,
    /// The highest number of a stream that was opened, by the side that opens them.
    highest: u32,
    /// What `highest` was when this side had said goodbye: what came after it was not looked at.
    settled: Option<u32>,
    opened: VecDeque<Opened>,
    woken: Vec<Key>,
    inbox: Inbox,
    outbox: Outbox,
    encoder: hpack::Encoder,
    decoder: hpack::Decoder,
    peer: Peer,
    /// What the peer still takes on all streams together.
    window_out: i64,
    /// What the peer may send on all streams together.
    window: Window,
    /// Streams that wait for room on the connection, in turn.
    starved: VecDeque<usize>,
    /// The sum of what is kept for streams.
    granted: usize,
    /// Streams that this side has reset of late: what was on its way then means nothing.
    reset: VecDeque<u32>,
    /// Bytes of answers to the peer's frames since the outbox was empty.
    replies: usize,
    resets_seen: Meter,
    settings_seen: Meter,
    pings_seen: Meter,
    useless_seen: Meter,
    leaving: Leaving,
    /// What a goodbye says beside itself.
    words: &'static [u8],
    /// The peer's goodbye said that it drains.
    peer_drains: bool,
    /// The peer has said goodbye, and has looked at no stream above this one.
    peer_last: Option<u32>,
    fault: Option<Fault>,
}

impl Connection {
    /// A new connection, with its first frames in the outbox.
    pub fn new(side: Side, limits: Limits, now: Instant) -> Self {
        let meter = Meter::new(now);
        let mut connection = Connection {
            side,
            limits,
            streams: Slab::new(),
            ids: HashMap::default(),
            highest: 0,
            settled: None,
            opened: VecDeque::new(),
            woken: Vec::new(),
            inbox: Inbox::new(side),
            outbox: Outbox::default(),
            encoder: hpack::Encoder::new(),
            decoder: hpack::Decoder::new(settings::TABLE),
            peer: Peer::default(),
            window_out: i64::from(settings::WINDOW),
            // A peer may use the window that RFC 9113 §6.9.2 gives it before it has heard of any other.
            window: Window::new(limits.window.max(settings::WINDOW)),
            starved: VecDeque::new(),
            granted: 0,
            reset: VecDeque::new(),
            replies: 0,
            resets_seen: meter,
            settings_seen: meter,
            pings_seen: meter,
            useless_seen: meter,
            leaving: Leaving::Not,
            words: b"",
            peer_drains: false,
            peer_last: None,
            fault: None,
        };
        connection.greet();
        connection
    }

    /// The next stream that the peer has opened.
    pub fn accept(&mut self) -> Option<Opened> {
        self.opened.pop_front()
    }

    /// The streams for which something has changed since this was asked last.
    pub fn woken(&mut self) -> impl Iterator<Item = Key> {
        for key in &self.woken {
            if let Some(stream) = self.streams.get_mut(key.0) {
                stream.woken = false;
            }
        }
        self.woken.drain(..)
    }

    /// Whether there is anything that [`Self::woken`] would say.
    pub fn has_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    /// The next head of an answer; interim ones come before the one of the answer.
    pub fn read_head(&mut self, key: Key) -> Option<Result<ResponseHead, Cut>> {
        let stream = self.streams.get_mut(key.0)?;
        let inward = &mut stream.inward;
        match (inward.interims.pop_front().or_else(|| inward.head.take()), stream.cut) {
            (Some(head), _) => Some(Ok(head)),
            (None, Some(cut)) => Some(Err(cut)),
            (None, None) => None,
        }
    }

    /// What comes next behind the head: at most `most` bytes of a body. `None`: nothing has come yet.
    pub fn read(&mut self, key: Key, most: usize) -> Option<Read> {
        let stream = self.streams.get_mut(key.0)?;
        let inward = &mut stream.inward;
        if !inward.body.is_empty() {
            let part = inward.body.take(most);
            let end = inward.ended && inward.is_read();
            return (!part.is_empty()).then_some(Read::Data { part, end });
        }
        if let Some(trailers) = inward.trailers.take() {
            return Some(Read::Trailers(trailers));
        }
        match stream.cut {
            _ if inward.ended => Some(Read::End),
            Some(cut) => Some(Read::Cut(cut)),
            None => None,
        }
    }

    /// Bytes of body that wait to be read.
    pub fn readable(&self, key: Key) -> usize {
        self.streams.get(key.0).map_or(0, |stream| stream.inward.body.len())
    }

    /// Whether all was read, and has ended well.
    pub fn is_end(&self, key: Key) -> bool {
        self.streams.get(key.0).is_some_and(|stream| stream.inward.ended && stream.inward.is_read())
    }

    /// How the stream was cut off, if it was.
    pub fn cut(&self, key: Key) -> Option<Cut> {
        self.streams.get(key.0)?.cut
    }

    /// Streams that are open.
    pub fn open_streams(&self) -> usize {
        self.ids.len()
    }

    /// Streams that the peer allows; `None` before it has said anything.
    pub fn allowed(&self) -> Option<u32> {
        self.peer.allowed
    }

    /// Whether the peer has said what it has to say first.
    pub fn is_greeted(&self) -> bool {
        self.inbox.is_greeted()
    }

    /// Whether the peer has begun something that it has to end before anything else can come: a header block, or a frame
    /// other than DATA.
    pub fn is_amid_frame(&self) -> bool {
        self.inbox.is_amid_frame()
    }

    /// Whether a stream can be opened here at all, now or later.
    pub fn is_usable(&self) -> bool {
        self.fault.is_none()
            && self.peer_last.is_none()
            && self.leaving == Leaving::Not
            && self.highest < frame_limit()
    }

    /// Whether the peer has said that it drains, and not only this connection.
    pub fn is_peer_draining(&self) -> bool {
        self.peer_drains
    }

    /// Whether this side has said goodbye.
    pub fn is_leaving(&self) -> bool {
        self.leaving != Leaving::Not
    }

    /// Why the connection was given up, if it was.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether nothing is to be done any more but to write what is in the outbox.
    pub fn is_done(&self) -> bool {
        let leaves = match self.side {
            Side::Server => self.leaving == Leaving::Settled,
            Side::Client => self.leaving != Leaving::Not || self.peer_last.is_some(),
        };
        self.fault.is_some() || (leaves && self.ids.is_empty())
    }

    /// What is to be written.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The first `bytes` of the outbox were written.
    pub fn written(&mut self, bytes: usize) {
        self.outbox.advance(bytes);
        if self.outbox.is_empty() {
            self.replies = 0;
        }
        self.feed_starved();
    }

    /// The connection is gone.
    pub fn lose(&mut self) {
        if self.fault.is_none() {
            self.fault = Some(Fault::new(Code::NO_ERROR, "the connection was closed"));
            self.cut_all(Cut::Lost);
        }
    }

    /// The peer broke the rules. It is told so, as far as it listens.
    fn give_up(&mut self, fault: Fault) {
        if self.fault.is_some() {
            return;
        }
        self.cut_all(Cut::Malformed);
        self.send_goaway(self.last_seen(), fault.code);
        self.fault = Some(fault);
    }

    fn cut_all(&mut self, cut: Cut) {
        let open: Vec<usize> = self.ids.drain().map(|(_, key)| key).collect();
        for key in open {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.closed = true;
            stream.cut.get_or_insert(cut);
            self.wake(key);
        }
    }

    /// The highest stream of the peer's that was looked at.
    fn last_seen(&self) -> u32 {
        match self.side {
            Side::Server => self.settled.unwrap_or(self.highest),
            // The server opens none.
            Side::Client => 0,
        }
    }

    /// Notes that something changed for a stream.
    fn wake(&mut self, key: usize) {
        if let Some(stream) = self.streams.get_mut(key)
            && !stream.woken
        {
            stream.woken = true;
            self.woken.push(Key(key));
        }
    }

    /// Cuts a stream off: nothing is sent on it any more, and nothing that comes is taken.
    fn cut_off(&mut self, key: usize, cut: Cut) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.closed {
            return;
        }
        stream.closed = true;
        stream.cut.get_or_insert(cut);
        self.ids.remove(&stream.id);
        self.give_back(key);
        self.wake(key);
    }

    /// Closes a stream of which both halves have ended.
    fn settle(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.inward.ended && stream.out.ended && !stream.closed {
            stream.closed = true;
            self.ids.remove(&stream.id);
            self.give_back(key);
        }
    }

    /// Nobody has to do with the stream any more. What of it is not over is given up: a server whose answer is whole wants
    /// no more of the request (RFC 9113 §8.1), anybody else gives up everything.
    pub fn let_go(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key.0) else { return };
        if !stream.closed {
            let whole = self.side == Side::Server && stream.out.ended;
            self.reset(key, if whole { Code::NO_ERROR } else { Code::CANCEL });
        }
        self.give_back(key.0);
        let stream = self.streams.remove(key.0);
        self.window.release(stream.inward.held);
        self.grant_window();
    }
}

/// Numbers of streams have 31 bits.
const fn frame_limit() -> u32 {
    (1 << 31) - 1
}
