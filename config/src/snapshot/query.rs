//! Matching of query parameters.
//!
//! Parameters are compared after percent-decoding, with `+` for a space, as HTML forms write them; text that needs no
//! decoding is compared where it lies.

use std::borrow::Cow;
use std::sync::Arc;

use super::route::ValueMatch;

/// Whether the first parameter of every name in `wanted` is as its match asks.
pub(super) fn takes(wanted: &[(Arc<str>, ValueMatch)], query: Option<&[u8]>) -> bool {
    let Some(query) = query else { return false };
    wanted.iter().all(|(name, value)| {
        first_value(query, name.as_bytes()).is_some_and(|found| match value {
            ValueMatch::Exact(whole) => decodes_to(found, whole.as_bytes()),
            ValueMatch::Regex(regex) => regex.is_match(&decode(found)),
        })
    })
}

/// The first value of parameter `name`, still encoded.
fn first_value<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    query.split(|byte| *byte == b'&').find_map(|pair| {
        let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        decodes_to(&pair[..end], name).then(|| pair.get(end + 1..).unwrap_or_default())
    })
}

/// Whether `encoded` means `plain`.
fn decodes_to(encoded: &[u8], plain: &[u8]) -> bool {
    // Decoding never makes text longer.
    if encoded.len() < plain.len() {
        return false;
    }
    let mut rest = encoded;
    for want in plain {
        match take_one(rest) {
            Some((got, after)) if got == *want => rest = after,
            _ => return false,
        }
    }
    rest.is_empty()
}

fn decode(encoded: &[u8]) -> Cow<'_, [u8]> {
    if !encoded.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(encoded);
    }
    let mut plain = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((byte, after)) = take_one(rest) {
        plain.push(byte);
        rest = after;
    }
    Cow::Owned(plain)
}

/// The first byte that `encoded` means, and what follows. A percent sign without two hex digits means itself.
fn take_one(encoded: &[u8]) -> Option<(u8, &[u8])> {
    match encoded {
        [] => None,
        [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            Some((hex(*high) << 4 | hex(*low), rest))
        }
        [b'+', rest @ ..] => Some((b' ', rest)),
        [byte, rest @ ..] => Some((*byte, rest)),
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        letter => (letter | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes_exactly(query: &str, name: &str, value: &str) -> bool {
        takes(&[(name.into(), ValueMatch::Exact(value.into()))], Some(query.as_bytes()))
    }

    #[test]
    fn the_first_value_of_a_parameter_counts() {
        assert!(takes_exactly("a=1&b=2&a=3", "a", "1"));
        assert!(!takes_exactly("a=1&b=2&a=3", "a", "3"));
        assert!(takes_exactly("x&a=1", "x", ""));
        assert!(takes_exactly("a=b=c", "a", "b=c"));
        assert!(!takes_exactly("aa=1", "a", "1"));
        assert!(!takes_exactly("", "a", "1"));
        assert!(!takes(&[("a".into(), ValueMatch::Exact("".into()))], None));
    }

    #[test]
    fn encoded_parameters_are_compared_decoded() {
        assert!(takes_exactly("na%6De=a%20b+c", "name", "a b c"));
        assert!(takes_exactly("q=100%", "q", "100%"));
        assert!(takes_exactly("q=%zz", "q", "%zz"));
        assert!(takes_exactly("q=%C3%a9", "q", "é"));
        assert!(!takes_exactly("q=%41", "q", "%41"));
    }

    #[test]
    fn a_regular_expression_sees_the_decoded_value() {
        let word = regex::bytes::Regex::new("^(?:a b)$").unwrap();
        assert!(takes(&[("q".into(), ValueMatch::Regex(word))], Some(b"q=a+b")));
    }
}
