//! Heads and trailers out of header blocks, and what makes one malformed (RFC 9113 §8).

use super::{Code, Fault, TooLarge};
use crate::http::h1::head::{content_length, is_authority};
use crate::http::h2::fields::{Fields, RequestHead, ResponseHead};
use crate::http::h2::hpack::{Decoder, Refusal};
use crate::http::hop::{self, Kind};

/// Why a head is not taken. The connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It breaks the rules.
    Malformed,
    /// It is larger than the limit.
    TooLarge(TooLarge),
}

/// A head, and the length of the body that it announces.
pub(super) struct Taken<H> {
    pub(super) head: H,
    pub(super) length: Option<u64>,
}

/// What is read of a block, or that nothing after it can be read.
type Outcome<T> = Result<Result<T, Wrong>, Fault>;

/// Reads the head of a request.
pub(super) fn request(decoder: &mut Decoder, block: &[u8], limit: u32) -> Outcome<Taken<RequestHead>> {
    let mut head = RequestHead::with_room();
    let mut check = Check::default();
    let read = decoder.block(block, limit as usize, &mut |name, value, sensitive| {
        let [b':', pseudo @ ..] = name else {
            return check.field(&mut head.fields, name, value, sensitive);
        };
        let (bit, set): (u8, fn(&mut RequestHead, &[u8])) = match pseudo {
            b"method" => (METHOD, RequestHead::set_method),
            b"scheme" => (SCHEME, RequestHead::set_scheme),
            b"authority" => (AUTHORITY, RequestHead::set_authority),
            b"path" => (TARGET, RequestHead::set_target),
            _ => return Err(Malformed),
        };
        check.pseudo(bit, &head.fields)?;
        set(&mut head, value);
        Ok(())
    });
    outcome(read, || {
        is_request(&head, check.seen)?;
        Ok(Taken { length: check.length, head })
    })
}

/// Reads the head of an answer.
pub(super) fn response(decoder: &mut Decoder, block: &[u8], limit: u32) -> Outcome<Taken<ResponseHead>> {
    let mut head = ResponseHead { status: 0, fields: Fields::with_room() };
    let mut check = Check::default();
    let read = decoder.block(block, limit as usize, &mut |name, value, sensitive| {
        if name.first() != Some(&b':') {
            return check.field(&mut head.fields, name, value, sensitive);
        }
        if name != b":status" {
            return Err(Malformed);
        }
        check.pseudo(STATUS, &head.fields)?;
        head.status = status(value).ok_or(Malformed)?;
        Ok(())
    });
    outcome(read, || match head.status {
        0 => Err(Malformed),
        _ => Ok(Taken { length: check.length, head }),
    })
}

/// Reads trailers.
pub(super) fn trailers(decoder: &mut Decoder, block: &[u8], limit: u32) -> Outcome<Fields> {
    // A status, and a word about it.
    let mut fields = Fields::with_capacity(64, 4);
    let mut check = Check::default();
    let read = decoder.block(block, limit as usize, &mut |name, value, sensitive| {
        check.field(&mut fields, name, value, sensitive)
    });
    outcome(read, || Ok(fields))
}

/// Reads a block of which nothing is wanted: what comes after it cannot be read without.
pub(super) fn skip(decoder: &mut Decoder, block: &[u8]) -> Result<(), Fault> {
    outcome(decoder.block(block, usize::MAX, &mut |_, _, _| Ok(())), || Ok(())).map(|_| ())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Malformed;

fn outcome<T>(
    read: Result<(), Refusal<Malformed>>,
    done: impl FnOnce() -> Result<T, Malformed>,
) -> Outcome<T> {
    match read {
        Ok(()) => Ok(done().map_err(|Malformed| Wrong::Malformed)),
        Err(Refusal::Field(Malformed)) => Ok(Err(Wrong::Malformed)),
        Err(Refusal::TooLarge) => Ok(Err(Wrong::TooLarge(TooLarge))),
        Err(Refusal::Malformed(_)) => {
            Err(Fault::new(Code::COMPRESSION_ERROR, "a header block that cannot be read"))
        }
    }
}

const METHOD: u8 = 1;
const SCHEME: u8 = 1 << 1;
const AUTHORITY: u8 = 1 << 2;
const TARGET: u8 = 1 << 3;
const STATUS: u8 = 1 << 4;

/// What was found so far.
#[derive(Default)]
struct Check {
    /// Pseudo-fields.
    seen: u8,
    length: Option<u64>,
}

impl Check {
    /// A pseudo-field comes: once, and before every other field (§8.3).
    fn pseudo(&mut self, bit: u8, fields: &Fields) -> Result<(), Malformed> {
        if self.seen & bit != 0 || !fields.is_empty() {
            return Err(Malformed);
        }
        self.seen |= bit;
        Ok(())
    }

    #[inline]
    fn field(
        &mut self,
        fields: &mut Fields,
        name: &[u8],
        value: &[u8],
        sensitive: bool,
    ) -> Result<(), Malformed> {
        if !hop::is_http2_name(name) || !is_value(value) {
            return Err(Malformed);
        }
        match fields.push_as(name, value, sensitive) {
            // §8.2.2.
            Kind::Connection | Kind::Hop | Kind::TransferEncoding | Kind::Upgrade => Err(Malformed),
            Kind::Te if !value.eq_ignore_ascii_case(b"trailers") => Err(Malformed),
            Kind::ContentLength => {
                let length = content_length(value).ok_or(Malformed)?;
                match self.length.replace(length) {
                    Some(before) if before != length => Err(Malformed),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// Whether a field's value may be so: no control characters, no white space around it (§8.2.1).
fn is_value(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    // Without a branch for each byte.
    let bad = value.iter().fold(false, |bad, byte| bad | (*byte < b' ' && *byte != b'\t') | (*byte == 0x7f));
    !bad && !blank(value.first()) && !blank(value.last())
}

/// Whether it is a request that can be passed on (§8.3.1, §8.5).
fn is_request(head: &RequestHead, seen: u8) -> Result<(), Malformed> {
    let connect = head.method() == b"CONNECT";
    let whole = match connect {
        true => {
            seen & (METHOD | AUTHORITY | SCHEME | TARGET) == METHOD | AUTHORITY
                && !head.authority().is_empty()
        }
        false => seen & (METHOD | SCHEME | TARGET) == METHOD | SCHEME | TARGET,
    };
    let scheme = head.scheme();
    let is_scheme = scheme.first().map_or(connect, u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    let target = head.target();
    let is_target = match target {
        [] => connect,
        b"*" => head.method() == b"OPTIONS",
        [first, ..] => *first == b'/' && hop::is_target(target),
    };
    let good =
        whole && is_scheme && is_target && is_authority(head.authority()) && hop::is_token(head.method());
    if good { Ok(()) } else { Err(Malformed) }
}

/// A status: three digits, and not 101, which HTTP/2 has not (§8.6).
fn status(value: &[u8]) -> Option<u16> {
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = *value else { return None };
    let digit = |byte: u8| u16::from(byte - b'0');
    let status = 100 * digit(a) + 10 * digit(b) + digit(c);
    (status != 101).then_some(status)
}
