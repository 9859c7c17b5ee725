//! A caller that speaks HTTP/2 before an endpoint that speaks HTTP/1.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use lighter_config::snapshot::{Balancer, Balancing, Protocol, TrafficPolicy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::*;

/// An endpoint that answers every request, once it has it whole, with `answer`; what it got lands in the list.
async fn http1(answer: &'static str, close: bool) -> (World, Rc<RefCell<Vec<String>>>) {
    http1_with(TrafficPolicy::default(), answer, close).await
}

/// The same, of a Service with this policy.
async fn http1_with(
    policy: TrafficPolicy,
    answer: &'static str,
    close: bool,
) -> (World, Rc<RefCell<Vec<String>>>) {
    let got = Rc::new(RefCell::new(Vec::new()));
    let list = got.clone();
    let address = raw(move |mut tcp: TcpStream| {
        let list = list.clone();
        async move {
            let mut bytes = Vec::new();
            loop {
                let mut room = [0; 4096];
                let Ok(read) = tcp.read(&mut room).await else { return };
                if read == 0 {
                    return;
                }
                bytes.extend_from_slice(&room[..read]);
                let text = String::from_utf8(bytes.clone()).unwrap();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let whole = match (head.contains("chunked"), head.split_once("content-length: ")) {
                    (true, _) => body.ends_with("\r\n\r\n"),
                    (_, Some((_, rest))) => {
                        body.len() == rest.split("\r\n").next().unwrap().parse::<usize>().unwrap()
                    }
                    _ => true,
                };
                if whole {
                    list.borrow_mut().push(text);
                    bytes.clear();
                    tcp.write_all(answer.as_bytes()).await.unwrap();
                    if close {
                        return;
                    }
                }
            }
        }
    })
    .await;
    let mut world = World::with(&[address], policy);
    world.upstream = Some(Protocol::Http);
    (world, got)
}

#[test]
fn requests_are_translated_and_the_connection_is_kept() {
    run(async {
        let (world, got) =
            http1("HTTP/1.1 200 OK\r\nX-Case: Kept\r\nContent-Length: 5\r\n\r\nhello", false).await;
        let caller = world.caller().await;
        for _ in 0..3 {
            let answer = call(&caller, get("/x?y"), b"", None).await.unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]));
            assert_eq!(answer.headers["x-case"], "Kept");
            assert_eq!(answer.headers["content-length"], "5");
            assert_eq!(world.worker.http1.borrow().len(), 1);
        }
        assert!(got.borrow()[0].starts_with("GET /x?y HTTP/1.1\r\nhost: echo\r\n"));
        assert_eq!(got.borrow().len(), 3);
    });
}

#[test]
fn a_body_without_length_and_its_trailers_pass_in_chunks_both_ways() {
    run(async {
        let (world, got) = http1(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\ngrpc-status: 0\r\n\r\n",
            false,
        )
        .await;
        let caller = world.caller().await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        let answer = call(&caller, grpc(), b"request", Some(trailers)).await.unwrap();
        assert_eq!(answer.body, b"abcde");
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
        assert!(!answer.headers.contains_key("transfer-encoding"));
        assert!(
            got.borrow()[0].ends_with("\r\n\r\n7\r\nrequest\r\n0\r\nx-sum: 1\r\n\r\n"),
            "{:?}",
            got.borrow()
        );
    });
}

#[test]
fn an_answer_ends_where_its_trailers_are_not_for_callers() {
    run(async {
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                      2\r\nok\r\n0\r\nendpoint-load-metrics: TEXT cpu_utilization=0.5\r\n\r\n";
        let balancing = Balancing { balancer: Balancer::WeightedRoundRobin, ..Balancing::default() };
        let policy = TrafficPolicy { balancing, ..TrafficPolicy::default() };
        let (world, _) = http1_with(policy, answer, false).await;
        let answer = call(&world.caller().await, get("/"), b"", None).await.unwrap();
        assert_eq!((answer.body, answer.trailers), (b"ok".to_vec(), None));
    });
}

#[test]
fn an_answer_that_is_cut_is_reset() {
    run(async {
        for cut in [
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        ] {
            let (world, _) = http1(cut, true).await;
            let caller = world.caller().await;
            let error = call(&caller, get("/"), b"", None).await.unwrap_err();
            assert!(error.is_reset(), "{cut}: {error}");
        }
    });
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection() {
    run(async {
        let (world, _) = http1("HTTP/1.1 200 OK\r\n\r\nall of it", true).await;
        let caller = world.caller().await;
        assert_eq!(call(&caller, get("/"), b"", None).await.unwrap().body, b"all of it");
        assert_eq!(world.worker.http1.borrow().len(), 0);
    });
}

#[test]
fn head_and_304_have_a_length_and_no_body_and_204_has_neither() {
    run(async {
        for (method, status, length) in
            [(Method::HEAD, 200, true), (Method::GET, 304, true), (Method::GET, 204, false)]
        {
            let answer = match status {
                200 => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
                304 => "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n",
                _ => "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            };
            let (world, _) = http1(answer, false).await;
            let caller = world.caller().await;
            let mut request = get("/");
            *request.method_mut() = method;
            let answer = call(&caller, request, b"", None).await.unwrap();
            assert_eq!((answer.status, answer.body.len()), (status, 0));
            assert_eq!(answer.headers.contains_key("content-length"), length, "{status}");
        }
    });
}

#[test]
fn interim_answers_pass() {
    run(async {
        let (world, _) = http1(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            false,
        )
        .await;
        let caller = world.caller().await;
        let (mut response, _) = caller.ready().await.unwrap().send_request(get("/"), true).unwrap();
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(
            (interim.status().as_u16(), &interim.headers()["link"]),
            (103, &HeaderValue::from_static("</a>"))
        );
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn nonsense_is_told_as_nonsense() {
    run(async {
        for nonsense in
            ["HTTP/2 what\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"]
        {
            let (world, _) = http1(nonsense, true).await;
            let caller = world.caller().await;
            let answer = call(&caller, get("/"), b"", None).await.unwrap();
            assert_eq!(answer.headers["x-lighter-error"], "upstream_malformed");
        }
    });
}

#[test]
fn a_caller_that_cuts_its_request_cuts_it_for_the_endpoint() {
    run(async {
        let (cut, told) = tokio::sync::oneshot::channel();
        let cut = Rc::new(RefCell::new(Some(cut)));
        let address = raw(move |mut tcp| {
            let cut = cut.clone();
            async move {
                let mut all = Vec::new();
                let _ = tcp.read_to_end(&mut all).await;
                if let Some(cut) = cut.borrow_mut().take() {
                    let _ = cut.send(all);
                }
            }
        })
        .await;
        let mut world = World::new(&[address]);
        world.upstream = Some(Protocol::Http);
        let caller = world.caller().await;
        let (_response, mut to) = caller.ready().await.unwrap().send_request(grpc(), false).unwrap();
        to.send_data(Bytes::from_static(b"half"), false).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        to.send_reset(h2::Reason::CANCEL);
        let got = String::from_utf8(told.await.unwrap()).unwrap();
        assert!(got.ends_with("4\r\nhalf\r\n"), "{got}");
    });
}

#[test]
fn interim_answers_without_end_are_cut_off() {
    run(async {
        let many: &'static str = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(33).leak();
        let (world, _) = http1(many, false).await;
        let answer = call(&world.caller().await, get("/"), b"", None).await.unwrap();
        assert_eq!(answer.headers["x-lighter-error"], "upstream_malformed");
    });
}

#[test]
fn an_answers_head_has_a_limit() {
    run(async {
        let endless: &'static str = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(60 * 1024)).leak();
        let (world, _) = http1(endless, false).await;
        let answer = call(&world.caller().await, get("/"), b"", None).await.unwrap();
        assert_eq!(answer.headers["x-lighter-error"], "upstream_malformed");
    });
}
