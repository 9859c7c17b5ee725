//! What passes: bodies, trailers, interim answers, fields, cuts.

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::world::*;

#[test]
fn bodies_and_trailers_pass_both_ways() {
    run(async {
        let endpoint = endpoint(Default::default(), echo).await;
        let caller = World::new(&[endpoint.address]).caller().await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("42"));
        static BODY: [u8; 300_000] = [7; 300_000];
        let answer = call(&caller, grpc(), &BODY, Some(trailers)).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, BODY);
        assert_eq!(answer.trailers.unwrap()["x-sum"], "42");
    });
}

#[test]
fn a_message_passes_before_the_next_one_is_sent() {
    run(async {
        let endpoint = endpoint(Default::default(), echo).await;
        let caller = World::new(&[endpoint.address]).caller().await;
        let (response, mut to) = caller.ready().await.unwrap().send_request(grpc(), false).unwrap();
        let mut from = response.await.unwrap().into_body();
        for message in [&b"one"[..], b"two", b"three"] {
            to.send_data(Bytes::from_static(message), false).unwrap();
            assert_eq!(from.data().await.unwrap().unwrap(), message);
        }
        to.send_data(Bytes::new(), true).unwrap();
        assert!(from.data().await.is_none_or(|end| end.unwrap().is_empty()));
    });
}

#[test]
fn interim_answers_come_before_the_answer() {
    run(async {
        let endpoint = endpoint(Default::default(), |(_, mut respond)| async move {
            let mut hints = Response::new(());
            *hints.status_mut() = StatusCode::EARLY_HINTS;
            hints.headers_mut().insert("link", HeaderValue::from_static("</a>"));
            respond.send_informational(hints).unwrap();
            tokio::task::yield_now().await;
            respond.send_response(Response::new(()), true).unwrap();
        })
        .await;
        let caller = World::new(&[endpoint.address]).caller().await;
        let (mut response, _) = caller.ready().await.unwrap().send_request(get("/"), true).unwrap();
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(interim.status(), 103);
        assert_eq!(interim.headers()["link"], "</a>");
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn the_endpoint_sees_an_identifier_and_no_field_in_the_name_of_the_mesh() {
    run(async {
        let endpoint = endpoint(Default::default(), |(request, mut respond)| async move {
            let mut response = Response::new(());
            assert!(!request.headers().contains_key("x-lighter-hint-idempotent"));
            assert_eq!(request.uri().authority().unwrap(), "echo");
            let id = request.headers()["x-request-id"].clone();
            response.headers_mut().insert("x-request-id", id);
            response
                .headers_mut()
                .insert("x-lighter-error", HeaderValue::from_static("of the other sidecar"));
            respond.send_response(response, true).unwrap();
        })
        .await;
        let caller = World::new(&[endpoint.address]).caller().await;
        let mut request = get("/");
        request.headers_mut().insert("x-lighter-hint-idempotent", HeaderValue::from_static("1"));
        let answer = call(&caller, request, b"", None).await.unwrap();
        assert_eq!(answer.headers["x-request-id"].len(), 36);
        assert_eq!(answer.headers["x-lighter-error"], "of the other sidecar");
    });
}

#[test]
fn a_cut_answer_is_never_a_whole_one() {
    run(async {
        for reason in [Reason::NO_ERROR, Reason::INTERNAL_ERROR, Reason::CANCEL] {
            let endpoint = endpoint(Default::default(), move |(_, mut respond)| async move {
                let mut to = respond.send_response(Response::new(()), false).unwrap();
                send_all(&mut to, Bytes::from_static(b"half")).await.unwrap();
                tokio::task::yield_now().await;
                to.send_reset(reason);
            })
            .await;
            let caller = World::new(&[endpoint.address]).caller().await;
            let error = call(&caller, get("/"), b"", None).await.unwrap_err();
            assert!(error.is_reset(), "{error}");
            assert_ne!(error.reason(), Some(Reason::NO_ERROR));
        }
    });
}

#[test]
fn an_answer_shorter_than_its_length_is_reset() {
    run(async {
        let endpoint = endpoint(Default::default(), |(_, mut respond)| async move {
            let response = Response::builder().header("content-length", "100").body(()).unwrap();
            let mut to = respond.send_response(response, false).unwrap();
            to.send_data(Bytes::from_static(b"short"), true).unwrap();
        })
        .await;
        let caller = World::new(&[endpoint.address]).caller().await;
        let (response, _) = caller.ready().await.unwrap().send_request(get("/"), true).unwrap();
        // The end may overtake the head: then the answer is one that names its cause.
        match response.await {
            Ok(response) if response.status() == 200 => assert!(read(response).await.is_err()),
            Ok(response) => assert_eq!(response.headers()["x-lighter-error"], "upstream_malformed"),
            Err(error) => assert!(error.is_reset()),
        }
    });
}

#[test]
fn a_lost_connection_is_seen_as_a_cut() {
    run(async {
        let address = raw(|tcp| async move {
            let mut connection = h2::server::handshake(tcp).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut to = respond.send_response(Response::new(()), false).unwrap();
            to.send_data(Bytes::from_static(b"half"), false).unwrap();
            let _ = tokio::time::timeout(std::time::Duration::from_millis(50), connection.accept()).await;
        })
        .await;
        let caller = World::new(&[address]).caller().await;
        let error = call(&caller, get("/"), b"", None).await.unwrap_err();
        assert!(error.is_reset(), "{error}");
    });
}

#[test]
fn an_early_answer_ends_the_request() {
    run(async {
        let endpoint = endpoint(Default::default(), |(_, mut respond)| async move {
            let response = Response::builder().status(413).body(()).unwrap();
            respond.send_response(response, true).unwrap();
        })
        .await;
        let caller = World::new(&[endpoint.address]).caller().await;
        static BODY: [u8; 1_000_000] = [1; 1_000_000];
        let answer = call(&caller, grpc(), &BODY, None).await.unwrap();
        assert_eq!(answer.status, 413);
        let again = call(&caller, get("/"), b"", None).await.unwrap();
        assert_eq!(again.status, 413);
    });
}

#[test]
fn an_error_of_the_mesh_names_its_cause_in_the_callers_language() {
    run(async {
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let caller = World::new(&[dead]).caller().await;
        let answer = call(&caller, get("/"), b"", None).await.unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.headers["x-lighter-error"], "connect_refused");
        let answer = call(&caller, grpc(), b"body", None).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["x-lighter-error"], "connect_refused");
        assert_eq!(answer.headers["grpc-status"], "14");
        assert!(answer.body.is_empty());
    });
}

#[test]
fn a_drain_lets_running_streams_end_and_closes_the_connection() {
    run(async {
        let endpoint = endpoint(Default::default(), echo).await;
        let world = World::new(&[endpoint.address]);
        let (mut send, connection) = h2::client::handshake(world.socket().await).await.unwrap();
        let connection = tokio::task::spawn_local(connection);
        let (response, mut to) = send.send_request(grpc(), false).unwrap();
        let mut from = response.await.unwrap().into_body();
        world.worker.connections.advance(crate::drain::Phase::Lame);
        tokio::task::yield_now().await;
        to.send_data(Bytes::from_static(b"still"), true).unwrap();
        assert_eq!(from.data().await.unwrap().unwrap(), "still");
        assert!(from.data().await.is_none_or(|end| end.unwrap().is_empty()));
        drop((from, to));
        connection.await.unwrap().unwrap();
        // The other side listens until it hears that this one is gone.
        while world.worker.connections.open() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn interim_answers_without_end_are_cut_off() {
    run(async {
        let endpoint = endpoint(Default::default(), |got| interims(got, 1000)).await;
        let caller = World::new(&[endpoint.address]).caller().await;
        let answer = call(&caller, get("/"), b"", None).await.unwrap();
        assert_eq!(answer.headers["x-lighter-error"], "upstream_malformed");
    });
}

#[test]
fn trailers_say_nothing_in_the_name_of_the_mesh() {
    run(async {
        let endpoint = endpoint(Default::default(), |(request, mut respond)| async move {
            let got = request.into_body().trailers().await.unwrap().unwrap();
            assert_eq!(got.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-sum"]);
            let mut to = respond.send_response(Response::new(()), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-lighter-error", HeaderValue::from_static("forged"));
            trailers.insert("content-length", HeaderValue::from_static("5"));
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            to.send_trailers(trailers).unwrap();
        })
        .await;
        let caller = World::new(&[endpoint.address]).caller().await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-lighter-hint", HeaderValue::from_static("forged"));
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        let answer = call(&caller, grpc(), b"", Some(trailers)).await.unwrap();
        let names: Vec<_> = answer.trailers.as_ref().unwrap().keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["grpc-status"]);
    });
}
