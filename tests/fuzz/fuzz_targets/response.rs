//! An answer's head that is taken and passed on is read by the caller as the same answer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lighter_proxy::error::Cause;
use lighter_proxy::http::h1::body::Framing;
use lighter_proxy::http::h1::edit::{Edit, ResponseRules};
use lighter_proxy::http::h1::head::{self, Asked};

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let asked = Asked { head: choice & 1 != 0, upgrade: choice & 2 != 0 };
    let lighter = choice & 4 == 0;
    let mut room = head::room();
    let Ok(Some(response)) = head::response(bytes, &mut room, asked) else { return };
    assert!(response.len <= bytes.len());
    let front = &bytes[..response.len];

    let (close, draining) = (choice & 16 != 0, choice & 32 != 0);
    let rules = ResponseRules { lighter, client_minor: choice >> 3 & 1, close, draining };
    let mut edit = Edit::default();
    edit.response(front, &response, &rules);
    let passed = edit.to_vec(front);
    let mut room = head::room();
    let again = head::response(&passed, &mut room, asked);
    // A hop adds a field of its own, which can be more than the next one takes.
    let fields = passed.split(|byte| *byte == b'\n').count() - 3;
    if fields > head::MAX_FIELDS {
        assert!(again.is_err_and(|refusal| refusal.cause == Cause::UpstreamMalformed));
        return;
    }
    let again = again.expect("what is passed on is valid").expect("and whole");
    assert_eq!(again.len, passed.len(), "one head, and nothing behind it");
    assert_eq!(again.status, response.status);
    // A caller of HTTP/1.0 cannot read chunks: for it the end of the connection is the end.
    if rules.client_minor == 1 || matches!(response.framing, Framing::None | Framing::Length(_)) {
        let may_change = response.framing == Framing::UntilClose && again.framing == Framing::Chunked;
        assert!(
            again.framing == response.framing || may_change,
            "{:?} {:?}",
            again.framing,
            response.framing
        );
    }
});
