//! Bodies of HTTP/1.1 on their way to an endpoint that speaks HTTP/2: what arrives is what was sent, however it was framed and
//! wherever it was split, and what was not sent to its end does not look as if it was.

use std::net::SocketAddr;
use std::time::Duration;

use h2::{Reason, RecvStream};
use http::Response;
use lighter_config::snapshot::Protocol;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::world::*;

/// What an endpoint got of a request.
#[derive(Debug, PartialEq)]
enum Heard {
    Begun,
    /// Its body and its trailers, in their order by name.
    Whole(String, Vec<(String, String)>),
    Cut(Option<Reason>),
}

fn whole(body: &str, trailers: &[(&str, &str)]) -> Heard {
    let mut trailers: Vec<_> =
        trailers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    trailers.sort();
    Heard::Whole(body.to_owned(), trailers)
}

/// An endpoint that says what it gets, and answers what it got whole.
async fn listening() -> (SocketAddr, UnboundedReceiver<Heard>) {
    let (tell, told) = unbounded_channel();
    let endpoint = endpoint(Default::default(), move |(request, mut respond)| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(Heard::Begun);
            let heard = hear(request.into_body()).await;
            if matches!(heard, Heard::Whole(..)) {
                let _ = respond.send_response(Response::new(()), true);
            }
            let _ = tell.send(heard);
        }
    })
    .await;
    (endpoint.address, told)
}

async fn hear(mut body: RecvStream) -> Heard {
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        match part {
            Ok(part) => {
                let _ = body.flow_control().release_capacity(part.len());
                bytes.extend_from_slice(&part);
            }
            Err(error) => return Heard::Cut(error.reason()),
        }
    }
    match body.trailers().await {
        Ok(trailers) => {
            let trailers = trailers.unwrap_or_default();
            let trailers: Vec<_> =
                trailers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
            whole(&String::from_utf8(bytes).unwrap(), &trailers)
        }
        Err(error) => Heard::Cut(error.reason()),
    }
}

/// The world of a sidecar before these.
fn before(endpoints: &[SocketAddr]) -> World {
    World { upstream: Some(Protocol::Http2), ..World::new(endpoints) }
}

async fn client(world: &World) -> TcpStream {
    let client = world.socket_http1().await;
    client.set_nodelay(true).unwrap();
    client
}

async fn answered(client: &mut TcpStream) {
    let mut answer = [0; ANSWER.len()];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), ANSWER);
}

/// What is left to read, however it ends.
async fn rest(mut client: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: echo\r\nTransfer-Encoding: chunked\r\n\r\n";

/// With extensions of chunks, zeros before their sizes, and trailers of which some must not pass.
const BODY: &str = "5;name=\"v;x\"\r\nhello\r\n0001;\r\n \r\n5\r\nworld\r\n000;last=1\r\nX-Sum: 11 \r\nHost: other\r\n\
                    Content-Length: 3\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\nX-Two:\tb\r\n\r\n";

fn of_body() -> Heard {
    whole("hello world", &[("x-sum", "11"), ("x-two", "b")])
}

#[test]
fn a_chunked_body_and_its_trailers_arrive_whole_wherever_they_are_split() {
    run(async {
        let (endpoint, mut told) = listening().await;
        let world = before(&[endpoint]);
        let mut client = client(&world).await;
        let text = format!("{CHUNKED}{BODY}");
        for at in CHUNKED.len() - 2..text.len() {
            let (front, rest) = text.as_bytes().split_at(at);
            client.write_all(front).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            client.write_all(rest).await.unwrap();
            answered(&mut client).await;
            assert_eq!(told.recv().await, Some(Heard::Begun), "{at}");
            assert_eq!(told.recv().await, Some(of_body()), "{at}");
        }
        for byte in text.as_bytes() {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        answered(&mut client).await;
        assert_eq!(told.recv().await, Some(Heard::Begun));
        assert_eq!(told.recv().await, Some(of_body()));
    });
}

#[test]
fn a_body_that_ends_early_is_cut_off_for_the_endpoint_wherever_it_ends() {
    run(async {
        let (endpoint, mut told) = listening().await;
        let world = before(&[endpoint]);
        let sized = "POST / HTTP/1.1\r\nHost: echo\r\nContent-Length: 11\r\n\r\n";
        for (head, body) in [(CHUNKED, BODY), (sized, "hello world")] {
            for at in 0..body.len() {
                let mut client = client(&world).await;
                client.write_all(format!("{head}{}", &body[..at]).as_bytes()).await.unwrap();
                assert_eq!(told.recv().await, Some(Heard::Begun), "{head}{at}");
                drop(client);
                assert_eq!(told.recv().await, Some(Heard::Cut(Some(Reason::CANCEL))), "{head}{at}");
            }
        }
    });
}

#[test]
fn a_body_whose_framing_breaks_is_cut_off_for_the_endpoint_and_refused() {
    run(async {
        let (endpoint, mut told) = listening().await;
        let world = before(&[endpoint]);
        let long = format!("0\r\nX: {}\r\n\r\n", "x".repeat(9000));
        for broken in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "0x5\r\n",
            "5 ;a\r\n",
            "5\nhello\r\n",
            "5;a\0b\r\n",
            "2\r\nabc\r\n",
            "00000000000000005\r\n",
            "ffffffffffffffff\r\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\n: x\r\n\r\n",
            "0\r\nX : y\r\n\r\n",
            "0\r\nX: a\n\r\n",
            "0\r\nX: a\x01\r\n\r\n",
            "0\r\n:path: /\r\n\r\n",
            &long,
        ] {
            let mut client = client(&world).await;
            client.write_all(format!("{CHUNKED}5\r\nhello\r\n").as_bytes()).await.unwrap();
            assert_eq!(told.recv().await, Some(Heard::Begun), "{broken:?}");
            client.write_all(broken.as_bytes()).await.unwrap();
            let answer = rest(client).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{broken:?}: {answer}");
            assert!(answer.contains("x-lighter-error: ambiguous_message\r\n"), "{broken:?}: {answer}");
            assert_eq!(told.recv().await, Some(Heard::Cut(Some(Reason::CANCEL))), "{broken:?}");
        }
    });
}

#[test]
fn a_body_of_nothing_ends_and_so_does_one_that_is_longer_than_any_window() {
    run(async {
        let (endpoint, mut told) = listening().await;
        let world = before(&[endpoint]);
        let mut client = client(&world).await;
        let large = "x".repeat(300_000);
        let end = [("x-end", "1")];
        for (text, expected) in [
            ("POST / HTTP/1.1\r\nHost: echo\r\nContent-Length: 0\r\n\r\n".to_owned(), whole("", &[])),
            (format!("{CHUNKED}0\r\n\r\n"), whole("", &[])),
            (format!("{CHUNKED}000;x\r\n\r\n"), whole("", &[])),
            (format!("{CHUNKED}0\r\nX-End: 1\r\n\r\n"), whole("", &end)),
            (format!("{CHUNKED}0\r\nHost: other\r\n\r\n"), whole("", &[])),
            (format!("{CHUNKED}493e0\r\n{large}\r\n0\r\nX-End: 1\r\n\r\n"), whole(&large, &end)),
        ] {
            client.write_all(text.as_bytes()).await.unwrap();
            answered(&mut client).await;
            assert_eq!(told.recv().await, Some(Heard::Begun));
            assert!(told.recv().await == Some(expected), "{}", &text[..text.len().min(100)]);
        }
    });
}

#[test]
fn what_comes_behind_a_body_of_a_known_length_is_no_part_of_it() {
    run(async {
        let (endpoint, mut told) = listening().await;
        let world = before(&[endpoint]);
        let mut client = client(&world).await;
        let text = "POST / HTTP/1.1\r\nHost: echo\r\nContent-Length: 3\r\n\r\nabcde\r\n\r\n";
        client.write_all(text.as_bytes()).await.unwrap();
        let answer = rest(client).await;
        let behind = answer.strip_prefix(ANSWER).expect(&answer);
        assert!(behind.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(told.recv().await, Some(Heard::Begun));
        assert_eq!(told.recv().await, Some(whole("abc", &[])));
        assert!(told.try_recv().is_err());
    });
}

#[test]
fn an_answer_that_is_not_as_long_as_it_says_is_not_taken_for_whole() {
    run(async {
        for (said, sent) in [(5, "abc"), (3, "abcde"), (3, "")] {
            let endpoint = endpoint(Default::default(), move |(_, mut respond)| async move {
                let response = Response::builder().header("content-length", said).body(()).unwrap();
                let Ok(mut to) = respond.send_response(response, false) else { return };
                let _ = to.send_data(sent.into(), true);
            })
            .await;
            let world = before(&[endpoint.address]);
            let mut client = client(&world).await;
            client.write_all(b"GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await.unwrap();
            let answer = rest(client).await;
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let is_whole = answer.starts_with("HTTP/1.1 200 ") && body.len() >= said;
            assert!(!is_whole, "{said}: {answer}");
        }
    });
}

#[test]
fn a_refused_stream_is_sent_again_with_its_chunks_and_trailers() {
    run(async {
        let refuses = endpoint(Default::default(), |(_, mut respond)| async move {
            respond.send_reset(Reason::REFUSED_STREAM);
        })
        .await;
        let (serves, mut told) = listening().await;
        let world = before(&[refuses.address, serves]);
        for _ in 0..10 {
            let mut client = client(&world).await;
            client.write_all(format!("{CHUNKED}{BODY}").as_bytes()).await.unwrap();
            answered(&mut client).await;
            assert_eq!(told.recv().await, Some(Heard::Begun));
            assert_eq!(told.recv().await, Some(of_body()));
        }
    });
}

#[test]
fn an_answer_before_the_end_of_its_request_says_that_the_connection_ends() {
    run(async {
        // Which wants no more of the request, and says so behind its answer.
        let endpoint = endpoint(Default::default(), |(_, mut respond)| async move {
            let _ = respond.send_response(Response::new(()), true);
        })
        .await;
        let world = before(&[endpoint.address]);
        // More than a window takes, so that some of it waits to be sent.
        let begun = "x".repeat(90_000);
        for framing in ["Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n186a0\r\n"] {
            let mut client = client(&world).await;
            let head = format!("POST / HTTP/1.1\r\nHost: echo\r\n{framing}");
            client.write_all(format!("{head}{begun}").as_bytes()).await.unwrap();
            let answer = rest(client).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        }
    });
}

/// Trailers, and whether they pass.
const TRAILERS: [(&str, bool); 8] = [
    ("X-A: 1", true),
    ("Host: other", false),
    ("x-b:\t two ", true),
    ("Content-Length: 9", false),
    ("TE: trailers", false),
    ("Set-Cookie: a=1", true),
    ("X-Lighter-Error: forged", false),
    ("Connection: x-a", false),
];

fn chunk() -> impl Strategy<Value = (String, String)> {
    let extension = prop::sample::select(vec!["", ";", ";a", ";a=\"b;c\"", "; x = 1;y"]);
    let zeros = prop::sample::select(vec!["", "0", "0000"]);
    ("[a-z \r\n]{1,40}", extension, zeros).prop_map(|(content, extension, zeros)| {
        let text = format!("{zeros}{:X}{extension}\r\n{content}\r\n", content.len());
        (text, content)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_chunks_in_any_pieces_arrive_as_what_is_in_them(
        chunks in prop::collection::vec(chunk(), 0..6),
        trailers in prop::sample::subsequence(TRAILERS.to_vec(), 0..=TRAILERS.len()),
        mut at in prop::collection::vec(0usize..500, 0..6),
    ) {
        let (texts, contents): (Vec<_>, Vec<_>) = chunks.into_iter().unzip();
        let lines: String = trailers.iter().map(|(line, _)| format!("{line}\r\n")).collect();
        let text = format!("{CHUNKED}{}0\r\n{lines}\r\n", texts.concat());
        let passed: Vec<_> = trailers.iter().filter(|(_, passes)| *passes).collect();
        let passed: Vec<_> = passed.iter().filter_map(|(line, _)| line.split_once(':')).collect();
        let passed: Vec<_> = passed.iter().map(|(name, value)| (name.to_lowercase(), value.trim())).collect();
        let passed: Vec<_> = passed.iter().map(|(name, value)| (&**name, *value)).collect();
        let expected = whole(&contents.concat(), &passed);
        at.iter_mut().for_each(|at| *at %= text.len() + 1);
        at.extend([0, text.len()]);
        at.sort_unstable();
        run(async {
            let (endpoint, mut told) = listening().await;
            let world = before(&[endpoint]);
            let mut client = client(&world).await;
            for ends in at.windows(2) {
                client.write_all(&text.as_bytes()[ends[0]..ends[1]]).await.unwrap();
                tokio::task::yield_now().await;
            }
            answered(&mut client).await;
            prop_assert_eq!(told.recv().await, Some(Heard::Begun));
            prop_assert_eq!(told.recv().await, Some(expected));
            Ok(())
        })?;
    }
}
