//! What a connection speaks, found out without stalling it and without weakening policy.
//!
//! [`recognise`] judges a prefix of what a client sent. [`find`] is the part with sockets and time.

mod find;
mod line;

pub(crate) use find::{Lost, find, outcome, read, server_name, version};

/// What a client's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// More bytes are needed.
    Partial,
    /// The start of an HTTP/1.x request.
    Http1,
    /// The HTTP/2 client preface (RFC 9113 §3.4).
    Http2,
    /// A TLS ClientHello.
    Tls,
    /// None of these.
    Opaque,
}

/// Bytes that are looked at. A request line that is longer is judged by its start.
pub const MOST_BYTES: usize = 4096;

/// Judges the first bytes of a client. What is decided for a prefix holds for everything that begins with it.
pub fn recognise(prefix: &[u8]) -> Verdict {
    let cut = prefix.len() >= MOST_BYTES;
    let prefix = &prefix[..prefix.len().min(MOST_BYTES)];
    let verdict = match prefix.first() {
        None => Verdict::Partial,
        Some(22) => match crate::sni::begins(prefix) {
            Some(true) => Verdict::Tls,
            Some(false) => Verdict::Opaque,
            None => Verdict::Partial,
        },
        Some(_) if prefix.starts_with(PREFACE) => Verdict::Http2,
        Some(_) if PREFACE.starts_with(prefix) => Verdict::Partial,
        Some(_) => line::recognise(prefix),
    };
    if verdict == Verdict::Partial && cut { settle(prefix) } else { verdict }
}

/// What a prefix that is still `Partial` is taken for when nothing more comes: never `Partial`.
///
/// HTTP only if it could hardly be anything else. A client that is slower than that gets what it sends carried as
/// opaque bytes.
pub fn settle(prefix: &[u8]) -> Verdict {
    match recognise_short(prefix) {
        Verdict::Partial if prefix.starts_with(&PREFACE[..12]) => Verdict::Http2,
        Verdict::Partial if line::is_likely(prefix) => Verdict::Http1,
        Verdict::Partial => Verdict::Opaque,
        decided => decided,
    }
}

/// Whether a prefix that is still `Partial` is worth a longer wait than other silence: the start of a known method,
/// of the HTTP/2 preface or of a TLS record. A client that writes such a thing in pieces pauses for up to 40 ms (its
/// kernel holds the second piece back until the first is acknowledged, RFC 896, and ours delays that).
pub fn is_promising(prefix: &[u8]) -> bool {
    !prefix.is_empty()
        && recognise(prefix) == Verdict::Partial
        && (prefix[0] == 22 || PREFACE.starts_with(prefix) || line::is_promising(prefix))
}

/// Whether a server's first bytes can be an HTTP/2 server preface (a SETTINGS frame, RFC 9113 §3.4), which a server
/// may send before it has heard anything, and which therefore decides nothing.
pub fn is_settings(prefix: &[u8]) -> bool {
    // Length, type 4, flags 0 (no ACK of what nobody sent), stream 0.
    let expected = |at: usize, byte: u8| match at {
        0 => byte == 0,
        1 => byte <= 2,
        3 => byte == 4,
        4..=8 => byte == 0,
        _ => true,
    };
    if prefix.is_empty() || prefix.iter().take(9).enumerate().any(|(at, byte)| !expected(at, *byte)) {
        return false;
    }
    match prefix {
        [_, high, low, ..] => u16::from_be_bytes([*high, *low]) % 6 == 0,
        _ => true,
    }
}

fn recognise_short(prefix: &[u8]) -> Verdict {
    if prefix.len() < MOST_BYTES { recognise(prefix) } else { Verdict::Partial }
}

/// What an HTTP/2 client sends first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn http_is_told_from_what_looks_like_it() {
        let table: [(&[u8], Verdict); 26] = [
            (b"GET / HTTP/1.1\r\n", Verdict::Http1),
            (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", Verdict::Http1),
            (b"\r\nPOST /a?b=c HTTP/1.1", Verdict::Http1),
            (b"BREW coffee://pot HTTP/1.1\r\n", Verdict::Http1),
            (b"CONNECT a:1 HTTP/1.1\r\n", Verdict::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Verdict::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nSX", Verdict::Opaque),
            (b"PRI * HTTP/1.1\r\n", Verdict::Http1),
            (b"\x16\x03\x01\x02\x00\x01\x00", Verdict::Tls),
            (b"\x16\x03\x01\x02\x00\x02", Verdict::Opaque),
            // HTTP/0.9, and the same as a Redis inline command.
            (b"GET /\r\n", Verdict::Opaque),
            (b"GET key\r\n", Verdict::Opaque),
            (b"PING\r\n", Verdict::Opaque),
            (b"SET key value\r\n", Verdict::Opaque),
            (b"*1\r\n$4\r\nPING\r\n", Verdict::Opaque),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", Verdict::Opaque),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", Verdict::Opaque),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Verdict::Opaque),
            (b" GET / HTTP/1.1", Verdict::Opaque),
            (b"GET  HTTP/1.1\r\n", Verdict::Opaque),
            (b"GET / HTTP/1.x", Verdict::Opaque),
            (b"GET / HTTP/3.0", Verdict::Opaque),
            (b"", Verdict::Partial),
            (b"GE", Verdict::Partial),
            (b"GET / HTTP/1.", Verdict::Partial),
            (b"PRI * HTTP/2.0\r\n", Verdict::Partial),
        ];
        for (bytes, verdict) in table {
            assert_eq!(recognise(bytes), verdict, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn half_a_word_is_settled_by_what_it_most_likely_is() {
        assert_eq!(settle(b"GET /index"), Verdict::Http1);
        assert_eq!(settle(b"PRI * HTTP/2.0\r\n"), Verdict::Http2);
        for opaque in [&b""[..], b"PING", b"GET key", b"PRI", b"\x16\x03"] {
            assert_eq!(settle(opaque), Verdict::Opaque, "{}", opaque.escape_ascii());
        }
    }

    #[test]
    fn the_start_of_a_method_is_worth_waiting_for_and_other_words_are_not() {
        for promising in [&b"GE"[..], b"POST ", b"GET key", b"\r\n", b"\r\nDEL", b"PRI * H", b"\x16\x03"] {
            assert!(is_promising(promising), "{}", promising.escape_ascii());
        }
        for other in [&b""[..], b"PING", b"hello", b"SET a", b"GET / HTTP/1.1", b"GET\r"] {
            assert!(!is_promising(other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn a_very_long_request_line_is_judged_by_its_start() {
        let long = [b"GET /".to_vec(), vec![b'a'; MOST_BYTES]].concat();
        assert_eq!(recognise(&long[..MOST_BYTES - 1]), Verdict::Partial);
        assert_eq!(recognise(&long), Verdict::Http1);
        let odd = [b"FROB ".to_vec(), vec![b'a'; MOST_BYTES]].concat();
        assert_eq!(recognise(&odd), Verdict::Opaque);
    }

    #[test]
    fn a_server_preface_is_told_from_a_greeting() {
        assert!(is_settings(b"\0\0\x12\x04\0\0\0\0\0\0\x03"));
        assert!(is_settings(b"\0\0\0\x04\0\0\0\0\0"));
        assert!(is_settings(b"\0"));
        // A MariaDB greeting, an SSH banner, a SETTINGS acknowledgement, and a length that no SETTINGS has.
        for other in [&b"\x4a\0\0\0\x0a5.5.5"[..], b"SSH-2.0", b"\0\0\0\x04\x01\0\0\0\0", b"\0\0\x05\x04\0"] {
            assert!(!is_settings(other), "{}", other.escape_ascii());
        }
    }

    /// Starts that lie close to what is recognised, and noise.
    fn openings() -> impl Strategy<Value = Vec<u8>> {
        let near = prop::sample::select(vec![
            b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n".to_vec(),
            b"\r\nOPTIONS * HTTP/1.0\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            crate::sni::client_hello(Some("a.b"), 5),
            b"SET a b\r\n".to_vec(),
            Vec::new(),
        ]);
        (near, any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(mut near, at, noise)| {
                let at = at.index(near.len() + 1);
                near.splice(at..at, noise);
                near
            },
        )
    }

    proptest! {
        /// However the bytes are cut into reads, the verdict is the same.
        #[test]
        fn segmentation_changes_nothing(bytes in openings(), tail in prop::collection::vec(any::<u8>(), 0..40)) {
            let whole = recognise(&bytes);
            let first = (0..=bytes.len()).map(|upto| recognise(&bytes[..upto])).find(|seen| *seen != Verdict::Partial);
            prop_assert_eq!(first.unwrap_or(Verdict::Partial), whole);
            if whole != Verdict::Partial {
                prop_assert_eq!(recognise(&[&bytes[..], &tail].concat()), whole);
                prop_assert_eq!(settle(&bytes), whole);
            }
            prop_assert_ne!(settle(&bytes), Verdict::Partial);
        }
    }
}
