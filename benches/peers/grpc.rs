//! HTTP/2 as gRPC uses it: unary calls with a small message each way and a status in the trailers.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::measure::Load;

/// A gRPC message of 100 bytes behind its five-byte frame head.
const MESSAGE: &[u8] = &{
    let mut message = [b'm'; 105];
    message[0] = 0;
    message[1] = 0;
    message[2] = 0;
    message[3] = 0;
    message[4] = 100;
    message
};

/// Answers every call on a thread of its own; says on which port.
pub fn upstream() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || on_this_thread(serve(listener)));
    port
}

/// Keeps `streams` calls open on each of `connections`, for as long as `time`.
pub fn closed_loop(port: u16, connections: usize, streams: usize, time: Duration) -> Load {
    on_this_thread(async move {
        let latencies = Rc::new(RefCell::new(Vec::new()));
        let start = Instant::now();
        let mut callers = Vec::new();
        for _ in 0..connections {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("the proxy accepts connections");
            tcp.set_nodelay(true).unwrap();
            let (client, connection) = h2::client::handshake(tcp).await.expect("the proxy speaks HTTP/2");
            tokio::task::spawn_local(connection);
            for _ in 0..streams {
                let (client, latencies) = (client.clone(), latencies.clone());
                callers.push(tokio::task::spawn_local(async move {
                    let mut client = client;
                    while start.elapsed() < time {
                        let sent = Instant::now();
                        client = call(client, port).await.expect("a call under load succeeds");
                        latencies.borrow_mut().push(sent.elapsed().as_nanos().min(u32::MAX.into()) as u32);
                    }
                }));
            }
        }
        for caller in callers {
            caller.await.expect("no caller fails");
        }
        let latencies = latencies.take();
        Load { units: latencies.len() as f64, time: start.elapsed(), latencies }
    })
}

/// One call; whether it was answered as it should be.
pub fn probe(port: u16) -> bool {
    on_this_thread(async move {
        let ask = async {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            let (client, connection) = h2::client::handshake(tcp).await.ok()?;
            tokio::task::spawn_local(connection);
            call(client, port).await.ok()
        };
        matches!(tokio::time::timeout(Duration::from_secs(2), ask).await, Ok(Some(_)))
    })
}

fn on_this_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, work)
}

type Client = h2::client::SendRequest<Bytes>;

async fn call(client: Client, port: u16) -> Result<Client, h2::Error> {
    let mut client = client.ready().await?;
    let request = Request::post(format!("http://127.0.0.1:{port}/bench.Echo/Say"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "peers/1")
        .body(())
        .expect("a valid request");
    let (answer, mut body) = client.send_request(request, false)?;
    body.send_data(Bytes::from_static(MESSAGE), true)?;
    let answer = answer.await?;
    assert_eq!(answer.status(), 200, "a call under load is answered with 200");
    // A proxy that has no answer says why in the headers (gRPC's Trailers-Only).
    assert!(!answer.headers().contains_key("grpc-status"), "a call is answered: {:?}", answer.headers());
    let (length, trailers) = read(answer.into_body()).await?;
    assert_eq!(length, MESSAGE.len());
    assert_eq!(trailers.expect("an answer has trailers")["grpc-status"], "0");
    Ok(client)
}

async fn read(mut body: RecvStream) -> Result<(usize, Option<HeaderMap>), h2::Error> {
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        length += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    Ok((length, body.trailers().await?))
}

async fn serve(listener: std::net::TcpListener) -> Infallible {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        let _ = tcp.set_nodelay(true);
        tokio::task::spawn_local(async move {
            let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::task::spawn_local(answer(request, respond));
            }
        });
    }
}

/// A call that a proxy cuts off is the proxy's affair, so errors end it in silence.
async fn answer(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> Option<()> {
    read(request.into_body()).await.ok()?;
    let head = Response::builder().header("content-type", "application/grpc").body(()).ok()?;
    let mut body: SendStream<Bytes> = respond.send_response(head, false).ok()?;
    body.send_data(Bytes::from_static(MESSAGE), false).ok()?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    body.send_trailers(trailers).ok()
}
