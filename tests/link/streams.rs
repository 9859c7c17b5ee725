//! Between two sidecars that open links to each other: callers and applications that speak HTTP/2, gRPC among them.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, Response};
use libtest_mimic::Trial;
use tokio::sync::Notify;

use crate::links::{World, over_quic};
use crate::support::raw::{Body, Peer};
use crate::support::{http2, test, wait_until};
use crate::world::WEB;

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_link_carries_calls_with_their_trailers", calls_with_their_trailers),
        test("a_link_carries_streams_both_ways_at_once", streams_both_ways),
        test("a_link_carries_what_is_left_of_a_deadline", what_is_left_of_a_deadline),
        test("a_link_carries_a_reset_stream_as_reset", a_reset_stream),
        test("a_link_gives_up_a_stream_that_its_caller_gives_up", a_caller_gives_up_a_stream),
        test("a_link_carries_large_bodies_in_http2", large_bodies),
        test("a_link_leads_http1_callers_to_http2_applications", http1_callers),
        test("a_link_serves_many_streams_at_once", many_streams),
        test("a_reader_in_http2_that_stalls_holds_back_nobody_else", a_stalled_reader),
        over_quic("a_link_carries_calls_with_their_trailers", calls_with_their_trailers),
        over_quic("a_link_carries_streams_both_ways_at_once", streams_both_ways),
        over_quic("a_link_carries_what_is_left_of_a_deadline", what_is_left_of_a_deadline),
        over_quic("a_link_carries_a_reset_stream_as_reset", a_reset_stream),
        over_quic("a_link_gives_up_a_stream_that_its_caller_gives_up", a_caller_gives_up_a_stream),
        over_quic("a_link_carries_large_bodies_in_http2", large_bodies),
        over_quic("a_link_leads_http1_callers_to_http2_applications", http1_callers),
        over_quic("a_link_serves_many_streams_at_once", many_streams),
        over_quic("a_reader_in_http2_that_stalls_holds_back_nobody_else", a_stalled_reader),
    ]
}

/// Answers a call with its own body, what it was told of it, and a status behind it.
fn echo() -> http2::Upstream {
    http2::Upstream::start(|request, mut respond| async move {
        let (head, body) = request.into_parts();
        let came = http2::read(Response::new(()).into_parts().0, body).await;
        let said = |name: &str| head.headers.get(name).cloned().unwrap_or(HeaderValue::from_static(""));
        let lighter = head.headers.keys().any(|name| name.as_str().starts_with("x-lighter-"));
        let answer = Response::builder()
            .header("content-type", "application/grpc")
            .header("x-authority", head.uri.authority().map_or("", |authority| authority.as_str()))
            .header("x-path", head.uri.path())
            .header("x-caller", said("x-forwarded-client-cert"))
            .header("x-timeout", said("grpc-timeout"))
            .header("x-te", said("te"))
            .header("x-marked", lighter.to_string());
        let Ok(mut stream) = respond.send_response(answer.body(()).unwrap(), false) else { return };
        let _ = stream.send_data(came.body.into(), false);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("x-request-trailers", HeaderValue::from(came.trailers.map_or(0, |all| all.len())));
        let _ = stream.send_trailers(trailers);
    })
}

fn call(body: Vec<u8>) -> Request<Vec<u8>> {
    Request::post("http://reviews/Reviews/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-lighter-endpoint", "127.0.0.1:1")
        .body(body)
        .unwrap()
}

fn calls_with_their_trailers() {
    let app = echo();
    let world = World::before("grpc", app.address);
    http2::run(async {
        let client = http2::connect(world.listen).await;
        for turn in 0..20u8 {
            let answer = http2::exchange(&client, call(vec![turn; 40])).await.unwrap();
            let said = |name: &str| answer.head.headers[name].to_str().unwrap().to_owned();
            assert_eq!((answer.cut, answer.body), (None, vec![turn; 40]));
            assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
            assert_eq!((said("x-authority"), said("x-path")), ("reviews".into(), "/Reviews/Get".into()));
            assert_eq!((said("x-caller"), said("x-te")), (format!("URI={WEB}"), "trailers".into()));
            assert_eq!(said("x-marked"), "false");
        }
    });
    assert_eq!((world.streams(), world.links()), ((20.0, 20.0), (1.0, 1.0)));
    assert_eq!(app.connections(), 1);
    for (sidecar, direction) in [(&world.web, "outbound"), (&world.reviews, "inbound")] {
        let labels = [("direction", direction), ("grpc_status", "0")];
        wait_until("both ends know how the calls ended", || {
            sidecar.metrics().sum("lighter_grpc_responses_total", &labels) == 20.0
        });
    }
}

fn streams_both_ways() {
    // Answers each part when it comes, and ends when the caller does.
    let app = http2::Upstream::start(|request, mut respond| async move {
        let mut body = request.into_body();
        let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
        while let Some(Ok(part)) = body.data().await {
            let _ = body.flow_control().release_capacity(part.len());
            let _ = stream.send_data(part, false);
        }
        let said = body.trailers().await.ok().flatten().unwrap_or_default();
        let _ = stream.send_trailers(said);
    });
    let world = World::before("http2", app.address);
    http2::run(async {
        let mut client = http2::connect(world.listen).await.ready().await.unwrap();
        let request = Request::post("http://reviews/chat").body(()).unwrap();
        let (answer, mut up) = client.send_request(request, false).unwrap();
        // The answer comes before anything of the request's body does.
        let mut down = answer.await.unwrap().into_body();
        for turn in 0..50u8 {
            up.send_data(Bytes::from(vec![turn; 100]), false).unwrap();
            let mut heard = Vec::new();
            while heard.len() < 100 {
                let part = down.data().await.unwrap().unwrap();
                let _ = down.flow_control().release_capacity(part.len());
                heard.extend_from_slice(&part);
            }
            assert_eq!(heard, vec![turn; 100]);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-last", HeaderValue::from_static("words"));
        up.send_trailers(trailers).unwrap();
        assert!(down.data().await.is_none());
        assert_eq!(down.trailers().await.unwrap().unwrap()["x-last"], "words");
    });
    assert_eq!(world.streams(), (1.0, 1.0));
}

fn what_is_left_of_a_deadline() {
    let app = http2::Upstream::start(|request, mut respond| async move {
        if request.uri().path() == "/late" {
            std::future::pending::<()>().await;
        }
        let _ = respond.send_response(Response::new(()), true);
    });
    let world = World::before("grpc", app.address);
    http2::run(async {
        let client = http2::connect(world.listen).await;
        // The link is there before time counts.
        assert_eq!(http2::get(&client, "/").await.unwrap().head.status, 200);
        let request = Request::post("http://reviews/late").header("content-type", "application/grpc");
        let request = request.header("grpc-timeout", "1S").body(Vec::new()).unwrap();
        let answer = http2::exchange(&client, request).await.unwrap();
        // DEADLINE_EXCEEDED.
        assert_eq!(answer.head.headers["grpc-status"], "4");
    });
    // Both ends know when it was over, and the application is not left alone with it.
    wait_until("the called ends it too", || {
        let labels = [("direction", "inbound"), ("cause", "request_timeout")];
        let cancelled = [("direction", "inbound"), ("cause", "downstream_aborted")];
        let metrics = world.reviews.metrics();
        metrics.sum("lighter_requests_total", &labels) + metrics.sum("lighter_requests_total", &cancelled)
            == 1.0
    });
}

fn a_reset_stream() {
    let half_read = Arc::new(Notify::new());
    let told = half_read.clone();
    let app = http2::Upstream::start(move |request, mut respond| {
        let told = told.clone();
        async move {
            if request.uri().path() == "/within" {
                let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
                let _ = stream.send_data(Bytes::from_static(b"half"), false);
                told.notified().await;
                stream.send_reset(Reason::CANCEL);
            } else {
                respond.send_reset(Reason::INTERNAL_ERROR);
            }
        }
    });
    let world = World::before("http2", app.address);
    http2::run(async {
        let client = http2::connect(world.listen).await;
        let request = Request::get("http://reviews/within").body(()).unwrap();
        let answer = client.clone().ready().await.unwrap().send_request(request, true).unwrap().0;
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "half");
        half_read.notify_one();
        assert_eq!(body.data().await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
        let answer = http2::get(&client, "/at-once").await.unwrap();
        assert_eq!((answer.head.status.as_u16(), answer.cut), (502, None));
        assert_eq!(answer.head.headers["x-lighter-error"], "upstream_reset");
    });
    assert_eq!(world.streams(), (2.0, 2.0));
    assert_eq!(world.links(), (1.0, 1.0));
}

fn a_caller_gives_up_a_stream() {
    let (tell, told) = mpsc::channel();
    let app = http2::Upstream::start(move |request, respond| {
        let tell = tell.clone();
        async move {
            let mut respond = respond;
            let _body = request.into_body();
            let _ = tell.send(None);
            let gone = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            let _ = tell.send(Some(gone.ok()));
        }
    });
    let world = World::before("http2", app.address);
    http2::run(async {
        let mut client = http2::connect(world.listen).await.ready().await.unwrap();
        let request = Request::post("http://reviews/").body(()).unwrap();
        let (answer, mut up) = client.send_request(request, false).unwrap();
        up.send_data(Bytes::from_static(b"some"), false).unwrap();
        while told.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        up.send_reset(Reason::CANCEL);
        drop(answer);
        let patience = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            match told.try_recv() {
                Ok(Some(reason)) => return assert_eq!(reason, Some(Reason::CANCEL)),
                _ => assert!(tokio::time::Instant::now() < patience, "the application hears of it"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    wait_until("the stream was cut off", || world.cuts("cancelled") == 1.0);
    assert_eq!(world.links(), (1.0, 1.0));
}

fn large_bodies() {
    let app = http2::Upstream::echo();
    let world = World::before("http2", app.address);
    http2::run(async {
        let client = http2::connect(world.listen).await;
        for turn in 1..4u8 {
            let body: Vec<u8> = (0..3_000_017).map(|at| (at * 7 + at / 251) as u8 ^ turn).collect();
            let request = Request::post("http://reviews/").body(body.clone()).unwrap();
            let answer = http2::exchange(&client, request).await.unwrap();
            assert!(answer.cut.is_none() && answer.body == body);
            assert_eq!(answer.trailers.unwrap()["x-end"], "whole");
        }
    });
    assert_eq!((world.streams(), world.links()), ((3.0, 3.0), (1.0, 1.0)));
}

fn http1_callers() {
    let app = http2::Upstream::echo();
    let world = World::before("http2", app.address);
    let mut peer = Peer::connect(world.listen);
    for _ in 0..3 {
        let (head, body) =
            peer.exchange("POST /old HTTP/1.1\r\nHost: reviews\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!((head.get("x-path"), body), (Some("/old"), Body::Whole(b"hello".into())));
    }
    assert_eq!((world.streams(), world.links()), ((3.0, 3.0), (1.0, 1.0)));
    assert_eq!(app.connections(), 1);
}

fn many_streams() {
    let app = echo();
    let world = World::before("grpc", app.address);
    http2::run(async {
        let client = http2::connect(world.listen).await;
        let calls = (0..300u32).map(|turn| {
            let client = client.clone();
            tokio::task::spawn_local(async move {
                let body = turn.to_be_bytes().repeat(500);
                let answer = http2::exchange(&client, call(body.clone())).await.unwrap();
                assert!(answer.cut.is_none() && answer.body == body);
                assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
    });
    assert_eq!((world.streams(), world.links()), ((300.0, 300.0), (1.0, 1.0)));
}

fn a_stalled_reader() {
    const BYTES: usize = 2 << 20;
    let app = http2::Upstream::start(|request, mut respond| async move {
        let size = if request.uri().path() == "/small" { 2 } else { BYTES };
        let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
        let mut left = size;
        while left > 0 {
            stream.reserve_capacity(left.min(16 * 1024));
            let Some(Ok(granted)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
            left -= granted.min(left);
            let _ = stream.send_data(Bytes::from(vec![b'x'; granted]), left == 0);
        }
    });
    let world = World::before("http2", app.address);
    // The client's own window for all streams together must not be what stalls the others.
    let mut wide = h2::client::Builder::new();
    wide.initial_connection_window_size(16 << 20);
    http2::run(async {
        let client = http2::connect_with(world.listen, &wide).await;
        let mut stalled = Vec::new();
        for _ in 0..8 {
            let mut client = client.clone().ready().await.unwrap();
            let request = Request::get("http://reviews/large").body(()).unwrap();
            // Its head is read, and nothing else for now.
            stalled.push(client.send_request(request, true).unwrap().0.await.unwrap());
        }
        for _ in 0..10 {
            let answer = http2::get(&client, "/small").await.unwrap();
            assert_eq!((answer.body.len(), answer.cut), (2, None));
        }
        for answer in stalled {
            let (head, body) = answer.into_parts();
            let answer = http2::read(head, body).await;
            assert_eq!((answer.body.len(), answer.cut), (BYTES, None));
        }
    });
    assert_eq!(world.streams(), (18.0, 18.0));
}
