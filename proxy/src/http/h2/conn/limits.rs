//! What a peer may make grow, and how fast.

/// Limits of one connection, all this side's own choice.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams that the peer may have open at once.
    pub streams: u32,
    /// What the peer may send on one stream before it is read, bytes.
    pub stream_window: u32,
    /// The same for all streams together.
    pub window: u32,
    /// Most bytes of a head or of trailers, counted as RFC 9113 §6.5.2 says: 32 for each field beside its text.
    pub head_list: u32,
    /// Interim heads of one stream that wait to be read.
    pub interims: usize,
    /// Bytes that wait for the socket before bodies have to wait.
    pub unsent: usize,
    /// Bytes of answers to frames of the peer (acknowledgements, resets) that it does not read, while it goes on sending.
    pub replies: usize,
    /// Bytes of whatever this side sends (above all heads, which wait for no window) that the peer does not read, while it
    /// goes on sending.
    pub unread: usize,
    /// Streams that the peer resets in a second before they have ended (CVE-2023-44487).
    pub resets_per_second: u32,
    /// SETTINGS in a second.
    pub settings_per_second: u32,
    /// PINGs in a second. Some peers send one for each of their reads, to measure.
    pub pings_per_second: u32,
    /// Frames in a second that move nothing: empty ones, refused ones, ones for streams that have ended, ones of no
    /// kind that is known.
    pub useless_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            streams: 1024,
            stream_window: 64 * 1024,
            window: 16 * 1024 * 1024,
            head_list: 60 * 1024,
            interims: 64,
            unsent: 128 * 1024,
            replies: 64 * 1024,
            unread: 16 * 1024 * 1024,
            resets_per_second: 2048,
            settings_per_second: 100,
            pings_per_second: 20_000,
            useless_per_second: 10_000,
        }
    }
}

/// Longest header block of one head, still compressed. Huffman's code makes text at most four times as long as it was
/// (RFC 7541, Appendix B: the longest code has 30 bits).
pub(super) const fn longest_block(head_list: u32) -> usize {
    4 * head_list as usize
}

/// Most CONTINUATION frames of one header block. A peer has no reason to send small ones.
pub(super) const CONTINUATIONS: u32 = 32;
