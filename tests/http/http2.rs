//! HTTP/2 on either side, and the bridge between the versions.

use std::process::Command;

use bytes::Bytes;
use libtest_mimic::Trial;

use crate::support::process::find;
use crate::support::raw::{Body, Peer, Upstream};
use crate::support::sidecar::{Sidecar, service};
use crate::support::{http2, test, test_where, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("http2::trailers_and_bodies_pass", trailers_and_bodies_pass),
        test("http2::many_streams_share_a_connection", many_streams),
        test("http2::few_concurrent_streams_fail_no_call", few_concurrent_streams),
        test("http2::a_caller_of_http_1_reaches_a_service_of_http_2", http_1_to_http_2),
        test_where("http2::what_curl_sends_in_chunks_reaches_a_service_of_http_2", curl_to_http_2),
        test("http2::a_caller_of_http_2_reaches_a_service_of_http_1", http_2_to_http_1),
        test("http2::auto_speaks_what_the_caller_speaks", auto),
        test("http2::grpc_errors_are_grpc", grpc_errors),
        test("http2::a_service_that_says_goodbye_costs_no_call", goodbye),
        test("http2::who_breaks_the_rules_is_told_and_counted", rule_breakers),
        test("http2::a_burst_of_cancelled_calls_harms_no_other", cancelled_calls),
    ]
}

fn trailers_and_bodies_pass() {
    let upstream = http2::Upstream::echo();
    let (_sidecar, at) = Sidecar::before(upstream.address, "http2");
    http2::run(async {
        let client = http2::connect(at).await;
        for length in [1usize, 100, 16_384, 65_536, 1_000_000] {
            let body: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let request = http::Request::post("http://up/some/path?q=1").body(body.clone()).unwrap();
            let answer = http2::exchange(&client, request).await.unwrap();
            assert_eq!(answer.head.status, 200);
            assert_eq!(answer.head.headers["x-path"], "/some/path");
            assert!(answer.body == body, "{length} bytes came back as they went");
            assert_eq!(answer.trailers.expect("trailers")["x-end"], "whole");
        }
    });
}

fn many_streams() {
    let upstream = http2::Upstream::echo();
    let (_sidecar, at) = Sidecar::before(upstream.address, "http2");
    all_succeed(at, 500);
    assert!(upstream.connections() <= 8, "{} connections for 500 streams", upstream.connections());
}

fn few_concurrent_streams() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(5);
    let upstream = http2::Upstream::start_with(builder, |request, mut respond| async move {
        let body = http2::read(http::Response::new(()).into_parts().0, request.into_body()).await.body;
        // Long enough that calls do meet.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        if let Ok(mut stream) = respond.send_response(http::Response::new(()), false) {
            let _ = stream.send_data(body.into(), true);
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http2");
    all_succeed(at, 1000);
}

/// Sends that many calls at once, each with its own body.
fn all_succeed(at: std::net::SocketAddr, calls: usize) {
    http2::run(async {
        let mut builder = h2::client::Builder::new();
        // The library ends a connection on which many small frames wait to be read, and counts by this window.
        builder.initial_max_send_streams(1000).initial_connection_window_size(8 << 20);
        let client = http2::connect_with(at, &builder).await;
        let calls: Vec<_> = (0..calls)
            .map(|number| {
                let client = client.clone();
                tokio::task::spawn_local(async move {
                    let body = format!("call {number}").into_bytes();
                    let request = http::Request::post("http://up/").body(body.clone()).unwrap();
                    let answer = http2::exchange(&client, request).await.unwrap();
                    assert_eq!(answer.head.status, 200, "call {number}: {answer:?}");
                    assert_eq!(answer.body, body, "call {number}: {answer:?}");
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
    });
}

fn http_1_to_http_2() {
    let upstream = http2::Upstream::echo();
    let (_sidecar, at) = Sidecar::before(upstream.address, "http2");
    let mut client = Peer::connect(at);
    for body in ["", "some body"] {
        let request = format!("POST /p HTTP/1.1\r\nHost: up\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let (head, got) = client.exchange(request);
        assert_eq!((head.status(), head.get("x-path")), (200, Some("/p")), "{head:?}");
        assert_eq!(got, Body::Whole(body.into()));
    }
    let chunked =
        "POST /p HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(client.exchange(chunked).1, Body::Whole(b"abcde".to_vec()));
}

fn curl_to_http_2() -> Result<(), String> {
    let curl = find("curl")?;
    let upstream = http2::Upstream::echo();
    let (_sidecar, at) = Sidecar::before(upstream.address, "http2");
    let folder = tempfile::tempdir().unwrap();
    let [body, head, answer] = ["body", "head", "answer"].map(|name| folder.path().join(name));
    let content: Vec<u8> = (0..1_000_000u32).map(|at| (at / 7) as u8).collect();
    std::fs::write(&body, &content).unwrap();
    let mut command = Command::new(curl);
    command.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--noproxy", "*", "--http1.1"]);
    command.args(["--header", "Expect:", "--header", "Transfer-Encoding: chunked", "--upload-file"]);
    command.arg(&body).arg("--dump-header").arg(&head).arg("--output").arg(&answer);
    let output = command.arg(format!("http://{at}/p")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(std::fs::read(&answer).unwrap() == content, "it came back as it went");
    // With the trailers, which come last.
    let head = std::fs::read_to_string(&head).unwrap();
    assert!(
        head.contains("\r\ntransfer-encoding: chunked\r\n") && head.contains("\r\nx-path: /p\r\n"),
        "{head}"
    );
    assert!(head.contains("\r\nx-end: whole\r\n"), "{head}");
    assert_eq!(upstream.connections(), 1);
    Ok(())
}

fn http_2_to_http_1() {
    let upstream = Upstream::start(|mut peer, _| {
        while let Some(head) = peer.head() {
            assert_eq!(head.get("host"), Some("up"), "the authority becomes the Host: {head:?}");
            let (Body::Whole(body) | Body::Cut(body)) = peer.body(&head);
            peer.send(format!("HTTP/1.1 201 Created\r\nX-Target: {}\r\n", head.target()));
            peer.send(format!("Connection: keep-alive\r\nContent-Length: {}\r\n\r\n", body.len())).send(body);
        }
    });
    let (_sidecar, at) = Sidecar::before(upstream.address, "http");
    http2::run(async {
        let client = http2::connect(at).await;
        for body in [&b""[..], b"some body"] {
            let request = http::Request::put("http://up/a?b=c").body(body.to_vec()).unwrap();
            let answer = http2::exchange(&client, request).await.unwrap();
            assert_eq!(answer.head.status, 201);
            assert_eq!(answer.head.headers["x-target"], "/a?b=c");
            assert!(!answer.head.headers.contains_key("connection"), "{:?}", answer.head.headers);
            assert_eq!(answer.body, body);
        }
    });
}

fn auto() {
    let upstream = http2::Upstream::echo();
    let plain = Upstream::answering("plain");
    let (_one, h2) = Sidecar::before(upstream.address, "auto");
    let (_two, h1) = Sidecar::before(plain.address, "auto");
    http2::run(async {
        let client = http2::connect(h2).await;
        assert_eq!(http2::get(&client, "/x").await.unwrap().head.headers["x-path"], "/x");
    });
    let (_, body) = Peer::connect(h1).exchange("GET / HTTP/1.1\r\nHost: up\r\n\r\n");
    assert_eq!(body, Body::Whole(b"plain".to_vec()));
}

fn grpc_errors() {
    let gone = crate::support::process::free_address();
    let (_sidecar, at) = Sidecar::before(gone, "grpc");
    http2::run(async {
        let client = http2::connect(at).await;
        let request = http::Request::post("http://up/a.B/C")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(vec![0; 5])
            .unwrap();
        let answer = http2::exchange(&client, request).await.unwrap();
        assert_eq!(answer.head.status, 200);
        assert_eq!(answer.head.headers["grpc-status"], "14", "{answer:?}");
        assert_eq!(answer.head.headers["x-lighter-error"], "connect_refused");
    });
}

/// Says goodbye after every tenth request, as a service does when it is deployed anew.
fn rule_breakers() {
    let upstream = http2::Upstream::echo();
    let (sidecar, at) = Sidecar::before(upstream.address, "http2");
    let frame = |kind: u8, stream: u32, payload: &[u8]| {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, &[])].concat();
    // What each does wrong, and the code that it is told for it.
    for (wrong, code, label) in [
        (frame(0, 0, b"data of no stream"), 1, "protocol_error"),
        (frame(6, 0, b"short"), 6, "frame_size_error"),
        (frame(4, 0, &[]).repeat(5_000), 11, "enhance_your_calm"),
    ] {
        let before = told(&sidecar, label);
        let mut peer = Peer::connect(at);
        peer.send(&hello).try_send(&wrong);
        // It goes on talking for a while, as somebody does who has not read yet.
        for _ in 0..64 {
            peer.try_send(frame(9, 1, &[0; 1024]));
        }
        let goaway = loop {
            let head = peer.bytes(9);
            let payload = peer.bytes(usize::from(head[1]) << 8 | usize::from(head[2]));
            if head[3] == 7 {
                break payload;
            }
        };
        assert_eq!(goaway[4..8], [0, 0, 0, code], "{label}");
        wait_until("it is counted", || told(&sidecar, label) == before + 1.0);
    }
}

fn told(sidecar: &Sidecar, code: &str) -> f64 {
    sidecar.metrics().sum("lighter_http2_faults_total", &[("peer", "caller"), ("code", code)])
}

fn goodbye() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let mut connection = h2::server::handshake(tcp).await.unwrap();
                    let mut served = 0;
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                        stream.send_data(Bytes::from_static(b"ok"), true).unwrap();
                        served += 1;
                        if served == 10 {
                            connection.graceful_shutdown();
                        }
                    }
                });
            }
        });
    });
    let (_sidecar, at) = Sidecar::before(address, "http2");
    http2::run(async {
        let client = http2::connect(at).await;
        for number in 0..100 {
            let answer = http2::get(&client, "/").await.unwrap();
            assert_eq!((answer.head.status.as_u16(), answer.body.as_slice()), (200, &b"ok"[..]), "{number}");
        }
    });
}

fn cancelled_calls() {
    let upstream = http2::Upstream::start(|request, mut respond| async move {
        if request.uri().path() == "/slow" {
            // Until the caller goes.
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        } else {
            let _ = respond.send_response(http::Response::new(()), true);
        }
    });
    let listen = crate::support::process::free_address();
    let own = format!("listeners: [{{listen: '{listen}', service: up, port: 80}}]\nworkers: 1\n");
    let sidecar = Sidecar::start(&service("up", "http2", &[upstream.address]), &own);
    http2::run(async {
        let client = http2::connect(listen).await;
        for _ in 0..20 {
            let mut doomed = Vec::new();
            for _ in 0..20 {
                let mut client = client.clone().ready().await.unwrap();
                let request = http::Request::get("http://up/slow").body(()).unwrap();
                doomed.push(client.send_request(request, true).unwrap());
            }
            tokio::task::yield_now().await;
            for (_, mut stream) in doomed {
                stream.send_reset(h2::Reason::CANCEL);
            }
            assert_eq!(http2::get(&client, "/fast").await.unwrap().head.status, 200);
        }
    });
    wait_until("nothing is in flight", || sidecar.metrics().sum("lighter_requests_in_flight", &[]) == 0.0);
}
