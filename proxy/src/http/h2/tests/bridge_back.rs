//! A caller that speaks HTTP/1 before an endpoint that speaks HTTP/2.

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use lighter_config::snapshot::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::world::*;

async fn world(address: std::net::SocketAddr) -> World {
    let mut world = World::new(&[address]);
    world.upstream = Some(Protocol::Grpc);
    world
}

/// Sends `request` and reads until the connection ends.
async fn exchange(world: &World, request: &str) -> String {
    let mut client = world.socket_http1().await;
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the last byte is how a cut is told.
    let _ = client.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    run(async {
        let endpoint = endpoint(Default::default(), echo).await;
        let world = world(endpoint.address).await;
        let answer = exchange(
            &world,
            "POST /a HTTP/1.1\r\nHost: echo\r\nContent-Length: 3\r\n\r\none\
             POST /b HTTP/1.1\r\nHost: echo\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\nX-Sum: 5\r\n\r\n\
             GET /c HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n",
        )
        .await;
        let expected = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n\
                        HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\nx-sum: 5\r\n\r\n\
                        HTTP/1.1 200 OK\r\n";
        let last = answer.strip_prefix(expected).expect(&answer);
        // By then the end of an empty body may be known, or not.
        let empty = [
            "content-length: 0\r\nconnection: close\r\n\r\n",
            "transfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n",
        ];
        assert!(empty.contains(&last), "{last}");
    });
}

#[test]
fn a_large_body_passes_both_ways() {
    run(async {
        let endpoint = endpoint(Default::default(), echo).await;
        let world = world(endpoint.address).await;
        let (mut read, mut write) = world.socket_http1().await.into_split();
        const LENGTH: usize = 2_000_000;
        tokio::task::spawn_local(async move {
            let head = format!("POST / HTTP/1.0\r\nHost: echo\r\nContent-Length: {LENGTH}\r\n\r\n");
            write.write_all(head.as_bytes()).await.unwrap();
            write.write_all(&vec![b'x'; LENGTH]).await.unwrap();
            std::future::pending::<()>().await;
        });
        let mut answer = Vec::new();
        read.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(head, "HTTP/1.1 200 OK\r\nconnection: close");
        assert_eq!(body.len(), LENGTH);
    });
}

#[test]
fn framing_follows_method_status_and_length() {
    run(async {
        let endpoint = endpoint(Default::default(), |(request, mut respond)| async move {
            let status = StatusCode::from_bytes(&request.uri().path().as_bytes()[1..]).unwrap();
            let mut response = Response::builder().status(status);
            if request.method() == http::Method::HEAD {
                response = response.header("content-length", "77");
            }
            respond.send_response(response.body(()).unwrap(), true).unwrap();
        })
        .await;
        let world = world(endpoint.address).await;
        for (line, expected) in [
            ("GET /200", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
            ("GET /204", "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"),
            ("GET /304", "HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n"),
            ("HEAD /200", "HTTP/1.1 200 OK\r\ncontent-length: 77\r\nconnection: close\r\n\r\n"),
        ] {
            let request = format!("{line} HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n");
            assert_eq!(exchange(&world, &request).await, expected);
        }
    });
}

#[test]
fn the_endpoint_gets_no_field_of_the_hop() {
    run(async {
        let endpoint = endpoint(Default::default(), |(request, mut respond)| async move {
            let mut names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, ["te", "x-kept", "x-request-id"]);
            assert_eq!(request.uri().authority().unwrap(), "echo:80");
            assert_eq!(request.uri().path_and_query().unwrap(), "/?q");
            respond.send_response(Response::new(()), true).unwrap();
        })
        .await;
        let world = world(endpoint.address).await;
        let answer = exchange(
            &world,
            "GET http://echo:80?q HTTP/1.1\r\nHost: echo:80\r\nConnection: close, X-Hop, TE\r\nX-Hop: 1\r\n\
             TE: trailers\r\nKeep-Alive: 5\r\nX-Kept: 1\r\nX-Lighter-Error: forged\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
}

#[test]
fn an_answer_that_is_cut_has_no_end() {
    run(async {
        for length in [None, Some("100")] {
            let endpoint = endpoint(Default::default(), move |(_, mut respond)| async move {
                let mut response = Response::new(());
                if let Some(length) = length {
                    response.headers_mut().insert("content-length", HeaderValue::from_static(length));
                }
                let mut to = respond.send_response(response, false).unwrap();
                send_all(&mut to, Bytes::from_static(b"half")).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                to.send_reset(Reason::NO_ERROR);
            })
            .await;
            let world = world(endpoint.address).await;
            let answer = exchange(&world, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
            assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
            assert!(answer.contains("half"), "{answer}");
        }
    });
}

#[test]
fn interim_answers_and_trailers_pass() {
    run(async {
        let endpoint = endpoint(Default::default(), |(_, mut respond)| async move {
            let mut hints = Response::new(());
            *hints.status_mut() = StatusCode::EARLY_HINTS;
            respond.send_informational(hints).unwrap();
            let mut to = respond.send_response(Response::new(()), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            to.send_trailers(trailers).unwrap();
        })
        .await;
        let world = world(endpoint.address).await;
        let answer = exchange(&world, "GET / HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n0\r\ngrpc-status: 0\r\n\r\n"), "{answer}");
    });
}

#[test]
fn a_client_that_leaves_cancels_the_stream() {
    run(async {
        let (tell, told) = tokio::sync::oneshot::channel();
        let tell = std::rc::Rc::new(std::cell::RefCell::new(Some(tell)));
        let endpoint = endpoint(Default::default(), move |(_, mut respond)| {
            let tell = tell.clone();
            async move {
                let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                let _ = tell.borrow_mut().take().unwrap().send(reason);
            }
        })
        .await;
        let world = world(endpoint.address).await;
        let mut client = world.socket_http1().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        drop(client);
        assert_eq!(told.await.unwrap(), Reason::CANCEL);
    });
}

#[test]
fn a_refused_stream_is_sent_again_with_its_body() {
    run(async {
        let refuses = endpoint(Default::default(), |(_, mut respond)| async move {
            respond.send_reset(Reason::REFUSED_STREAM);
        })
        .await;
        let serves = endpoint(Default::default(), echo).await;
        let mut world = World::new(&[refuses.address, serves.address]);
        world.upstream = Some(Protocol::Http2);
        let request = "POST / HTTP/1.1\r\nHost: echo\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody";
        for _ in 0..10 {
            let answer = exchange(&world, request).await;
            assert!(answer.ends_with("\r\n\r\n4\r\nbody\r\n0\r\n\r\n"), "{answer}");
        }
    });
}

#[test]
fn a_message_that_can_be_read_in_two_ways_is_refused() {
    run(async {
        let endpoint = endpoint(Default::default(), echo).await;
        let world = world(endpoint.address).await;
        let answer = exchange(
            &world,
            "POST / HTTP/1.1\r\nHost: echo\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("x-lighter-error: ambiguous_message\r\n"), "{answer}");
        assert_eq!(endpoint.connections.get(), 0);
    });
}

#[test]
fn a_client_that_is_still_sending_gets_the_whole_answer() {
    run(async {
        let mut world = World::new(&[]);
        world.upstream = Some(Protocol::Http2);
        let mut client = world.socket_http1().await;
        const LENGTH: usize = 500_000;
        let head = format!("POST / HTTP/1.1\r\nHost: echo\r\nContent-Length: {LENGTH}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&[b'x'; LENGTH]).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("x-lighter-error: no_endpoint\r\n"), "{answer}");
    });
}

#[test]
fn a_head_has_a_limit_in_bytes_and_in_time() {
    run_paused(async {
        let mut world = World::new(&[]);
        world.upstream = Some(Protocol::Http2);
        let begun = "GET / HTTP/1.1\r\nHost: echo\r\nX: ";
        let answer = exchange(&world, begun).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        let answer = exchange(&world, &format!("{begun}{}", "x".repeat(60 * 1024))).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    });
}

#[test]
fn a_head_in_pieces_is_read() {
    run(async {
        let endpoint = endpoint(Default::default(), echo).await;
        let world = world(endpoint.address).await;
        let mut client = world.socket_http1().await;
        for byte in b"\r\nGET / HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n" {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
}

#[test]
fn interim_answers_without_end_are_cut_off() {
    run(async {
        let endpoint = endpoint(Default::default(), |got| interims(got, 1000)).await;
        let world = world(endpoint.address).await;
        let answer = exchange(&world, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await;
        assert_eq!(answer.matches("HTTP/1.1 103").count(), 32);
        assert!(answer.contains("x-lighter-error: upstream_malformed\r\n"), "{answer}");
    });
}
