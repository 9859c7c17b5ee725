//! Drain, and requests that had arrived by then.

use lighter_config::snapshot::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::*;
use crate::drain::Phase;

/// An HTTP/1 endpoint that answers every request.
async fn plain(mut tcp: TcpStream) {
    let mut request = [0; 1024];
    while tcp.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {
        if tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
            return;
        }
    }
}

/// Asks once, and again in the moment in which the drain gets to `phase`.
async fn ask_into(phase: Phase, world: World) {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: echo\r\n\r\n";
    let mut client = world.socket_http1().await;
    client.write_all(REQUEST).await.unwrap();
    let mut first = [0; 15];
    client.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    // In one turn of this task: the sidecar hears of the drain before the runtime hears of the request.
    client.write_all(REQUEST).await.unwrap();
    world.worker.connections.advance(phase);
    let mut answers = String::new();
    client.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 1, "{answers}");
    assert!(answers.to_ascii_lowercase().contains("connection: close"), "{answers}");
}

#[test]
fn a_request_that_had_arrived_is_answered() {
    run(async {
        for phase in [Phase::Lame, Phase::Draining] {
            ask_into(phase, World::new(&[raw(plain).await])).await;
        }
        let mut world = World::new(&[endpoint(Default::default(), echo).await.address]);
        world.upstream = Some(Protocol::Grpc);
        ask_into(Phase::Draining, world).await;
    });
}
