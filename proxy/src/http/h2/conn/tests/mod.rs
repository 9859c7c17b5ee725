//! Tests by section of RFC 9113.

mod attacks;
mod peer;

use std::time::Instant;

use bytes::BytesMut;

use super::*;
use crate::http::h2::frame::{self, Kind};
use crate::link::session::Slices;

/// A connection, and the peer's part in it, frame by frame.
struct Table {
    connection: Connection,
    now: Instant,
    encoder: hpack::Encoder,
}

impl Table {
    /// Both have greeted each other.
    fn new(side: Side, limits: Limits) -> Self {
        let now = Instant::now();
        let mut table =
            Table { connection: Connection::new(side, limits, now), now, encoder: hpack::Encoder::new() };
        if side == Side::Server {
            table.bytes(settings::PREFACE);
        }
        table.frame(Kind::Settings, 0, 0, &[]);
        table.sent();
        table
    }

    /// Bytes come.
    fn bytes(&mut self, bytes: &[u8]) {
        self.connection.recv(self.now, &mut BytesMut::from(bytes));
    }

    /// A frame comes.
    fn frame(&mut self, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        frame::put_head(&mut bytes, payload.len(), kind, flags, stream);
        bytes.extend_from_slice(payload);
        self.bytes(&bytes);
    }

    /// A head or trailers come.
    fn fields(&mut self, stream: u32, end: bool, fields: &[(&str, &str)]) {
        let mut block = Vec::new();
        for (name, value) in fields {
            self.encoder.field(name.as_bytes(), value.as_bytes(), false, &mut block);
        }
        let end = if end { frame::END_STREAM } else { 0 };
        self.frame(Kind::Headers, end | frame::END_HEADERS, stream, &block);
    }

    /// A request comes, and is accepted.
    fn request(&mut self, stream: u32, end: bool) -> Key {
        self.fields(
            stream,
            end,
            &[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")],
        );
        self.connection.accept().unwrap().key
    }

    /// Takes all frames that were written: kind, flags, stream, payload.
    fn sent(&mut self) -> Vec<(Kind, u8, u32, Vec<u8>)> {
        let mut slices = Slices::new();
        self.connection.outbox().slices(&mut slices);
        let bytes = slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>();
        drop(slices);
        self.connection.written(bytes.len());
        let mut rest = bytes.strip_prefix(settings::PREFACE).unwrap_or(&bytes);
        let mut frames = Vec::new();
        while let Some((head, behind)) = rest.split_first_chunk() {
            let head = frame::parse(head);
            let (payload, behind) = behind.split_at(head.len);
            frames.push((head.kind, head.flags, head.stream, payload.to_vec()));
            rest = behind;
        }
        assert!(rest.is_empty());
        frames
    }

    fn fault(&self) -> Option<Code> {
        self.connection.fault().map(|fault| fault.code)
    }
}

/// A POST.
fn post() -> RequestHead {
    RequestHead::new(b"POST", b"http", b"a", b"/")
}
