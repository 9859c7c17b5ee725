//! Where the parts of a head lie.
//!
//! A head without anything unusual in it, which is nearly every one, is read in one pass over its bytes. That pass
//! takes nothing but whole heads whose every line is as RFC 9112 writes it; it never refuses. What it does not take is
//! read by `httparse`, and what that lets through for old times' sake (line feeds alone, white space between lines) is
//! refused here. So there is one judge of what is wrong, and the quick pass only has to be right about what is fine.

use std::mem::MaybeUninit;

use smallvec::SmallVec;

use super::head::{MAX_FIELDS, Refusal, ambiguous, bad, offset, refuse};
use crate::error::Cause;
use crate::http::hop::{self, Kind};

/// A field of a head: its name as it came, and its value without the white space around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'b> {
    /// A token.
    pub name: &'b [u8],
    /// No control character but the tab.
    pub value: &'b [u8],
    /// What it means to a hop.
    pub kind: Kind,
}

impl<'b> Field<'b> {
    /// A field, with what its name means.
    #[inline]
    pub(crate) fn new(name: &'b [u8], value: &'b [u8]) -> Self {
        Field { name, value, kind: hop::classify(name) }
    }
}

/// Room for the fields of one head, on the stack for as many as most heads have.
pub type Room<'b> = SmallVec<[Field<'b>; 32]>;

/// What stands before a request's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestLine<'b> {
    /// Bytes of the whole head with its empty line.
    pub(super) len: usize,
    pub(super) method: &'b [u8],
    pub(super) target: &'b [u8],
    /// Whether the target has no character that none may have.
    pub(super) sound: bool,
    pub(super) minor: u8,
}

/// What stands before an answer's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatusLine {
    /// Bytes of the whole head with its empty line.
    pub(super) len: usize,
    pub(super) status: u16,
    pub(super) minor: u8,
}

/// Finds the parts of a request's head at the front of `bytes`. `None`: more bytes are needed.
pub(super) fn request<'b>(bytes: &'b [u8], room: &mut Room<'b>) -> Result<Option<RequestLine<'b>>, Refusal> {
    match quick_request(bytes, room) {
        Some(line) => Ok(Some(line)),
        None => thorough_request(bytes, room),
    }
}

/// Finds the parts of an answer's head at the front of `bytes`. `None`: more bytes are needed.
pub(super) fn response<'b>(bytes: &'b [u8], room: &mut Room<'b>) -> Result<Option<StatusLine>, Refusal> {
    match quick_response(bytes, room) {
        Some(line) => Ok(Some(line)),
        None => thorough_response(bytes, room),
    }
}

fn quick_request<'b>(bytes: &'b [u8], room: &mut Room<'b>) -> Option<RequestLine<'b>> {
    let method = end_of(bytes, 0, hop::is_token_byte)?;
    let target = end_of(bytes, method + 1, |byte| TARGET[usize::from(byte)])?;
    let version: &[u8; 11] = bytes[target..].first_chunk()?;
    let [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), b'\r', b'\n'] = *version
    else {
        return None;
    };
    if bytes[method] != b' ' || method == 0 || target == method + 1 {
        return None;
    }
    let len = quick_fields(bytes, target + version.len(), room)?;
    Some(RequestLine {
        len,
        method: &bytes[..method],
        target: &bytes[method + 1..target],
        sound: true,
        minor: minor - b'0',
    })
}

fn quick_response<'b>(bytes: &'b [u8], room: &mut Room<'b>) -> Option<StatusLine> {
    let line: &[u8; 13] = bytes.first_chunk()?;
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), b' ', a, b, c, b' '] = *line else {
        return None;
    };
    let digits = [a, b, c].map(|digit| u16::from(digit.wrapping_sub(b'0')));
    if digits.iter().any(|digit| *digit > 9) {
        return None;
    }
    let end = next_control(bytes, line.len())?;
    if bytes.get(end..end + 2)? != b"\r\n" {
        return None;
    }
    let len = quick_fields(bytes, end + 2, room)?;
    Some(StatusLine { len, status: digits[0] * 100 + digits[1] * 10 + digits[2], minor: minor - b'0' })
}

/// Reads field lines from `at` on, up to and with the empty line; returns where that ends.
fn quick_fields<'b>(bytes: &'b [u8], mut at: usize, room: &mut Room<'b>) -> Option<usize> {
    room.clear();
    loop {
        let name = at;
        at = end_of(bytes, at, hop::is_token_byte)?;
        if at == name {
            return bytes[at..].starts_with(b"\r\n").then_some(at + 2);
        }
        if bytes[at] != b':' || room.len() == MAX_FIELDS {
            return None;
        }
        let mut value = at + 1;
        while is_white(*bytes.get(value)?) {
            value += 1;
        }
        let end = next_control(bytes, value)?;
        if !bytes[end..].starts_with(b"\r\n") {
            return None;
        }
        let mut trimmed = end;
        while trimmed > value && is_white(bytes[trimmed - 1]) {
            trimmed -= 1;
        }
        room.push(Field::new(&bytes[name..at], &bytes[value..trimmed]));
        at = end + 2;
    }
}

/// Where the bytes from `at` on that are `even` end; there must be another one behind them. As long as there are eight
/// at once, it is not asked before each whether there is one.
#[inline(always)]
pub(super) fn end_of(bytes: &[u8], mut at: usize, even: impl Fn(u8) -> bool) -> Option<usize> {
    while let Some(eight) = bytes.get(at..)?.first_chunk::<8>() {
        if let Some(uneven) = eight.iter().position(|byte| !even(*byte)) {
            return Some(at + uneven);
        }
        at += 8;
    }
    while even(*bytes.get(at)?) {
        at += 1;
    }
    Some(at)
}

#[inline]
fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Where the first control character from `at` on is that is no tab. Eight bytes at once: values are the larger part of
/// a head.
#[inline(always)]
pub(crate) fn next_control(bytes: &[u8], mut at: usize) -> Option<usize> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    while let Some(word) = bytes.get(at..)?.first_chunk() {
        let word = u64::from_le_bytes(*word);
        let delete = word ^ (EACH * 0x7f);
        // The high bit of each byte below 32, and of each that is DEL. A borrow can only mark bytes behind a true one.
        let below = word.wrapping_sub(EACH * 0x20) & !word;
        let marks = (below | (delete.wrapping_sub(EACH) & !delete)) & (EACH * 0x80);
        if marks == 0 {
            at += 8;
            continue;
        }
        at += (marks.trailing_zeros() / 8) as usize;
        if bytes[at] != b'\t' {
            return Some(at);
        }
        at += 1;
    }
    end_of(bytes, at, |byte| byte == b'\t' || !byte.is_ascii_control())
}

/// What the quick pass takes in a target: what RFC 3986 allows, but for the fragment, which has no place in one.
const TARGET: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+,;=:@/?%[]";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

#[cold]
#[inline(never)]
fn thorough_request<'b>(bytes: &'b [u8], room: &mut Room<'b>) -> Result<Option<RequestLine<'b>>, Refusal> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let len = match parsed.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(refuse(Cause::HeadTooLarge, "too many fields")),
        Err(error) => return Err(bad(wording(error))),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(bad("no request line"));
    };
    let (method, target) = (method.as_bytes(), target.as_bytes());
    if offset(bytes, method) != 0 || !request_line_is_strict(bytes, method, target) {
        return Err(ambiguous("the request line does not end as it must"));
    }
    read_lines(bytes, len, method.len() + target.len() + 12, parsed.headers, room)?;
    let sound = hop::is_target(target);
    Ok(Some(RequestLine { len, method, target, sound, minor }))
}

#[cold]
#[inline(never)]
fn thorough_response<'b>(bytes: &'b [u8], room: &mut Room<'b>) -> Result<Option<StatusLine>, Refusal> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let len = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut headers) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(bad(wording(error))),
    };
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(bad("no status line"));
    };
    let first_line = memchr::memchr(b'\n', bytes).map_or(0, |at| at + 1);
    if !bytes.starts_with(b"HTTP/") || first_line < 2 || bytes[first_line - 2] != b'\r' {
        return Err(bad("the status line does not end as it must"));
    }
    read_lines(bytes, len, first_line, parsed.headers, room)?;
    Ok(Some(StatusLine { len, status, minor }))
}

/// Takes over the fields: every line must end in CRLF, and nothing stand between them. `first` is where the first one
/// must begin.
fn read_lines<'b>(
    bytes: &'b [u8],
    len: usize,
    first: usize,
    headers: &[httparse::Header<'b>],
    room: &mut Room<'b>,
) -> Result<(), Refusal> {
    room.clear();
    let mut expected = first;
    for header in headers {
        let (name, value) = (header.name.as_bytes(), header.value);
        if offset(bytes, name) != expected {
            return Err(ambiguous("a line does not end as it must"));
        }
        // An empty value is not where it stood: httparse gives a slice from the end of the white space.
        let mut end = offset(bytes, value) + value.len();
        while let Some(b' ' | b'\t') = bytes.get(end) {
            end += 1;
        }
        if bytes.get(end..end + 2) != Some(b"\r\n") {
            return Err(ambiguous("a line does not end as it must"));
        }
        expected = end + 2;
        room.push(Field::new(name, value));
    }
    if expected + 2 != len || bytes.get(expected..len) != Some(b"\r\n") {
        return Err(ambiguous("a line does not end as it must"));
    }
    Ok(())
}

/// `method SP target SP HTTP/1.x CRLF`, each with exactly one space.
fn request_line_is_strict(bytes: &[u8], method: &[u8], target: &[u8]) -> bool {
    let version = method.len() + 1 + target.len() + 1;
    offset(bytes, target) == method.len() + 1
        && bytes[method.len()] == b' '
        && bytes[version - 1] == b' '
        && bytes.get(version..version + 7) == Some(b"HTTP/1.")
        && bytes.get(version + 8..version + 10) == Some(b"\r\n")
}

const fn wording(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a field name has a character that it must not have",
        httparse::Error::HeaderValue => "a field value has a character that it must not have",
        httparse::Error::NewLine => "a line does not end as it must",
        httparse::Error::Status => "the status is not a number",
        httparse::Error::Token => "the first line has a character that it must not have",
        httparse::Error::TooManyHeaders => "too many fields",
        httparse::Error::Version => "not HTTP/1.0 or HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the quick pass takes, the thorough one takes for the same.
    fn agree(bytes: &[u8]) -> Result<(), TestCaseError> {
        let (mut quick, mut thorough) = (Room::new(), Room::new());
        if let Some(line) = quick_request(bytes, &mut quick) {
            prop_assert_eq!(Ok(Some(line)), thorough_request(bytes, &mut thorough));
            prop_assert_eq!(&quick, &thorough);
        }
        if let Some(line) = quick_response(bytes, &mut quick) {
            prop_assert_eq!(Ok(Some(line)), thorough_response(bytes, &mut thorough));
            prop_assert_eq!(&quick, &thorough);
        }
        Ok(())
    }

    fn first_line() -> impl Strategy<Value = String> {
        prop_oneof![
            "(GET|POST|M-SEARCH|[!#$%&'*+.^_`|~A-Za-z0-9-]{1,9}) [!-~]{1,20} HTTP/1\\.[01]\r\n",
            "GET [/a-z0-9?=&%.-]{1,30} HTTP/1\\.[01]\r\n",
            "HTTP/1\\.[01] [0-9]{3}( [ -~\u{e9}\t]{0,12})?\r\n",
        ]
    }

    fn field() -> impl Strategy<Value = String> {
        prop_oneof![
            "[A-Za-z-]{1,16}: [ -~]{0,40}\r\n",
            "[!#$%&'*+.^_`|~A-Za-z0-9-]{1,20}:[ \t]{0,3}[\t -~\u{80}-\u{ff}]{0,30}[ \t]{0,3}\r\n",
            Just("X-Empty:\r\n".to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn both_passes_read_the_same(
            first in first_line(),
            fields in prop::collection::vec(field(), 0..6),
            behind in "[ -~]{0,20}",
        ) {
            agree(format!("{first}{}\r\n{behind}", fields.concat()).as_bytes())?;
        }

        #[test]
        fn no_damage_gets_through_the_quick_pass(
            first in first_line(),
            fields in prop::collection::vec(field(), 0..4),
            place in 0usize..200,
            byte in prop_oneof![
                prop::sample::select(b"\0\t\n\r \"#:<>\\{|}\x7f\x80\xff".to_vec()),
                any::<u8>(),
            ],
            inserted: bool,
        ) {
            let mut bytes = format!("{first}{}\r\n", fields.concat()).into_bytes();
            let place = place % bytes.len();
            if inserted {
                bytes.insert(place, byte);
            } else {
                bytes[place] = byte;
            }
            agree(&bytes)?;
        }

        #[test]
        fn a_control_character_is_found_where_it_is(mut bytes in prop::collection::vec(any::<u8>(), 0..40), clean: bool) {
            if clean {
                bytes.iter_mut().for_each(|byte| *byte |= 0x20);
            }
            let expected = bytes.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t');
            prop_assert_eq!(next_control(&bytes, 0), expected);
        }

        #[test]
        fn an_ordinary_head_is_read_quickly(fields in prop::collection::vec("[A-Za-z-]{1,16}: [ -~]{0,40}\r\n", 0..40)) {
            let request = format!("GET /a/b?c=d HTTP/1.1\r\n{}\r\n", fields.concat());
            let response = format!("HTTP/1.1 200 OK\r\n{}\r\n", fields.concat());
            let mut room = Room::new();
            prop_assert!(quick_request(request.as_bytes(), &mut room).is_some());
            prop_assert_eq!(room.len(), fields.len());
            prop_assert!(quick_response(response.as_bytes(), &mut room).is_some());
            for end in 0..response.len() {
                prop_assert!(quick_response(&response.as_bytes()[..end], &mut room).is_none());
            }
        }
    }

    #[test]
    fn there_is_an_end_to_fields() {
        let with = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
        let (most, more) = (with(MAX_FIELDS), with(MAX_FIELDS + 1));
        let mut room = Room::new();
        assert!(quick_request(most.as_bytes(), &mut room).is_some());
        assert!(thorough_request(most.as_bytes(), &mut room).is_ok());
        assert!(quick_request(more.as_bytes(), &mut room).is_none());
        assert!(thorough_request(more.as_bytes(), &mut room).is_err());
    }
}
