//! `x-request-id`.

/// A new request id: a random UUID (RFC 9562, version 4) in lower case. It is unique enough to find a request by; it is
/// not a secret.
pub fn request_id() -> [u8; 36] {
    request_id_from(u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..)))
}

/// Whether a request id that a caller sent can be passed on and logged: printable ASCII and not overlong.
pub fn is_request_id(value: &[u8]) -> bool {
    (1..=128).contains(&value.len()) && value.iter().all(|byte| (0x21..=0x7e).contains(byte))
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
}
