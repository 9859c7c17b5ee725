//! A caller whose address is replaced while its link over QUIC carries something.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use libtest_mimic::Trial;

use crate::apart::{Apart, Network};
use crate::support::{http2, namespace, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![namespace::test(
        "a_caller_whose_address_is_replaced_loses_nothing_over_quic",
        an_address_is_replaced,
    )]
}

fn an_address_is_replaced() {
    let network = Network::new();
    let enough = Arc::new(AtomicBool::new(false));
    let told = enough.clone();
    let app = network
        .at_called(|| http2::Upstream::start(move |request, respond| serve(request, respond, told.clone())));
    let spec = "wires: {shm: mustNot, quic: should}";
    let apart = Apart::before(&network, "http2", app.address, spec);
    assert_eq!(apart.calm(), 30.0, "where nothing is said");
    let moves = Moves { network: &network, apart: &apart, wanted: Cell::new(0) };
    network.at_caller(|| {
        http2::run(async {
            let wide =
                Builder::new().initial_window_size(1 << 20).initial_connection_window_size(4 << 20).clone();
            let client = http2::connect_with(apart.listen, &wide).await;
            while apart.switches("policy") < 1.0 {
                assert_eq!(http2::get(&client, "/").await.unwrap().head.status, 200);
            }
            // In all directions at once; and where the caller has nothing to say, by which it would be known where it is.
            let over = Cell::new(false);
            let both = async {
                tokio::join!(download(&client, &moves, 3), upload(&client, &moves, 3));
                over.set(true);
            };
            tokio::join!(both, talk(&client, &over));
            listen(&client, &moves, &enough).await;
        });
    });
    wait_until("all moves are counted", || moves.counted() == 4.0);
    for (metrics, side) in apart.metrics().iter().zip(["opener", "acceptor"]) {
        assert_eq!(metrics.sum("lighter_quic_handshakes_total", &[("side", side)]), 1.0, "it is one link");
        assert_eq!(metrics.sum("lighter_link_wire", &[("wire", "quic")]), 1.0, "which stands");
    }
    let streams = apart.over_quic();
    assert!(streams[0] >= 4.0 && streams[0] == streams[1], "{streams:?}");
    apart.is_whole();
}

/// What happens to the caller's address, and when.
struct Moves<'m> {
    network: &'m Network,
    apart: &'m Apart<'m>,
    /// So often was it replaced.
    wanted: Cell<u32>,
}

impl Moves<'_> {
    fn counted(&self) -> f64 {
        self.apart.metrics()[1].sum("lighter_quic_moves_total", &[])
    }

    /// Replaces the address, once the other side has noticed all that was before.
    async fn next(&self) {
        until(|| self.counted() == f64::from(self.wanted.get())).await;
        self.network.moves_caller();
        self.wanted.set(self.wanted.get() + 1);
    }
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reads a long answer. The address is replaced `times`, while more comes.
async fn download(client: &SendRequest<Bytes>, moves: &Moves<'_>, times: u32) {
    let (answer, _) = request(client, "/down").await;
    let mut body = answer.await.unwrap().into_body();
    let (mut at, mut moved) = (0, 0);
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        assert!(data.iter().zip(at..).all(|(byte, at)| *byte == pattern(at)), "at {at}");
        at += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
        if moved < times && at > BYTES / (times as usize + 1) * (moved as usize + 1) {
            moves.next().await;
            moved += 1;
        }
    }
    assert_eq!((at, moved), (BYTES, times));
}

/// Sends a long body. It is not over before the address was replaced `times`.
async fn upload(client: &SendRequest<Bytes>, moves: &Moves<'_>, times: u32) {
    let (answer, mut body) = request(client, "/up").await;
    let mut at = 0;
    while at < BYTES {
        let moved = (at / (BYTES / (times as usize + 1))) as u32;
        until(|| moves.wanted.get() >= moved.min(times)).await;
        let part: Vec<u8> = (at..BYTES.min(at + PART)).map(pattern).collect();
        at += part.len();
        send(&mut body, part.into(), at == BYTES).await;
    }
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.status(), answer.headers()["x-came"].to_str().unwrap()),
        (http::StatusCode::OK, "all")
    );
}

/// Says something and hears it again, as a call of gRPC in both directions, until it is `over`.
async fn talk(client: &SendRequest<Bytes>, over: &Cell<bool>) {
    let (answer, mut said) = request(client, "/talk").await;
    let mut heard = answer.await.unwrap().into_body();
    for turn in 0u64.. {
        let word = Bytes::copy_from_slice(&turn.to_be_bytes());
        let is_last = over.get();
        send(&mut said, word.clone(), is_last).await;
        let mut echoed = Vec::new();
        while echoed.len() < word.len() {
            let data = heard.data().await.expect("an echo").unwrap();
            heard.flow_control().release_capacity(data.len()).unwrap();
            echoed.extend_from_slice(&data);
        }
        assert_eq!(echoed, word);
        if is_last {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(heard.data().await.is_none());
    assert_eq!(heard.trailers().await.unwrap().unwrap()["grpc-status"], "0");
}

/// Hears now and then something, in the midst of which the address is replaced: until it is known that this was noticed.
async fn listen(client: &SendRequest<Bytes>, moves: &Moves<'_>, enough: &AtomicBool) {
    let (answer, _) = request(client, "/ticks").await;
    let mut body = answer.await.unwrap().into_body();
    let heard = Cell::new(0);
    let moving = async {
        until(|| heard.get() == BEFORE).await;
        // By then all that came is acknowledged.
        tokio::time::sleep(PAUSE / 2).await;
        moves.next().await;
        until(|| moves.counted() == f64::from(moves.wanted.get())).await;
        enough.store(true, Relaxed);
    };
    let hearing = async {
        while let Some(data) = body.data().await {
            let data = data.expect("it is not given up");
            body.flow_control().release_capacity(data.len()).unwrap();
            for tick in data {
                assert_eq!(tick, heard.get() as u8);
                heard.set(heard.get() + 1);
            }
        }
    };
    tokio::join!(moving, hearing);
    assert!(enough.load(Relaxed) && heard.get() > BEFORE);
}

async fn request(
    client: &SendRequest<Bytes>,
    path: &str,
) -> (impl Future<Output = Result<Response<RecvStream>, h2::Error>>, SendStream<Bytes>) {
    let mut client = client.clone().ready().await.unwrap();
    let head = Request::post(format!("http://reviews{path}")).body(()).unwrap();
    client.send_request(head, matches!(path, "/down" | "/ticks")).unwrap()
}

/// Sends `data` once there is room for it.
async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes, is_last: bool) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        let part = data.split_to(room.min(data.len()));
        stream.send_data(part, is_last && data.is_empty()).unwrap();
    }
}

/// The workload.
async fn serve(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, enough: Arc<AtomicBool>) {
    let (head, mut body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let early = Response::builder().header("x-path", &path);
    match &*path {
        "/down" => {
            let mut answer = respond.send_response(early.body(()).unwrap(), false).unwrap();
            for at in (0..BYTES).step_by(PART) {
                let part: Vec<u8> = (at..BYTES.min(at + PART)).map(pattern).collect();
                send(&mut answer, part.into(), at + PART >= BYTES).await;
            }
        }
        "/ticks" => {
            let mut answer = respond.send_response(early.body(()).unwrap(), false).unwrap();
            for tick in 0u32.. {
                tokio::time::sleep(if tick == BEFORE { PAUSE } else { Duration::from_millis(50) }).await;
                let is_last = enough.load(Relaxed);
                send(&mut answer, Bytes::copy_from_slice(&[tick as u8]), is_last).await;
                if is_last {
                    break;
                }
            }
        }
        "/up" => {
            let (mut at, mut as_sent) = (0, true);
            while let Some(Ok(data)) = body.data().await {
                as_sent &= data.iter().zip(at..).all(|(byte, at)| *byte == pattern(at));
                at += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            let came = if as_sent && at == BYTES { "all" } else { "not all" };
            respond.send_response(early.header("x-came", came).body(()).unwrap(), true).unwrap();
        }
        "/talk" => {
            let mut answer = respond.send_response(early.body(()).unwrap(), false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                send(&mut answer, data, false).await;
            }
            let status = [("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))];
            answer.send_trailers(HeaderMap::from_iter(status)).unwrap();
        }
        _ => drop(respond.send_response(early.body(()).unwrap(), true)),
    }
}

/// What is at a place of a long body.
fn pattern(at: usize) -> u8 {
    (at * 7 + at / 251) as u8
}

/// Bytes of a long body, and of a part of it.
const BYTES: usize = 8 << 20;
const PART: usize = 64 << 10;

/// So many words come before the address is replaced, in a pause that is so long.
const BEFORE: u32 = 10;
const PAUSE: Duration = Duration::from_millis(400);
