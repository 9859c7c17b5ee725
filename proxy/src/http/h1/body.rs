//! Where a body ends: a state machine over bytes, without I/O.
//!
//! A body is passed on as it came, chunk sizes and all; every byte is looked at only as far as its framing goes. What
//! is wrong in it is found before it is passed on.

use super::head::Refusal;
use crate::error::Cause;
use crate::http::hop;

/// Most digits of a chunk size; leading zeros count.
const MAX_SIZE_DIGITS: u8 = 16;

/// Most bytes of chunk extensions in one body.
const MAX_EXTENSION_BYTES: u16 = 16 * 1024;

/// Most bytes of a trailer section, and so of one of its lines.
pub const MAX_TRAILER_BYTES: u16 = 8 * 1024;

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// `Content-Length`, above zero.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Answers only: until the connection ends.
    UntilClose,
    /// After 101: not HTTP any more.
    Tunnel,
}

impl Framing {
    /// `Content-Length: length`.
    pub fn length(length: u64) -> Self {
        if length == 0 { Framing::None } else { Framing::Length(length) }
    }

    /// How long the body is, if that is said before it.
    pub fn known_length(self) -> Option<u64> {
        match self {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose | Framing::Tunnel => None,
        }
    }
}

/// A body on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// It has ended.
    Done,
    /// So many bytes are to come.
    Length(u64),
    /// Chunks are to come.
    Chunked(Chunked),
    /// It ends with the connection.
    UntilClose,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes of content.
    Data(usize),
    /// So many bytes of framing: chunk sizes, line ends.
    Framing(usize),
    /// A trailer line.
    Trailer(Trailer),
    /// The last bytes of framing; with them the body ends.
    End(usize),
    /// More bytes are needed to tell.
    More,
}

/// A whole trailer line at the front of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Bytes of the line with its end.
    pub len: usize,
    /// Bytes of its name, from the front.
    pub name: usize,
    /// Where its value begins and ends.
    pub value: (usize, usize),
    /// Whether it may be passed on.
    pub passes: bool,
}

impl Trailer {
    /// Name and value, from the bytes that were stepped over.
    pub fn split<'b>(&self, bytes: &'b [u8]) -> (&'b [u8], &'b [u8]) {
        (&bytes[..self.name], &bytes[self.value.0..self.value.1])
    }
}

/// What can be done with the bytes at hand when the framing is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// So many go on as they are,
    pub pass: usize,
    /// and so many behind them are left out.
    pub omit: usize,
}

impl Body {
    /// A body framed by `framing`, of which nothing was seen yet.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None => Body::Done,
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Chunked::new()),
            Framing::UntilClose | Framing::Tunnel => Body::UntilClose,
        }
    }

    /// Whether it has ended.
    pub fn is_done(&self) -> bool {
        matches!(self, Body::Done)
    }

    /// Whether the end of the connection is the end of the body, not a cut.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self, Body::Done | Body::UntilClose)
    }

    /// Bytes of content that are to come next without any framing between them, as far as that is known.
    pub fn run(&self) -> u64 {
        match self {
            Body::Done => 0,
            Body::Length(left) => *left,
            Body::Chunked(chunked) => chunked.run(),
            Body::UntilClose => u64::MAX,
        }
    }

    /// `bytes` of content went by unseen (spliced); at most [`Body::run`].
    pub fn skip(&mut self, bytes: u64) {
        match self {
            Body::Length(left) => {
                *left -= bytes.min(*left);
                if *left == 0 {
                    *self = Body::Done;
                }
            }
            Body::Chunked(chunked) => chunked.skip(bytes),
            Body::Done | Body::UntilClose => {}
        }
    }

    /// What the front of `bytes` is; counts it as seen.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Refusal> {
        match self {
            Body::Done => Ok(Step::End(0)),
            _ if bytes.is_empty() => Ok(Step::More),
            Body::Length(left) => {
                let here = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= here as u64;
                if *left == 0 {
                    *self = Body::Done;
                }
                Ok(Step::Data(here))
            }
            Body::UntilClose => Ok(Step::Data(bytes.len())),
            Body::Chunked(chunked) => {
                let step = chunked.step(bytes)?;
                if matches!(step, Step::End(_)) {
                    *self = Body::Done;
                }
                Ok(step)
            }
        }
    }

    /// How much of `bytes` goes on as it is; counts it as seen. `0, 0`: more bytes are needed, or it has ended. Call
    /// again after consuming both counts while anything was counted.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<Pass, Refusal> {
        if let Body::Length(left) = self
            && *left >= bytes.len() as u64
        {
            *left -= bytes.len() as u64;
            if *left == 0 {
                *self = Body::Done;
            }
            return Ok(Pass { pass: bytes.len(), omit: 0 });
        }
        let mut pass = 0;
        loop {
            if self.is_done() {
                return Ok(Pass { pass, omit: 0 });
            }
            match self.step(&bytes[pass..])? {
                Step::Data(count) | Step::Framing(count) | Step::End(count) => pass += count,
                Step::Trailer(line) if line.passes => pass += line.len,
                Step::Trailer(line) => return Ok(Pass { pass, omit: line.len }),
                Step::More => return Ok(Pass { pass, omit: 0 }),
            }
        }
    }

    /// Appends to `out` the content alone, without framing; returns how much of `bytes` was seen.
    pub fn decode(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Refusal> {
        let mut seen = 0;
        while !self.is_done() {
            match self.step(&bytes[seen..])? {
                Step::Data(count) => {
                    out.extend_from_slice(&bytes[seen..seen + count]);
                    seen += count;
                }
                Step::Framing(count) | Step::End(count) => seen += count,
                Step::Trailer(line) => seen += line.len,
                Step::More => break,
            }
        }
        Ok(seen)
    }
}

/// A body in chunks (RFC 9112 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunked {
    state: State,
    /// Of the chunk at hand: its size while that is read, then what is left of it.
    left: u64,
    extension_bytes: u16,
    trailer_bytes: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many digits of a size were read.
    Size(u8),
    /// Behind the semicolon.
    Extension,
    /// The CR of a size line was read.
    SizeEnd,
    /// Content.
    Data,
    /// Content was read: CR is next.
    DataCr,
    /// Content and CR were read: LF is next.
    DataLf,
    /// The last chunk was read: trailer lines, then an empty one.
    Trailers,
    /// It has ended.
    End,
}

impl Chunked {
    /// A body of which nothing was seen yet.
    pub const fn new() -> Self {
        Chunked { state: State::Size(0), left: 0, extension_bytes: 0, trailer_bytes: 0 }
    }

    fn run(&self) -> u64 {
        if self.state == State::Data { self.left } else { 0 }
    }

    fn skip(&mut self, bytes: u64) {
        if self.state == State::Data {
            self.left -= bytes.min(self.left);
            if self.left == 0 {
                self.state = State::DataCr;
            }
        }
    }

    /// What the front of `bytes` (not empty) is.
    fn step(&mut self, bytes: &[u8]) -> Result<Step, Refusal> {
        match self.state {
            State::Data => {
                let here = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.skip(here as u64);
                Ok(Step::Data(here))
            }
            State::Trailers => self.trailer(bytes),
            State::End => Ok(Step::End(0)),
            _ => {
                for (at, byte) in bytes.iter().enumerate() {
                    self.framing(*byte)?;
                    if matches!(self.state, State::Data | State::Trailers) {
                        return Ok(Step::Framing(at + 1));
                    }
                }
                Ok(Step::Framing(bytes.len()))
            }
        }
    }

    fn framing(&mut self, byte: u8) -> Result<(), Refusal> {
        self.state = match (self.state, byte) {
            (State::Size(digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == MAX_SIZE_DIGITS || self.left >> 59 != 0 {
                    return Err(bad("a chunk size is too long"));
                }
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                State::Size(digits + 1)
            }
            (State::Size(1..), b'\r') => State::SizeEnd,
            (State::Size(1..), b';') => State::Extension,
            (State::Size(_), _) => return Err(bad("a chunk size is not a number")),
            (State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, byte) if hop::is_field_value(&[byte]) => {
                self.extension_bytes += 1;
                if self.extension_bytes > MAX_EXTENSION_BYTES {
                    return Err(bad("too many chunk extensions"));
                }
                State::Extension
            }
            (State::Extension, _) => {
                return Err(bad("a chunk extension has a character that it must not have"));
            }
            (State::SizeEnd, b'\n') if self.left == 0 => State::Trailers,
            (State::SizeEnd, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0),
            (State::DataCr | State::DataLf, _) => return Err(bad("a chunk is longer than its size")),
            (State::SizeEnd | State::Data | State::Trailers | State::End, _) => {
                return Err(bad("a chunk size does not end as it must"));
            }
        };
        Ok(())
    }

    fn trailer(&mut self, bytes: &[u8]) -> Result<Step, Refusal> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            return if bytes.len() >= usize::from(MAX_TRAILER_BYTES - self.trailer_bytes) {
                Err(bad("the trailers are too long"))
            } else {
                Ok(Step::More)
            };
        };
        let Some(line) = bytes[..end].strip_suffix(b"\r") else {
            return Err(bad("a trailer line does not end as it must"));
        };
        if line.is_empty() {
            self.state = State::End;
            return Ok(Step::End(2));
        }
        if end + 1 > usize::from(MAX_TRAILER_BYTES - self.trailer_bytes) {
            return Err(bad("the trailers are too long"));
        }
        self.trailer_bytes += (end + 1) as u16;
        let colon = memchr::memchr(b':', line).ok_or(bad("a trailer line has no colon"))?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !hop::is_token(name) || !hop::is_field_value(value) {
            return Err(bad("a trailer has a character that it must not have"));
        }
        let trimmed = hop::trim(value);
        let start = super::head::offset(bytes, trimmed);
        Ok(Step::Trailer(Trailer {
            len: end + 1,
            name: colon,
            value: (start, start + trimmed.len()),
            passes: hop::allowed_in_trailers(name),
        }))
    }
}

impl Default for Chunked {
    fn default() -> Self {
        Chunked::new()
    }
}

const fn bad(detail: &'static str) -> Refusal {
    Refusal { cause: Cause::AmbiguousMessage, detail }
}
