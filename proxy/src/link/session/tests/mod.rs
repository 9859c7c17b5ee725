//! The session, driven end against end.

mod exchange;
mod flow;
mod hostile;
mod lanes;
mod states;

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::error::Cause;
use crate::link::head::{Opening, Protocol, Scheme};

/// Both ends of a link, and the time.
pub(super) struct Pair {
    pub(super) opener: Session,
    pub(super) acceptor: Session,
    pub(super) now: Instant,
}

impl Pair {
    pub(super) fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Pair {
            opener: Session::new(Side::Opener, limits, now),
            acceptor: Session::new(Side::Acceptor, limits, now),
            now,
        }
    }

    /// Carries bytes both ways until there are none.
    pub(super) fn pump(&mut self) {
        while self.opener.wants_transmit() || self.acceptor.wants_transmit() {
            self.acceptor.recv(self.now, written(&mut self.opener, usize::MAX)).unwrap();
            self.opener.recv(self.now, written(&mut self.acceptor, usize::MAX)).unwrap();
        }
    }

    /// Opens a stream and takes it at the other end.
    pub(super) fn open(
        &mut self,
        head: &Opening<'_>,
        fields: &[NameValue],
        body: &[u8],
        end: bool,
    ) -> StreamId {
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let (id, taken) = self.opener.open(self.now, head, fields, body, end).unwrap();
        assert_eq!(taken, body.len());
        id
    }
}

/// A name and a value.
pub(super) type NameValue = (&'static str, &'static str);

/// What `from` has to write, at most `most` bytes of it.
pub(super) fn written(from: &mut Session, most: usize) -> Bytes {
    let mut bytes = BytesMut::new();
    while bytes.len() < most {
        let outbox = from.transmit();
        if outbox.is_empty() {
            break;
        }
        let mut slices = Slices::new();
        outbox.slices(&mut slices);
        let before = bytes.len();
        for slice in &slices {
            bytes.extend_from_slice(slice);
        }
        assert_eq!(bytes.len() - before, outbox.len());
        bytes.truncate(most);
        let taken = bytes.len() - before;
        drop(slices);
        outbox.advance(taken);
    }
    bytes.freeze()
}

/// The stream that was opened first, and what it began with. Other events are passed over.
pub(super) fn opened(session: &mut Session) -> (StreamId, RequestHead, bool) {
    while let Some(event) = session.event() {
        if let Event::Opened { stream, head, end } = event {
            return (stream, head, end);
        }
    }
    panic!("no stream was opened");
}

/// All events that wait.
pub(super) fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.event()).collect()
}

/// `GET path`.
pub(super) fn get(path: &'static str) -> Opening<'static> {
    Opening {
        protocol: Protocol::Http1,
        scheme: Scheme::Http,
        method: b"GET",
        authority: b"reviews",
        path: path.as_bytes(),
        deadline: None,
    }
}

/// Reads all that is there, and releases it.
pub(super) fn read_all(session: &mut Session, stream: StreamId) -> (Vec<u8>, Vec<String>) {
    let (mut body, mut rest) = (Vec::new(), Vec::new());
    while let Some(read) = session.read(stream) {
        match read {
            Read::Data(bytes) => {
                body.extend_from_slice(&bytes);
                session.release(stream, bytes.len());
            }
            Read::Head(head) => rest.push(format!("{}", head.status)),
            Read::Trailers(trailers) => {
                rest.extend(trailers.fields().map(|field| format!("{}", String::from_utf8_lossy(field.name))))
            }
            Read::End => rest.push("end".into()),
            Read::Cut(cut) => rest.push(format!("cut: {}", cut.code.label())),
        }
    }
    (body, rest)
}

pub(super) fn none() -> [(&'static [u8], &'static [u8]); 0] {
    []
}

pub(super) fn bytes(length: usize) -> Bytes {
    (0..length).map(|at| (at % 251) as u8).collect()
}
