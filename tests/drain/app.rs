//! An application that knows nothing of a mesh: HTTP/1.1, HTTP/2 and gRPC on one port.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::support::process::{Program, free_port};
use crate::support::raw::Peer;

/// Plays the role that the first argument names, if it does, and gives the status to end with.
pub fn play() -> Option<i32> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ["@serve", port] = arguments[..] else { return None };
    serve(port.parse().unwrap());
    Some(0)
}

/// One that runs on this host.
pub fn start(folder: &std::path::Path) -> (Program, SocketAddr) {
    let port = free_port();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["@serve", &port.to_string()]);
    let mut program = Program::start(command, folder);
    program.wait_until_it_says("listening");
    (program, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

fn serve(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.unwrap();
        println!("listening");
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            tokio::task::spawn_local(connection(tcp));
        }
    });
}

async fn connection(tcp: TcpStream) {
    let mut first = [0; 3];
    while let Ok(1..3) = tcp.peek(&mut first).await {
        tokio::task::yield_now().await;
    }
    if &first != b"PRI" {
        let tcp = tcp.into_std().unwrap();
        tcp.set_nonblocking(false).unwrap();
        std::thread::spawn(move || http1(Peer::idle(tcp)));
        return;
    }
    let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::task::spawn_local(http2(request, respond));
    }
}

fn http1(mut peer: Peer) {
    while peer.head().is_some() {
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
    }
}

/// Answers at once; a gRPC stream with each of its messages, and OK.
async fn http2(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let is_grpc = request.headers().get("content-type").is_some_and(|kind| kind == "application/grpc");
    let head =
        Response::builder().header("content-type", if is_grpc { "application/grpc" } else { "text/plain" });
    let Ok(mut answer) = respond.send_response(head.body(()).unwrap(), false) else { return };
    if !is_grpc {
        let _ = answer.send_data(Bytes::from_static(b"done"), true);
        return;
    }
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        if answer.send_data(data, false).is_err() {
            return;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let _ = answer.send_trailers(trailers);
}
