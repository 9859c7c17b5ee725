//! Trace context: `x-request-id`, and W3C `traceparent` (Trace Context, level 1).

/// A new request id: a random UUID (RFC 9562, version 4) in lower case. It is unique enough to find a request by; it is
/// not a secret.
pub fn request_id() -> [u8; 36] {
    request_id_from(u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..)))
}

/// Whether a request id that a caller sent can be passed on and logged: printable ASCII and not overlong.
pub fn is_request_id(value: &[u8]) -> bool {
    (1..=128).contains(&value.len()) && value.iter().all(|byte| (0x21..=0x7e).contains(byte))
}

/// A valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent<'a> {
    /// 32 lower-case hexadecimal digits, not all zero.
    pub trace_id: &'a [u8],
    /// 16 lower-case hexadecimal digits, not all zero.
    pub parent_id: &'a [u8],
    /// Whether the caller records this trace.
    pub sampled: bool,
}

impl<'a> TraceParent<'a> {
    /// Reads the header's value. `None` where a receiver must act as if there were no such header; the sidecar passes
    /// the header on in any case, as it takes no part in the trace itself.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        // version "-" trace-id "-" parent-id "-" flags; later versions may add to the end, after another "-".
        let (known, rest) = value.split_at_checked(55)?;
        let (version, trace_id, parent_id, flags) =
            (&known[..2], &known[3..35], &known[36..52], &known[53..55]);
        let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let hex = [version, trace_id, parent_id, flags].iter().all(|part| part.iter().all(is_lower_hex));
        let whole = match version {
            b"ff" => false,
            b"00" => rest.is_empty(),
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let zero = |id: &[u8]| id.iter().all(|byte| *byte == b'0');
        if !dashes || !hex || !whole || zero(trace_id) || zero(parent_id) {
            return None;
        }
        let low = flags[1];
        let digit = if low.is_ascii_digit() { low - b'0' } else { low - b'a' + 10 };
        Some(TraceParent { trace_id, parent_id, sampled: digit & 1 == 1 })
    }
}

fn is_lower_hex(byte: &u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(byte)
}

fn request_id_from(random: u128) -> [u8; 36] {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let [a, b, c, d] = [96, 64, 32, 0].map(|shift| hex((bits >> shift) as u32));
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&a);
    text[9..13].copy_from_slice(&b[..4]);
    text[14..18].copy_from_slice(&b[4..]);
    text[19..23].copy_from_slice(&c[..4]);
    text[24..28].copy_from_slice(&c[4..]);
    text[28..].copy_from_slice(&d);
    text
}

/// Eight digits at once, each in a byte of one word.
fn hex(value: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let mut nibbles = u64::from(value);
    nibbles = (nibbles | nibbles << 16) & 0x0000_ffff_0000_ffff;
    nibbles = (nibbles | nibbles << 8) & 0x00ff_00ff_00ff_00ff;
    nibbles = (nibbles | nibbles << 4) & (EACH * 0xf);
    let letters = (nibbles + EACH * 6) >> 4 & EACH;
    (nibbles + EACH * u64::from(b'0') + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_has_the_shape_of_a_uuid() {
        assert_eq!(&request_id_from(0), b"00000000-0000-4000-8000-000000000000");
        assert_eq!(&request_id_from(u128::MAX), b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(
            &request_id_from(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            b"01234567-89ab-4def-8123-456789abcdef"
        );
        assert_ne!(request_id(), request_id());
        assert!(is_request_id(&request_id()));
    }

    #[test]
    fn a_request_id_that_could_forge_a_log_line_is_not_taken() {
        for bad in [&b""[..], b"a b", b"a\nb", b"a\x00", b"\xff", &[b'a'; 129]] {
            assert!(!is_request_id(bad), "{bad:?}");
        }
        assert!(is_request_id(b"req-1/2:3"));
    }

    #[test]
    fn traceparent_is_read_as_the_recommendation_says() {
        let good = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed = TraceParent::parse(good).unwrap();
        assert_eq!(parsed.trace_id, b"4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parsed.parent_id, b"00f067aa0ba902b7");
        assert!(parsed.sampled);
        assert!(
            !TraceParent::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").unwrap().sampled
        );
        // A later version may be longer.
        assert!(
            TraceParent::parse(b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0f-more").is_some()
        );
        for bad in [
            &b""[..],
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            b"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
