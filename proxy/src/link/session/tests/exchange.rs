//! Exchanges that go well.

use super::*;
use crate::link::frame::HEADER_BYTES;

#[test]
fn a_request_and_its_answer_arrive_as_they_were_sent() {
    let mut pair = Pair::new(Limits::default());
    let id = pair.open(&get("/a?b"), &[("X-Upper", "One"), ("accept", "*/*")], b"", true);
    pair.pump();
    let (stream, head, end) = opened(&mut pair.acceptor);
    assert!(end);
    assert_eq!(
        (head.method(), head.authority(), head.path_and_query()),
        (&b"GET"[..], &b"reviews"[..], &b"/a?b"[..])
    );
    let fields: Vec<_> = head.fields().map(|field| (field.name.to_vec(), field.value.to_vec())).collect();
    assert_eq!(fields, [(b"X-Upper".to_vec(), b"One".to_vec()), (b"accept".to_vec(), b"*/*".to_vec())]);

    pair.acceptor.send_head(stream, 103, none(), b"", false).unwrap();
    pair.acceptor.send_head(stream, 200, none(), b"hello", false).unwrap();
    pair.acceptor.send_slice(stream, b" world", false).unwrap();
    pair.acceptor.send_trailers(stream, [(&b"Grpc-Status"[..], &b"0"[..])]).unwrap();
    pair.pump();
    let (body, rest) = read_all(&mut pair.opener, id);
    assert_eq!(body, b"hello world");
    assert_eq!(rest, ["103", "200", "Grpc-Status", "end"]);
    assert_eq!((pair.opener.open_streams(), pair.acceptor.open_streams()), (0, 0));
}

#[test]
fn a_small_exchange_is_one_frame_each_way() {
    let mut pair = Pair::new(Limits::default());
    let id = pair.open(&get("/"), &[], b"ask", true);
    let out = written(&mut pair.opener, usize::MAX);
    let head = HEADER_BYTES + 6 + (1 + 3) + (1 + 7) + (1 + 1) + 2;
    assert_eq!(out.len(), head + 3);
    pair.acceptor.recv(pair.now, out.clone()).unwrap();
    let (stream, _, end) = opened(&mut pair.acceptor);
    assert!(!end);
    assert_eq!(read_all(&mut pair.acceptor, stream), (b"ask".to_vec(), vec!["end".to_owned()]));
    pair.acceptor.send_head(stream, 200, none(), b"answer", true).unwrap();
    assert_eq!(written(&mut pair.acceptor, usize::MAX).len(), HEADER_BYTES + 4 + 6);
    assert_eq!(pair.acceptor.open_streams(), 0);
    let _ = id;
}

#[test]
fn large_bodies_are_not_copied() {
    let mut pair = Pair::new(Limits::default());
    let id = pair.open(&get("/"), &[], b"", true);
    pair.pump();
    let (stream, ..) = opened(&mut pair.acceptor);
    pair.acceptor.send_head(stream, 200, none(), b"", false).unwrap();
    let body = bytes(45_000);
    let mut rest = body.clone();
    assert_eq!(pair.acceptor.send_data(stream, &mut rest, true), Ok(45_000));
    let mut slices = Slices::new();
    let outbox = pair.acceptor.transmit();
    outbox.slices(&mut slices);
    assert_eq!(slices[1].as_ptr(), body.as_ptr());
    assert_eq!(slices.len(), 6);
    drop(slices);

    let arrived = written(&mut pair.acceptor, usize::MAX);
    let (start, end) = (arrived.as_ptr() as usize, arrived.as_ptr() as usize + arrived.len());
    pair.opener.recv(pair.now, arrived).unwrap();
    let mut sum = 0;
    while let Some(read) = pair.opener.read(id) {
        if let Read::Data(bytes) = read {
            assert!((start..end).contains(&(bytes.as_ptr() as usize)));
            assert_eq!(bytes, body[sum..sum + bytes.len()]);
            sum += bytes.len();
        }
    }
    assert_eq!(sum, 45_000);
}
