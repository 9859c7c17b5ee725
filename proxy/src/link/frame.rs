//! Frames: eight bytes of header, then a payload. PROTOCOL.md says what each carries.

use std::fmt;

use crate::error::Cause;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 8;

/// Most bytes of a frame's payload.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// The highest stream.
pub const MAX_STREAM: u32 = 0x00ff_ffff;

/// Nothing of this half of the stream follows. On OPEN, HEAD, DATA; TRAILERS imply it.
pub const END: u8 = 1;

/// The head is an informational one (1xx, but not 101). On HEAD.
pub const INFO: u8 = 2;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// Opens a stream: a request's head, and perhaps the first bytes of its body.
    Open = 1,
    /// An answer's head, and perhaps the first bytes of its body.
    Head = 2,
    /// Bytes of a body.
    Data = 3,
    /// Fields behind a body, which end it.
    Trailers = 4,
    /// The stream ends here, for both halves: code, cause.
    Reset = 5,
    /// So many bytes more may be sent on a stream, or on all of them.
    Credit = 6,
    /// To be answered by a PONG with the same eight bytes.
    Ping = 7,
    /// The answer to a PING.
    Pong = 8,
    /// No streams above the named one: last stream, deadline, cause.
    Leave = 9,
    /// A message of the link itself: kind, bytes.
    Control = 10,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of payload.
    pub len: usize,
    /// What it is.
    pub kind: Type,
    /// [`END`], [`INFO`].
    pub flags: u8,
    /// Which stream; 0 is the link itself.
    pub stream: u32,
}

/// Why a link was given up: the peer broke the protocol or a limit of it, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A header that no frame has.
    BadHeader,
    /// A payload that is not what its frame carries.
    BadPayload,
    /// A frame that this side must not send, or not now.
    OutOfPlace,
    /// More bytes than were granted.
    CreditExceeded,
    /// Credit beyond all bounds.
    CreditOverflow,
    /// More streams than may be open.
    TooManyStreams,
    /// More resets in a second than may be.
    TooManyResets,
    /// More PINGs in a second than may be.
    TooManyPings,
    /// More control frames in a second than may be.
    TooManyControls,
    /// More frames without any use in a second than may be.
    Useless,
    /// It sends, but does not read what it is answered.
    Unread,
    /// Nothing came for too long though streams are open.
    Silent,
    /// What came is not what the other side sealed, or a wire beside TCP said what cannot be.
    Harmed,
    /// The connection beneath ended, or failed.
    Lost,
    /// This side closed the link.
    Closed,
}

/// Why a stream was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The link went away beneath the stream; never on the wire.
    Lost = 0,
    /// Whoever asked does not want the answer any more; or an answer was ended early.
    Cancelled = 1,
    /// Not executed: the request may be sent again.
    Refused = 2,
    /// A deadline passed, or a consumer was too slow.
    TooSlow = 3,
    /// The message was not what it has to be.
    Protocol = 4,
    /// Anything else, and a body that ended before its end.
    Internal = 5,
}

/// How a stream ended that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What it means to the other half.
    pub code: Code,
    /// The cause's label in logs and metrics. `None`: one that this version does not know.
    pub cause: Option<Cause>,
}

/// A cause in words, as LEAVE carries it: for logs only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Word {
    bytes: [u8; Word::MAX],
    len: u8,
}

impl Header {
    /// As it goes over the wire.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        debug_assert!(self.len <= MAX_PAYLOAD && self.stream <= MAX_STREAM);
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [_, x, y, z] = self.stream.to_be_bytes();
        [a, b, c, self.kind as u8, self.flags, x, y, z]
    }

    /// Reads one and checks all that can be checked without the payload.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, Fault> {
        let [a, b, c, kind, flags, x, y, z] = bytes;
        let kind = Type::from_byte(kind).ok_or(Fault::BadHeader)?;
        let header = Header {
            len: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([0, x, y, z]),
        };
        let (known, most, of_stream) = match kind {
            Type::Open | Type::Data => (END, MAX_PAYLOAD, true),
            Type::Head => (END | INFO, MAX_PAYLOAD, true),
            Type::Trailers => (0, MAX_PAYLOAD, true),
            Type::Reset => (0, 1 + Word::MAX, true),
            Type::Credit => (0, 4, header.stream != 0),
            Type::Ping | Type::Pong => (0, 8, false),
            Type::Leave => (0, 7 + Word::MAX, false),
            Type::Control => (0, MAX_PAYLOAD, false),
        };
        if header.len > most || flags & !known != 0 || (header.stream != 0) != of_stream {
            return Err(Fault::BadHeader);
        }
        Ok(header)
    }
}

impl Type {
    fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [Type; 10] = [
            Type::Open,
            Type::Head,
            Type::Data,
            Type::Trailers,
            Type::Reset,
            Type::Credit,
            Type::Ping,
            Type::Pong,
            Type::Leave,
            Type::Control,
        ];
        ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }
}

impl Fault {
    /// Every fault, in order.
    pub const ALL: [Fault; 15] = [
        Fault::BadHeader,
        Fault::BadPayload,
        Fault::OutOfPlace,
        Fault::CreditExceeded,
        Fault::CreditOverflow,
        Fault::TooManyStreams,
        Fault::TooManyResets,
        Fault::TooManyPings,
        Fault::TooManyControls,
        Fault::Useless,
        Fault::Unread,
        Fault::Silent,
        Fault::Harmed,
        Fault::Lost,
        Fault::Closed,
    ];

    /// The cause's label in logs and metrics, and the word in the last LEAVE.
    pub const fn label(self) -> &'static str {
        match self {
            Fault::BadHeader => "bad_header",
            Fault::BadPayload => "bad_payload",
            Fault::OutOfPlace => "out_of_place",
            Fault::CreditExceeded => "credit_exceeded",
            Fault::CreditOverflow => "credit_overflow",
            Fault::TooManyStreams => "too_many_streams",
            Fault::TooManyResets => "too_many_resets",
            Fault::TooManyPings => "too_many_pings",
            Fault::TooManyControls => "too_many_controls",
            Fault::Useless => "useless_frames",
            Fault::Unread => "unread",
            Fault::Silent => "silent",
            Fault::Harmed => "harmed",
            Fault::Lost => "lost",
            Fault::Closed => "closed",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl std::error::Error for Fault {}

impl Code {
    /// Every code, in the order of its number.
    pub const ALL: [Code; 6] =
        [Code::Lost, Code::Cancelled, Code::Refused, Code::TooSlow, Code::Protocol, Code::Internal];

    /// The label in logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Code::Lost => "lost",
            Code::Cancelled => "cancelled",
            Code::Refused => "refused",
            Code::TooSlow => "too_slow",
            Code::Protocol => "protocol",
            Code::Internal => "internal",
        }
    }
}

impl Cut {
    /// A stream that was cut for `cause`.
    pub const fn new(code: Code, cause: Cause) -> Self {
        Cut { code, cause: Some(cause) }
    }

    /// Appends RESET's payload.
    pub(super) fn encode(self, into: &mut Vec<u8>) {
        into.push(self.code as u8);
        into.extend_from_slice(self.cause.map_or("", Cause::label).as_bytes());
    }

    /// Reads RESET's payload. A code from a later version means what `Internal` means.
    pub(super) fn decode(payload: &[u8]) -> Result<Self, Fault> {
        let (code, word) = payload.split_first().ok_or(Fault::BadPayload)?;
        let code = match code {
            0 => return Err(Fault::BadPayload),
            1 => Code::Cancelled,
            2 => Code::Refused,
            3 => Code::TooSlow,
            4 => Code::Protocol,
            _ => Code::Internal,
        };
        let cause = Cause::ALL.into_iter().find(|cause| cause.label().as_bytes() == word);
        Ok(Cut { code, cause })
    }
}

impl Word {
    /// Most bytes of a word.
    pub const MAX: usize = 32;

    /// `word`, as far as it is one: small letters, digits and underscores.
    pub fn new(word: &[u8]) -> Self {
        let mut bytes = [0; Word::MAX];
        let even = |byte: &&u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || **byte == b'_';
        let mut len = 0;
        for (place, byte) in bytes.iter_mut().zip(word.iter().take_while(even)) {
            *place = *byte;
            len += 1;
        }
        Word { bytes, len }
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Appends a length as QUIC writes integers (RFC 9000 §16): one byte below 64, two below 16384, four otherwise.
pub(super) fn put_length(into: &mut Vec<u8>, length: usize) {
    debug_assert!(length <= MAX_PAYLOAD);
    match length {
        0..0x40 => into.push(length as u8),
        0x40..0x4000 => into.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
        _ => into.extend_from_slice(&(0x8000_0000 | length as u32).to_be_bytes()),
    }
}

/// Takes a length off the front of `from`. The form of eight bytes stands for more than any payload holds.
#[inline]
pub(super) fn take_length(from: &mut &[u8]) -> Result<usize, Fault> {
    let (first, rest) = from.split_first().ok_or(Fault::BadPayload)?;
    let (length, rest) = match (first >> 6, rest) {
        (0, _) => (usize::from(*first), rest),
        (1, [second, rest @ ..]) => (usize::from(first & 0x3f) << 8 | usize::from(*second), rest),
        (2, [b, c, d, rest @ ..]) => (u32::from_be_bytes([first & 0x3f, *b, *c, *d]) as usize, rest),
        _ => return Err(Fault::BadPayload),
    };
    *from = rest;
    Ok(length)
}

/// Takes `length` bytes off the front of `from`.
#[inline]
pub(super) fn take<'a>(from: &mut &'a [u8], length: usize) -> Result<&'a [u8], Fault> {
    let (front, rest) = from.split_at_checked(length).ok_or(Fault::BadPayload)?;
    *from = rest;
    Ok(front)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written() {
        for (len, kind, flags, stream) in [
            (0, Type::Open, END, 1),
            (MAX_PAYLOAD, Type::Data, 0, MAX_STREAM),
            (300, Type::Head, INFO, 0x01_02_03),
            (4, Type::Credit, 0, 0),
            (4, Type::Credit, 0, 9),
            (8, Type::Ping, 0, 0),
            (7, Type::Leave, 0, 0),
        ] {
            let header = Header { len, kind, flags, stream };
            assert_eq!(Header::decode(header.encode()), Ok(header));
        }
        let header = Header { len: 0x01_00, kind: Type::Data, flags: END, stream: 0x0a_0b_0c };
        assert_eq!(header.encode(), [0, 1, 0, 3, 1, 0x0a, 0x0b, 0x0c]);
    }

    #[test]
    fn headers_that_no_frame_has_are_refused() {
        for bytes in [
            [1, 0, 1, 3, 0, 0, 0, 1], // more than 64 KiB
            [0, 0, 0, 0, 0, 0, 0, 1], // no such types
            [0, 0, 0, 11, 0, 0, 0, 0],
            [0, 0, 0, 3, 2, 0, 0, 1], // no such flags
            [0, 0, 0, 4, 1, 0, 0, 1],
            [0, 0, 0, 3, 0, 0, 0, 0], // DATA of the link
            [0, 0, 8, 7, 0, 0, 0, 1], // PING of a stream
            [0, 0, 9, 7, 0, 0, 0, 0], // a long PING
            [0, 0, 5, 6, 0, 0, 0, 1], // a long CREDIT
        ] {
            assert_eq!(Header::decode(bytes), Err(Fault::BadHeader), "{bytes:?}");
        }
    }

    #[test]
    fn lengths_take_as_few_bytes_as_they_need() {
        for (length, bytes) in [(0, 1), (63, 1), (64, 2), (16_383, 2), (16_384, 4), (MAX_PAYLOAD, 4)] {
            let mut written = Vec::new();
            put_length(&mut written, length);
            assert_eq!(written.len(), bytes);
            let mut rest = &written[..];
            assert_eq!(take_length(&mut rest), Ok(length));
            assert!(rest.is_empty());
            assert_eq!(take_length(&mut &written[..bytes - 1]), Err(Fault::BadPayload));
        }
        assert_eq!(take_length(&mut &[0xff; 8][..]), Err(Fault::BadPayload));
    }

    #[test]
    fn causes_come_back_as_what_they_are() {
        for cause in Cause::ALL {
            let cut = Cut::new(Code::Internal, cause);
            let mut payload = Vec::new();
            cut.encode(&mut payload);
            assert!(payload.len() <= 1 + Word::MAX);
            assert_eq!(Cut::decode(&payload), Ok(cut));
        }
        assert_eq!(Cut::decode(b"\x02from_tomorrow"), Ok(Cut { code: Code::Refused, cause: None }));
        assert_eq!(Cut::decode(b"\x63"), Ok(Cut { code: Code::Internal, cause: None }));
        assert_eq!(Cut::decode(b""), Err(Fault::BadPayload));
        assert_eq!(Cut::decode(b"\0"), Err(Fault::BadPayload));
    }

    #[test]
    fn words_hold_nothing_that_a_log_must_not() {
        assert_eq!(Word::new(b"drain_2").as_str(), "drain_2");
        assert_eq!(Word::new(b"a\nb").as_str(), "a");
        assert_eq!(Word::new(&[b'x'; 100]).as_str().len(), Word::MAX);
    }
}
