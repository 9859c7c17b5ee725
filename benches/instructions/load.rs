//! Upstreams and callers that do a counted piece of work: one after another on one connection, or in rounds on many.
//! In a round every connection asks, and then every answer is read. A sidecar under callgrind is so much slower than its
//! load that it finds a whole round waiting, so the count hardly depends on how they meet.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use bytes::Bytes;
use tokio::task::LocalSet;

pub const MIB: usize = 1 << 20;

/// Answers each request of HTTP/1 with `length` bytes; says on which port.
pub fn http1_upstream(length: usize) -> u16 {
    serve(move |mut stream| {
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nserver: instructions\r\ncontent-length: {length}\r\n\r\n")
                .into_bytes();
        answer.resize(answer.len() + length, b'x');
        let mut head = Vec::new();
        let mut part = [0; 4096];
        while let Ok(got @ 1..) = stream.read(&mut part) {
            head.extend_from_slice(&part[..got]);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                if stream.write_all(&answer).is_err() {
                    return;
                }
            }
        }
    })
}

/// Asks `count` times over so many connections, in rounds, and reads answers of `length` bytes.
pub fn http1(port: u16, length: usize, connections: u64, count: u64) {
    let connect = |_| {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    };
    let mut streams: Vec<TcpStream> = (0..connections).map(connect).collect();
    let request = format!(
        "GET /small HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nuser-agent: instructions/1\r\naccept: */*\r\n\r\n"
    );
    let mut answer = vec![0; length + 4096];
    assert_eq!(count % connections, 0, "whole rounds");
    for _ in 0..count / connections {
        for stream in &mut streams {
            stream.write_all(request.as_bytes()).unwrap();
        }
        for stream in &mut streams {
            read_answer(stream, &mut answer, length);
        }
    }
}

fn read_answer(stream: &mut TcpStream, answer: &mut [u8], length: usize) {
    let mut got = 0;
    loop {
        match stream.read(&mut answer[got..]).unwrap() {
            0 => panic!("the sidecar closed the connection"),
            some => got += some,
        }
        let head = answer[..got].windows(4).position(|four| four == b"\r\n\r\n");
        if head.is_some_and(|head| got >= head + 4 + length) {
            break;
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

/// Sends to every caller until it goes.
pub fn tcp_upstream() -> u16 {
    serve(|mut stream| while stream.write_all(&[b'x'; 64 * 1024]).is_ok() {})
}

/// Reads `count` MiB.
pub fn tcp(port: u16, count: u64) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut block = vec![0; MIB];
    for _ in 0..count {
        stream.read_exact(&mut block).unwrap();
    }
}

/// Answers each call with a message and a status in its trailers.
pub fn grpc_upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        on_this_thread(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::task::spawn_local(answer(request.into_body(), respond));
                    }
                });
            }
        });
    });
    port
}

/// Calls `count` times.
pub fn grpc(port: u16, count: u64) {
    on_this_thread(async move {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::task::spawn_local(connection);
        for _ in 0..count {
            client = client.ready().await.unwrap();
            let request = http::Request::post(format!("http://127.0.0.1:{port}/bench.Echo/Say"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
                .unwrap();
            let (head, mut body) = client.send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(&[0; 105]), true).unwrap();
            let trailers = read(head.await.unwrap().into_body()).await.unwrap();
            assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
        }
    });
}

async fn answer(body: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) -> Option<()> {
    read(body).await.ok()?;
    let head = http::Response::builder().header("content-type", "application/grpc").body(()).ok()?;
    let mut stream = respond.send_response(head, false).ok()?;
    stream.send_data(Bytes::from_static(&[0; 105]), false).ok()?;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    stream.send_trailers(trailers).ok()
}

async fn read(mut body: h2::RecvStream) -> Result<Option<http::HeaderMap>, h2::Error> {
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    body.trailers().await
}

fn on_this_thread(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, work);
}

fn serve(each: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let each = each.clone();
            let _ = stream.set_nodelay(true);
            std::thread::spawn(move || each(stream));
        }
    });
    port
}
