//! What is sent to a workload that sends back all it gets, compared byte by byte.

use std::net::SocketAddr;

use http::Request;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::http2;
use super::raw::{Body, Peer};

/// A request to a path of a Service, and its answer.
pub fn post_comes_back(listen: SocketAddr, [service, path]: [&str; 2], sent: &[u8]) {
    let mut peer = Peer::connect(listen);
    let length = sent.len();
    peer.send(format!("POST {path} HTTP/1.1\r\nHost: {service}\r\nContent-Length: {length}\r\n\r\n"));
    let head = peer.send(sent).expect_head();
    let Body::Whole(back) = peer.body(&head) else { panic!("it came back cut") };
    assert_eq!(head.status(), 200, "{head:?}");
    assert_same(&back, sent);
}

/// Calls in HTTP/2 to `reviews`, so many at a time on one connection.
pub fn calls_come_back(listen: SocketAddr, at_once: usize, sent: &[u8]) {
    http2::run(async {
        let client = http2::connect(listen).await;
        let mut calls = JoinSet::new();
        for _ in 0..at_once {
            let (client, body) = (client.clone(), sent.to_vec());
            calls.spawn_local(async move {
                let request = Request::post("http://reviews/").header("content-type", "application/grpc");
                http2::exchange(&client, request.body(body).unwrap()).await.unwrap()
            });
        }
        while let Some(answer) = calls.join_next().await {
            let answer = answer.unwrap();
            assert_eq!((answer.head.status.as_u16(), answer.cut), (200, None));
            assert!(answer.trailers.is_some());
            assert_same(&answer.body, sent);
        }
    });
}

/// Opaque bytes, sent and read at the same time.
pub fn bytes_come_back(mut peer: Peer, sent: &[u8]) {
    let mut writer = peer.another();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.send(sent);
            writer.finish();
        });
        assert_same(&peer.rest(), sent);
    });
}

fn assert_same(back: &[u8], sent: &[u8]) {
    assert_eq!((back.len(), Sha256::digest(back)), (sent.len(), Sha256::digest(sent)));
}
