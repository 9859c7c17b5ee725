//! Whether bytes begin an HTTP/1.x request: a request line that is plausible to its end (RFC 9112 §3).

use super::Verdict;

/// Judges a prefix that is neither TLS nor the start of the HTTP/2 preface.
pub(super) fn recognise(prefix: &[u8]) -> Verdict {
    match scan(prefix) {
        Scan::Line => Verdict::Http1,
        Scan::Other => Verdict::Opaque,
        Scan::Blank | Scan::Method | Scan::Target { .. } => Verdict::Partial,
    }
}

/// Whether an unfinished line could hardly be anything but HTTP: a known method and the start of a target.
pub(super) fn is_likely(prefix: &[u8]) -> bool {
    matches!(
        scan(prefix),
        Scan::Target { method, target }
            if METHODS.contains(&method)
                && (target.starts_with(b"/") || target.starts_with(b"http") || method == b"CONNECT")
    )
}

/// Whether an unfinished line begins with what can still become a known method.
pub(super) fn is_promising(prefix: &[u8]) -> bool {
    match scan(prefix) {
        Scan::Blank => true,
        Scan::Method => {
            let word = prefix.strip_prefix(b"\r\n").unwrap_or(prefix);
            METHODS.iter().any(|method| method.starts_with(word))
        }
        Scan::Target { method, .. } => METHODS.contains(&method),
        Scan::Line | Scan::Other => false,
    }
}

/// How far a request line came.
enum Scan<'a> {
    /// Nothing but the empty line that a client may send first.
    Blank,
    /// Inside the method.
    Method,
    /// Inside the target, or inside the version behind it.
    Target { method: &'a [u8], target: &'a [u8] },
    /// Up to `HTTP/1.` and a digit.
    Line,
    /// No request line.
    Other,
}

fn scan(prefix: &[u8]) -> Scan<'_> {
    // RFC 9112 §2.2: an empty line before the request is ignored.
    let line = match prefix {
        [b'\r'] | [b'\r', b'\n'] => return Scan::Blank,
        [b'\r', b'\n', line @ ..] => line,
        line => line,
    };
    let Some(space) = line.iter().position(|byte| !is_token(*byte)) else {
        return if line.len() <= LONGEST_METHOD { Scan::Method } else { Scan::Other };
    };
    if space == 0 || space > LONGEST_METHOD || line[space] != b' ' {
        return Scan::Other;
    }
    let (method, rest) = (&line[..space], &line[space + 1..]);
    let Some(end) = rest.iter().position(|byte| *byte <= b' ' || *byte == 0x7f) else {
        return Scan::Target { method, target: rest };
    };
    if end == 0 || rest[end] != b' ' {
        return Scan::Other;
    }
    let (target, version) = (&rest[..end], &rest[end + 1..]);
    match version {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', digit, ..] if digit.is_ascii_digit() => Scan::Line,
        unfinished if b"HTTP/1.".starts_with(unfinished) => Scan::Target { method, target },
        _ => Scan::Other,
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// No registered method is longer than 17 bytes.
const LONGEST_METHOD: usize = 32;

/// The methods of RFC 9110 and RFC 5789, and those of WebDAV that begin conversations.
const METHODS: [&[u8]; 13] = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"PROPFIND",
    b"REPORT",
    b"SEARCH",
    b"QUERY",
];
