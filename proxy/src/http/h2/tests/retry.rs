//! What an endpoint has not read is tried once more, and nothing else is.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use h2::Reason;
use http::Response;

use super::world::*;

#[test]
fn a_refused_stream_goes_to_another_endpoint_with_its_body() {
    run(async {
        let refuses = endpoint(Default::default(), |(_, mut respond)| async move {
            respond.send_reset(Reason::REFUSED_STREAM);
        })
        .await;
        let serves = endpoint(Default::default(), echo).await;
        let caller = World::new(&[refuses.address, serves.address]).caller().await;
        for _ in 0..20 {
            let answer = call(&caller, grpc(), b"a body that is sent again", None).await.unwrap();
            assert_eq!(answer.body, b"a body that is sent again");
        }
        assert!(refuses.connections.get() > 0);
    });
}

#[test]
fn a_stream_is_refused_twice_at_most() {
    run(async {
        let tries = Rc::new(Cell::new(0));
        let count = tries.clone();
        let refuses = endpoint(Default::default(), move |(_, mut respond)| {
            count.set(count.get() + 1);
            async move { respond.send_reset(Reason::REFUSED_STREAM) }
        })
        .await;
        let caller = World::new(&[refuses.address]).caller().await;
        let answer = call(&caller, get("/"), b"", None).await.unwrap();
        assert_eq!(answer.status, 502);
        assert_eq!(answer.headers["x-lighter-error"], "upstream_reset");
        assert_eq!(tries.get(), 2);
    });
}

#[test]
fn a_stream_that_may_have_run_is_not_tried_again() {
    run(async {
        let tries = Rc::new(Cell::new(0));
        let count = tries.clone();
        let breaks = endpoint(Default::default(), move |(_, mut respond)| {
            count.set(count.get() + 1);
            async move { respond.send_reset(Reason::INTERNAL_ERROR) }
        })
        .await;
        let caller = World::new(&[breaks.address]).caller().await;
        let answer = call(&caller, get("/"), b"", None).await.unwrap();
        assert_eq!(answer.headers["x-lighter-error"], "upstream_reset");
        assert_eq!(tries.get(), 1);
    });
}

#[test]
fn what_is_above_the_last_id_of_goaway_is_sent_on_a_new_connection() {
    run(async {
        let connections = Rc::new(Cell::new(0));
        let count = connections.clone();
        // The first connection takes one request and announces at once that it looks at no other.
        let address = raw(move |tcp| {
            let first = count.get() == 0;
            count.set(count.get() + 1);
            async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if first {
                        connection.abrupt_shutdown(Reason::NO_ERROR);
                    }
                    let _ = respond.send_response(Response::new(()), true);
                }
            }
        })
        .await;
        let caller = World::new(&[address]).caller().await;
        let calls = (0..10).map(|_| {
            let caller = caller.clone();
            tokio::task::spawn_local(async move { call(&caller, get("/"), b"", None).await })
        });
        let mut served = 0;
        for answer in calls.collect::<Vec<_>>() {
            served += usize::from(answer.await.unwrap().unwrap().status == 200);
        }
        // All but the one that ran on the connection that was cut.
        assert!(served >= 9, "{served}");
        assert!(connections.get() >= 2);
    });
}

#[test]
fn an_endpoint_that_refuses_connections_is_passed_over() {
    run(async {
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let serves = endpoint(Default::default(), echo).await;
        let caller = World::new(&[dead, serves.address]).caller().await;
        for _ in 0..20 {
            assert_eq!(call(&caller, grpc(), b"x", None).await.unwrap().body, b"x");
        }
    });
}

#[test]
fn only_what_an_endpoint_did_counts_against_it() {
    use crate::balance::Outcome;
    use crate::error::{Cause, ProxyError};
    use crate::http::h2::exchange::outcome;
    let told = |cause, status| outcome(&ProxyError::new(cause, ""), status);
    for cause in [
        Cause::DownstreamAborted,
        Cause::AmbiguousMessage,
        Cause::BadRequest,
        Cause::Draining,
        Cause::Overloaded,
        Cause::Internal,
    ] {
        assert_eq!((told(cause, 0), told(cause, 200)), (Outcome::Abandoned, Outcome::Abandoned), "{cause}");
    }
    for cause in [Cause::UpstreamReset, Cause::UpstreamTruncated, Cause::UpstreamMalformed] {
        assert_eq!((told(cause, 0), told(cause, 200)), (Outcome::Failed, Outcome::Failed), "{cause}");
    }
    assert_eq!(told(Cause::RequestTimeout, 0), Outcome::Failed);
    assert_eq!(told(Cause::RequestTimeout, 200), Outcome::Answered);
    let refused = ProxyError::new(Cause::UpstreamReset, "").safe();
    assert_eq!(outcome(&refused, 0), Outcome::Abandoned);
}

#[test]
fn nobody_waits_for_a_connection_that_has_said_goodbye() {
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, held) = tokio::sync::oneshot::channel();
        tokio::task::spawn_local(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            // Its one stream stays open, and no other connection will be taken.
            drop(listener);
            let mut connection = h2::server::Builder::new()
                .max_concurrent_streams(1)
                .handshake::<_, Bytes>(tcp)
                .await
                .unwrap();
            let _held = connection.accept().await.unwrap().unwrap();
            connection.graceful_shutdown();
            tell.send(()).unwrap();
            let _ = connection.accept().await;
        });
        let world = World::new(&[address]);
        let caller = world.caller().await;
        let (_first, _) = caller.clone().ready().await.unwrap().send_request(get("/"), true).unwrap();
        held.await.unwrap();
        let answer = call(&caller, get("/"), b"", None).await.unwrap();
        assert_eq!(answer.headers["x-lighter-error"], "connect_refused");
    });
}
