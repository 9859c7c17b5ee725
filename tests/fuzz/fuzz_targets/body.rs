//! A body means the same however its bytes are cut into reads, and passed on it means the same once more.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lighter_proxy::http::h1::body::{Body, Framing};

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let framing = if choice & 1 == 0 { Framing::Chunked } else { Framing::length(u64::from(*choice)) };
    let whole = decode(framing, bytes, bytes.len().max(1));
    let parts = decode(framing, bytes, usize::from(choice >> 1 & 7) + 1);
    match (&whole, &parts) {
        (Some(whole), Some(parts)) => assert_eq!(whole, parts, "reads do not change a body"),
        (None, None) => {}
        other => panic!("reads decide about a body: {other:?}"),
    }

    // What goes on before a fault is found may be cut, but what goes on as a whole body has the same content.
    let Some((content, true)) = whole else { return };
    let passed = pass(framing, bytes);
    assert_eq!(decode(framing, &passed, passed.len()), Some((content, true)));
});

/// The content, and whether the body ended; none where it is refused.
fn decode(framing: Framing, bytes: &[u8], part: usize) -> Option<(Vec<u8>, bool)> {
    let (mut body, mut out, mut held) = (Body::new(framing), Vec::new(), Vec::new());
    for part in bytes.chunks(part) {
        held.extend_from_slice(part);
        let seen = body.decode(&held, &mut out).ok()?;
        assert!(seen <= held.len());
        held.drain(..seen);
        if body.is_done() {
            break;
        }
    }
    Some((out, body.is_done()))
}

fn pass(framing: Framing, bytes: &[u8]) -> Vec<u8> {
    let (mut body, mut out, mut at) = (Body::new(framing), Vec::new(), 0);
    while !body.is_done() {
        let step = body.pass(&bytes[at..]).expect("it was decoded before");
        if step.pass + step.omit == 0 {
            break;
        }
        out.extend_from_slice(&bytes[at..at + step.pass]);
        at += step.pass + step.omit;
    }
    out
}
