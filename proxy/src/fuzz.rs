//! What the fuzzers drive: each function takes any bytes, and panics where a promise is broken.

mod carrier;
mod http2;
mod lanes;
mod link;
mod rdma;
mod records;
mod redis;
mod ring;

use lighter_config::identity::{JoinToken, Spiffe};

use crate::connect;
use crate::detect::{self, Verdict};
use crate::http::cookie;
use crate::http::h2::fields::{Fields, RequestHead};
use crate::http::h2::head;
use crate::http::h2::hpack::{DEFAULT_TABLE, Decoder, Encoder, FIELD_OVERHEAD, Refusal};
use crate::retry::retry_after;
use crate::session;
use crate::sni::{self, Hello};

/// Detection: what is decided for a prefix holds for everything that begins with it, and silence always decides.
pub fn detect(bytes: &[u8]) {
    let whole = detect::recognise(bytes);
    let mut decided = Verdict::Partial;
    for upto in prefixes(bytes) {
        let seen = detect::recognise(&bytes[..upto]);
        assert!(decided == Verdict::Partial || seen == decided, "decided anew at byte {upto}");
        decided = seen;
    }
    assert_eq!(decided, whole);
    let settled = detect::settle(bytes);
    assert_ne!(settled, Verdict::Partial);
    assert!(whole == Verdict::Partial || settled == whole);
    detect::is_settings(bytes);
}

/// The ClientHello parser: what is decided stays decided, and only host names come out.
pub fn sni(bytes: &[u8]) {
    let mut decided = Hello::Partial;
    for upto in prefixes(bytes) {
        let seen = sni::parse(&bytes[..upto]);
        assert!(decided == Hello::Partial || seen == decided, "decided anew at byte {upto}");
        decided = seen;
    }
    if let Hello::Whole(Some(name)) = decided {
        assert!(name.len() <= 253 && !name.starts_with('.'));
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
    }
}

/// The parsers of the explicit proxy port: none takes more than there is, and what is whole stays so.
pub fn connect(bytes: &[u8]) {
    connect::parse_any(bytes);
}

/// The headers that say which trace a request belongs to: what is taken over is written so that the next in line takes it over.
pub fn trace(bytes: &[u8]) {
    crate::telemetry::spans::reread(bytes);
}

/// Values of single fields: what is read of any bytes is within its bounds, and what is written of it is read as the same.
pub fn fields(bytes: &[u8]) {
    let mut fields = Fields::default();
    fields.set(head::GRPC_TIMEOUT, bytes);
    if let Some(asked) = head::grpc_timeout(&fields) {
        fields.set(head::GRPC_TIMEOUT, head::grpc_timeout_value(asked).as_bytes());
        assert!(head::grpc_timeout(&fields).is_some_and(|passed| passed <= asked), "time grows on its way");
    }
    let _ = retry_after(bytes);
    session::reread(bytes);
    let mut request = RequestHead::new(b"GET", b"http", b"up", b"/");
    request.fields.set(b"cookie", bytes);
    cookie::read("a", &request, |value| assert!(!value.contains(&b';')));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(id) = Spiffe::parse(text) {
        assert_eq!(id.to_string(), text, "nothing is normalized");
    }
    let _ = JoinToken::parse(text);
}

/// Links. The first byte chooses: a peer that sends anything, one that sends anything in frames, or two ends of a link
/// that do anything in any order.
pub fn session(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0..64, bytes)) => link::hostile(bytes),
        Some((64..128, bytes)) => link::hostile_frames(bytes),
        Some((_, choices)) => link::agreement(choices),
        None => {}
    }
}

/// Links over QUIC. The first byte chooses: a peer that sends anything by its lanes, or two ends of a link that do anything
/// in any order.
pub fn lanes(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0..128, bytes)) => lanes::hostile(bytes),
        Some((_, choices)) => lanes::agreement(choices),
        None => {}
    }
}

/// The carrier of a link: a peer that says anything, on TCP and on the wire, gains nothing.
pub fn carrier(bytes: &[u8]) {
    carrier::hostile(bytes);
}

/// The record layer of a link: whatever its peer seals, and whatever comes of that, what is opened is what the peer said, as far
/// as it goes.
pub fn records(bytes: &[u8]) {
    records::hostile(bytes);
}

/// Rings between two processes. The first byte chooses: both sides in any order, or one whose peer writes anything. The second
/// does: memory of up to 128 bytes that is a plain vector, or that of production, mapped by each side between pages that nobody may
/// touch. Stable Rust has no AddressSanitizer: what is read or written outside of the mapping ends the fuzzer all the same.
pub fn ring(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0..128, choices)) => ring::agreement(choices),
        Some((_, choices)) => ring::hostile(choices),
        None => {}
    }
}

/// RDMA wires: a peer that says anything in its numbers, and a device that completes anything.
pub fn rdma(bytes: &[u8]) {
    rdma::hostile(bytes);
}

/// Redis: where commands and answers end does not depend on how they come, and a session that is told what another one was told is
/// like it.
pub fn redis(bytes: &[u8]) {
    redis::sessions(bytes);
}

/// HTTP/2 connections. The first byte chooses: a peer that sends anything, one that sends anything in frames, or both ends
/// of a connection that do anything in any order.
pub fn http2(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0..64, bytes)) => http2::hostile(bytes),
        Some((64..128, bytes)) => http2::hostile_frames(bytes),
        Some((_, choices)) => http2::agreement(choices),
        None => {}
    }
}

/// HPACK: any blocks are read within their limit or refused, and what was read goes on over another hop as it is.
pub fn hpack(bytes: &[u8]) {
    const LIMIT: usize = 16 * 1024;
    let (mut decoder, mut encoder, mut next) =
        (Decoder::new(8192), Encoder::new(), Decoder::new(DEFAULT_TABLE));
    let mut rest = bytes;
    while let [length, size, blocks @ ..] = rest {
        let (block, behind) = blocks.split_at(blocks.len().min(usize::from(*length)));
        rest = behind;
        if *size < 64 {
            encoder.resize(usize::from(*size) * 80);
        }
        let (mut fields, mut written, mut left) = (Vec::new(), Vec::new(), LIMIT);
        let read = decoder.block(block, LIMIT, &mut |name, value, never| {
            let size = name.len() + value.len() + FIELD_OVERHEAD;
            assert!(size <= left, "more fields than the limit");
            left -= size;
            encoder.field(name, value, never, &mut written);
            fields.push((name.to_vec(), value.to_vec(), never));
            if name == b"refused" { Err(()) } else { Ok(()) }
        });
        let mut expected = fields.iter();
        let reread = next.block(&written, LIMIT, &mut |name, value, never| {
            let same = |sent: &(Vec<u8>, Vec<u8>, bool)| name == sent.0 && value == sent.1 && never >= sent.2;
            assert!(expected.next().is_some_and(same), "another field");
            Ok::<_, ()>(())
        });
        assert_eq!(reread, Ok(()));
        assert!(expected.next().is_none(), "a field less");
        if let Err(Refusal::Malformed(_)) = read {
            return;
        }
    }
}

/// Lengths of prefixes that are tried: all of a short input, some of a long one, always the whole.
fn prefixes(bytes: &[u8]) -> impl Iterator<Item = usize> {
    (0..bytes.len()).step_by(bytes.len() / 512 + 1).chain([bytes.len()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        // Each of these carries megabytes.
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn two_ends_of_a_link_agree_in_any_order(choices in prop::collection::vec(any::<u8>(), 0..800)) {
            super::link::agreement(&choices);
        }

        #[test]
        fn two_ends_of_a_link_with_lanes_agree_in_any_order(choices in prop::collection::vec(any::<u8>(), 0..800)) {
            super::lanes::agreement(&choices);
        }

        #[test]
        fn two_ends_of_http2_agree_in_any_order(choices in prop::collection::vec(any::<u8>(), 0..800)) {
            super::http2::agreement(&choices);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_keep_every_promise(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            super::detect(&bytes);
            super::sni(&bytes);
            super::connect(&bytes);
            super::hpack(&bytes);
            super::fields(&bytes);
        }

        #[test]
        fn a_hostile_peer_of_a_link_gains_nothing(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            super::link::hostile(&bytes);
            super::link::hostile_frames(&bytes);
        }

        #[test]
        fn a_hostile_peer_of_lanes_gains_nothing(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            super::lanes::hostile(&bytes);
        }

        #[test]
        fn a_hostile_peer_of_a_carrier_gains_nothing(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            super::carrier(&bytes);
        }

        #[test]
        fn a_hostile_peer_of_a_record_layer_gains_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            super::records(&bytes);
        }

        #[test]
        fn a_hostile_peer_of_http2_gains_nothing(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            super::http2::hostile(&bytes);
            super::http2::hostile_frames(&bytes);
        }

        #[test]
        fn sessions_with_redis_keep_every_promise(
            step in any::<u8>(),
            asked in "((SELECT 1|AUTH a b|HELLO 3( AUTH a b)?|CLIENT SETNAME x|P?SUBSCRIBE a b|UNSUBSCRIBE( a)?|MULTI|EXEC|WATCH k|GET k|QUIT|RESET|BLPOP k 0|)\r\n){0,12}",
            answered in "(\\+OK\r\n|-ERR x\r\n|\\*2\r\n:1\r\n:2\r\n|>3\r\n\\$7\r\nmessage\r\n\\+a\r\n\\+b\r\n){0,12}",
        ) {
            let mut bytes = vec![step];
            // Both halves are of one length.
            let length = asked.len().max(answered.len());
            bytes.extend(format!("{asked:\n<length$}").as_bytes());
            bytes.extend(format!("{answered:\n<length$}").as_bytes());
            super::redis(&bytes);
        }

        #[test]
        fn text_keeps_every_promise(text in "(GET|CONNECT|PRI) [ -~]{0,60}(\r\n[ -~]{0,30}){0,3}(\r\n\r\n)?") {
            super::detect(text.as_bytes());
            super::connect(text.as_bytes());
        }
    }
}
