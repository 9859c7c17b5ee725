//! What one peer can make this process hold, and who has to wait.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use lighter_config::snapshot::TrafficPolicy;

use super::world::*;

#[test]
fn a_thousand_calls_share_five_streams_a_connection() {
    run(async {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(5);
        let (now, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (running, peak) = (now.clone(), most.clone());
        let endpoint = endpoint(builder, move |got| {
            let (running, peak) = (running.clone(), peak.clone());
            async move {
                running.set(running.get() + 1);
                peak.set(peak.get().max(running.get()));
                tokio::time::sleep(Duration::from_millis(2)).await;
                echo(got).await;
                running.set(running.get() - 1);
            }
        })
        .await;
        let caller = World::new(&[endpoint.address]).caller().await;
        let calls = (0..1000).map(|_| {
            let caller = caller.clone();
            tokio::task::spawn_local(async move { call(&caller, grpc(), b"hello", None).await })
        });
        for answer in calls.collect::<Vec<_>>() {
            let answer = answer.await.unwrap().unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]), "{:?}", answer.headers);
        }
        assert!(endpoint.connections.get() > 1 && endpoint.connections.get() <= 64);
        assert!(most.get() <= 5 * endpoint.connections.get());
    });
}

#[test]
fn a_peer_that_counts_a_stream_too_long_makes_calls_wait_and_not_fail() {
    run(async {
        let refused = Rc::new(Cell::new(0));
        let refusals = refused.clone();
        // On each connection, counts a stream for a moment after its end, and refuses the one that comes meanwhile.
        let address = raw(move |tcp| {
            let refusals = refusals.clone();
            async move {
                let mut builder = h2::server::Builder::new();
                let mut connection = builder.max_concurrent_streams(4).handshake(tcp).await.unwrap();
                let counted = Rc::new(Cell::new(0));
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if counted.get() == 4 {
                        refusals.set(refusals.get() + 1);
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                        continue;
                    }
                    counted.set(counted.get() + 1);
                    let counted = counted.clone();
                    tokio::task::spawn_local(async move {
                        echo((request, respond)).await;
                        tokio::time::sleep(Duration::from_millis(3)).await;
                        counted.set(counted.get() - 1);
                    });
                }
            }
        })
        .await;
        let caller = World::new(&[address]).caller().await;
        let calls = (0..400).map(|_| {
            let caller = caller.clone();
            tokio::task::spawn_local(async move { call(&caller, grpc(), b"hello", None).await })
        });
        for answer in calls.collect::<Vec<_>>() {
            let answer = answer.await.unwrap().unwrap();
            assert_eq!(answer.body, b"hello", "{:?}", answer.headers);
        }
        assert!(refused.get() > 0, "the test must refuse something");
    });
}

#[test]
fn many_requests_at_once_make_one_dial() {
    run(async {
        let endpoint = endpoint(Default::default(), echo).await;
        let caller = World::new(&[endpoint.address]).caller().await;
        let calls = (0..50).map(|_| {
            let caller = caller.clone();
            tokio::task::spawn_local(async move { call(&caller, grpc(), b"x", None).await })
        });
        for answer in calls.collect::<Vec<_>>() {
            assert_eq!(answer.await.unwrap().unwrap().body, b"x");
        }
        assert_eq!(endpoint.connections.get(), 1);
    });
}

#[test]
fn a_caller_that_reads_nothing_makes_nothing_grow() {
    const STREAMS: usize = 100;
    const BODY: usize = 50 << 20;
    run(async {
        let sent = Rc::new(Cell::new(0usize));
        let count = sent.clone();
        static CHUNK: [u8; 16 * 1024] = [3; 16 * 1024];
        let endpoint = endpoint(Default::default(), move |(_, mut respond)| {
            let count = count.clone();
            async move {
                let mut to = respond.send_response(Response::new(()), false).unwrap();
                for _ in 0..BODY / CHUNK.len() {
                    if send_all(&mut to, Bytes::from_static(&CHUNK)).await.is_err() {
                        return;
                    }
                    count.set(count.get() + CHUNK.len());
                }
            }
        })
        .await;
        let world = World::new(&[endpoint.address]);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(0).initial_max_send_streams(STREAMS);
        let before = resident();
        let caller = world.caller_with(&builder).await;
        let mut answers = Vec::new();
        for _ in 0..STREAMS {
            let (response, _) = caller.clone().ready().await.unwrap().send_request(get("/"), true).unwrap();
            answers.push(response.await.unwrap());
        }
        // Until nothing moves any more.
        let mut last = usize::MAX;
        while last != sent.get() {
            last = sent.get();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < 64 << 20, "{grown} bytes");
        assert!(sent.get() < 64 << 20, "{} bytes were taken from the endpoint", sent.get());
        // The connection to the endpoint is not stopped by those streams.
        let (response, _) = caller.clone().ready().await.unwrap().send_request(get("/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn a_stalled_stream_of_tiny_frames_leaves_its_connection_alive() {
    run(async {
        let endpoint = endpoint(Default::default(), |(request, mut respond)| async move {
            if request.uri().path() == "/other" {
                respond.send_response(Response::new(()), true).unwrap();
                return;
            }
            let mut to = respond.send_response(Response::new(()), false).unwrap();
            for _ in 0..20_000 {
                if send_all(&mut to, Bytes::from_static(b"x")).await.is_err() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        })
        .await;
        let world = World::new(&[endpoint.address]);
        let stalled = world.caller_with(h2::client::Builder::new().initial_window_size(0)).await;
        let (response, _) = stalled.clone().ready().await.unwrap().send_request(get("/"), true).unwrap();
        let _stalled_answer = response.await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let other = world.caller().await;
        assert_eq!(call(&other, get("/other"), b"", None).await.unwrap().status, 200);
        assert_eq!(endpoint.connections.get(), 1);
    });
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_caller_that_asks_for_nothing_is_told_to_go() {
    run_paused(async {
        let policy =
            TrafficPolicy { idle_timeout: Some(Duration::from_secs(300)), ..TrafficPolicy::default() };
        let world = World::with(&[], policy);
        let (send, connection) = h2::client::handshake(world.socket().await).await.unwrap();
        let (tell, ended) = tokio::sync::oneshot::channel();
        tokio::task::spawn_local(async move { tell.send(connection.await) });
        assert_eq!(call(&send, get("/"), b"", None).await.unwrap().status, 503);
        ended.await.unwrap().unwrap();
    });
}

#[test]
fn an_endpoint_without_connections_is_forgotten() {
    run(async {
        let world = World::new(&[raw(|tcp| async move { drop(tcp) }).await]);
        let answer = call(&world.caller().await, get("/"), b"", None).await.unwrap();
        assert!(answer.headers.contains_key("x-lighter-error"));
        while world.worker.http2.len() > 0 {
            tokio::task::yield_now().await;
        }
    });
}
