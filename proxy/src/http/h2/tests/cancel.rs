//! Who goes away is told to the other side.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderValue, Response};
use lighter_config::snapshot::TrafficPolicy;
use tokio::sync::Notify;

use super::world::*;

#[test]
fn a_caller_that_cancels_cancels_the_endpoints_stream() {
    run(async {
        let (reason, told) = (Rc::new(Cell::new(None)), Rc::new(Notify::new()));
        let (seen, tell) = (reason.clone(), told.clone());
        let endpoint = endpoint(Default::default(), move |(_, mut respond)| {
            let (seen, tell) = (seen.clone(), tell.clone());
            async move {
                let mut to = respond.send_response(Response::new(()), false).unwrap();
                seen.set(poll_fn(|cx| to.poll_reset(cx)).await.ok());
                tell.notify_one();
            }
        })
        .await;
        let caller = World::new(&[endpoint.address]).caller().await;
        let (response, mut to) = caller.ready().await.unwrap().send_request(grpc(), false).unwrap();
        let response = response.await.unwrap();
        to.send_reset(Reason::CANCEL);
        told.notified().await;
        assert_eq!(reason.get(), Some(Reason::CANCEL));
        drop(response);
    });
}

#[test]
fn a_burst_of_cancellations_does_not_cost_the_connection() {
    run(async {
        let open = Rc::new(Cell::new(0i32));
        let count = open.clone();
        // Never answers; counts the streams that it holds.
        let endpoint = endpoint(Default::default(), move |(_, mut respond)| {
            let count = count.clone();
            async move {
                count.set(count.get() + 1);
                let _ = poll_fn(|cx| respond.poll_reset(cx)).await;
                count.set(count.get() - 1);
            }
        })
        .await;
        let world = World::new(&[endpoint.address]);
        let caller = world.caller().await;
        let mut waiting = Vec::new();
        for _ in 0..120 {
            let sent = caller.clone().ready().await.unwrap().send_request(grpc(), false).unwrap();
            waiting.push(sent);
        }
        while open.get() < 120 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for (_, to) in &mut waiting {
            to.send_reset(Reason::CANCEL);
        }
        while open.get() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(endpoint.connections.get(), 1);
    });
}

#[test]
fn a_deadline_ends_the_call_and_reaches_the_endpoint() {
    run(async {
        let cancelled = Rc::new(Notify::new());
        let tell = cancelled.clone();
        let endpoint = endpoint(Default::default(), move |(request, mut respond)| {
            let tell = tell.clone();
            async move {
                assert!(request.headers().contains_key("grpc-timeout"));
                assert_eq!(poll_fn(|cx| respond.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
                tell.notify_one();
            }
        })
        .await;
        let caller = World::new(&[endpoint.address]).caller().await;
        let mut request = grpc();
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("50m"));
        let answer = call(&caller, request, b"x", None).await.unwrap();
        assert_eq!(answer.headers["grpc-status"], "4");
        assert_eq!(answer.headers["x-lighter-error"], "request_timeout");
        cancelled.notified().await;
    });
}

#[test]
fn silence_ends_a_call_and_movement_does_not() {
    run(async {
        let endpoint = endpoint(Default::default(), |(_, mut respond)| async move {
            let mut to = respond.send_response(Response::new(()), false).unwrap();
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(40)).await;
                to.send_data(Bytes::from_static(b"tick"), false).unwrap();
            }
            let _ = poll_fn(|cx| to.poll_reset(cx)).await;
        })
        .await;
        let policy =
            TrafficPolicy { idle_timeout: Some(Duration::from_millis(150)), ..TrafficPolicy::default() };
        let caller = World::with(&[endpoint.address], policy).caller().await;
        let (response, _) = caller.ready().await.unwrap().send_request(get("/"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut ticks = 0;
        let error = loop {
            match body.data().await.unwrap() {
                Ok(bytes) => ticks += bytes.len() / 4,
                Err(error) => break error,
            }
        };
        assert_eq!(ticks, 8);
        assert_eq!(error.reason(), Some(Reason::CANCEL));
    });
}
