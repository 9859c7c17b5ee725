//! Frames (RFC 9113 §4, §6, §7).

/// Bytes of a frame's head.
pub const HEAD_BYTES: usize = 9;

/// The largest length that a frame's head can say.
pub const LARGEST: usize = (1 << 24) - 1;

/// The largest number of a stream, and the largest window.
pub const MAX_STREAM: u32 = (1 << 31) - 1;

/// Flag of DATA and HEADERS: nothing comes behind it on its stream.
pub const END_STREAM: u8 = 0x1;
/// Flag of SETTINGS and PING: an acknowledgement.
pub const ACK: u8 = 0x1;
/// Flag of HEADERS and CONTINUATION: the header block ends here.
pub const END_HEADERS: u8 = 0x4;
/// Flag of DATA and HEADERS: there is padding.
pub const PADDED: u8 = 0x8;
/// Flag of HEADERS: there is a priority.
pub const PRIORITY: u8 = 0x20;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Kind {
    Data = 0,
    Headers = 1,
    Priority = 2,
    RstStream = 3,
    Settings = 4,
    PushPromise = 5,
    Ping = 6,
    Goaway = 7,
    WindowUpdate = 8,
    Continuation = 9,
    /// One that is not known, and to be ignored.
    Unknown = 255,
}

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes behind the head.
    pub len: usize,
    /// What it is.
    pub kind: Kind,
    /// Its flags.
    pub flags: u8,
    /// Its stream, or 0 for the connection.
    pub stream: u32,
}

/// A code of RFC 9113 §7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

#[allow(missing_docs)]
impl Code {
    pub const NO_ERROR: Code = Code(0);
    pub const PROTOCOL_ERROR: Code = Code(1);
    pub const INTERNAL_ERROR: Code = Code(2);
    pub const FLOW_CONTROL_ERROR: Code = Code(3);
    pub const STREAM_CLOSED: Code = Code(5);
    pub const FRAME_SIZE_ERROR: Code = Code(6);
    pub const REFUSED_STREAM: Code = Code(7);
    pub const CANCEL: Code = Code(8);
    pub const COMPRESSION_ERROR: Code = Code(9);
    pub const ENHANCE_YOUR_CALM: Code = Code(11);

    /// The code's name in RFC 9113 §7, in lower case.
    pub fn label(self) -> &'static str {
        const NAMES: [&str; 14] = [
            "no_error",
            "protocol_error",
            "internal_error",
            "flow_control_error",
            "settings_timeout",
            "stream_closed",
            "frame_size_error",
            "refused_stream",
            "cancel",
            "compression_error",
            "connect_error",
            "enhance_your_calm",
            "inadequate_security",
            "http_1_1_required",
        ];
        NAMES.get(self.0 as usize).copied().unwrap_or("unknown")
    }
}

/// Reads a frame's head.
#[inline]
pub fn parse(bytes: &[u8; HEAD_BYTES]) -> Head {
    let [l2, l1, l0, kind, flags, stream @ ..] = *bytes;
    let kind = match kind {
        0 => Kind::Data,
        1 => Kind::Headers,
        2 => Kind::Priority,
        3 => Kind::RstStream,
        4 => Kind::Settings,
        5 => Kind::PushPromise,
        6 => Kind::Ping,
        7 => Kind::Goaway,
        8 => Kind::WindowUpdate,
        9 => Kind::Continuation,
        _ => Kind::Unknown,
    };
    let len = u32::from_be_bytes([0, l2, l1, l0]) as usize;
    Head { len, kind, flags, stream: u32::from_be_bytes(stream) & MAX_STREAM }
}

/// Appends a frame's head.
#[inline]
pub fn put_head(out: &mut Vec<u8>, len: usize, kind: Kind, flags: u8, stream: u32) {
    let [_, l2, l1, l0] = (len as u32).to_be_bytes();
    let [s3, s2, s1, s0] = stream.to_be_bytes();
    out.extend_from_slice(&[l2, l1, l0, kind as u8, flags, s3, s2, s1, s0]);
}

/// Changes the length in a frame's head, which stands at the beginning of `frame`.
#[inline]
pub fn set_len(frame: &mut [u8], len: usize) {
    let [_, len @ ..] = (len as u32).to_be_bytes();
    if let Some(place) = frame.first_chunk_mut() {
        *place = len;
    }
}
