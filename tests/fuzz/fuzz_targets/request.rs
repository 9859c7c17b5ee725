//! A request's head that is taken and passed on is read by the next hop as the same request, and by nobody as two.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lighter_proxy::error::Cause;
use lighter_proxy::http::h1::edit::{Edit, RequestRules};
use lighter_proxy::http::h1::head;

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let mut room = head::room();
    let Ok(Some(request)) = head::request(bytes, &mut room) else { return };
    assert!(request.len <= bytes.len());
    let front = &bytes[..request.len];
    assert!(front.ends_with(b"\r\n\r\n"));

    let caller: &[u8] = if choice & 1 == 0 { b"" } else { b"192.0.2.1" };
    // Who called: passed on as it came, taken away, or said by this hop.
    let vouch: Option<&[u8]> = match choice >> 2 & 3 {
        0 | 1 => None,
        2 => Some(b""),
        _ => Some(b"URI=spiffe://mesh.lighter/web"),
    };
    let rules = RequestRules { authority: b"up", caller, vouch, identify: choice & 2 != 0 };
    let mut edit = Edit::default();
    edit.request(front, &request, &rules);
    let passed = edit.to_vec(front);
    assert_eq!(passed.len(), edit.len());
    let mut room = head::room();
    let again = head::request(&passed, &mut room);
    // A hop adds a field or two of its own, which can be more than the next one takes.
    let fields = passed.split(|byte| *byte == b'\n').count() - 3;
    if fields > head::MAX_FIELDS {
        assert!(again.is_err_and(|refusal| refusal.cause == Cause::HeadTooLarge));
        return;
    }
    let again = again.expect("what is passed on is valid").expect("and whole");
    assert_eq!(again.len, passed.len(), "one head, and nothing behind it");
    assert_eq!(again.method, request.method);
    assert_eq!(again.framing, request.framing);
    assert_eq!(again.minor, 1);
    let named = |name: &str| {
        again.fields.list.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).count()
    };
    assert_eq!(named("host"), 1);
    assert!(named("content-length") + named("transfer-encoding") <= 1);
    for gone in ["keep-alive", "proxy-connection", "proxy-authenticate"] {
        assert_eq!(named(gone), 0, "{gone} stays on its hop");
    }
    let told: Vec<&[u8]> = again
        .fields
        .list
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case(b"x-forwarded-client-cert"))
        .map(|field| field.value)
        .collect();
    match vouch {
        None => {}
        Some(b"") => assert!(told.is_empty(), "nobody says who called but this hop"),
        Some(caller) => assert_eq!(told, [caller], "nobody says who called but this hop"),
    }
    let ours = |name: &[u8]| name.len() >= 10 && name[..10].eq_ignore_ascii_case(b"x-lighter-");
    assert!(!again.fields.list.iter().any(|field| ours(field.name)), "the mesh's names are the mesh's");
});
