//! The `h2` crate as the peer, in both roles: bodies of any size in any parts, small windows, resets, large heads.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::task::{JoinSet, LocalSet};

use super::*;

/// One exchange: the called echoes.
#[derive(Clone, Debug)]
struct Call {
    /// Bytes of the parts in which the body is sent.
    parts: Vec<usize>,
    /// Bytes of a field of the head, which comes back.
    field: usize,
    trailers: bool,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Whole,
    /// The caller gives it up when it has sent all.
    Cancelled,
    /// The called gives it up when its head has come.
    Refused,
    /// The called answers without waiting for the body.
    Early,
}

/// How the two are set up.
#[derive(Clone, Debug)]
struct Setup {
    calls: Vec<Call>,
    limits: Limits,
    /// The `h2` crate's windows, largest frame, and streams at once.
    windows: (u32, u32),
    frame: u32,
    streams: u32,
    /// Bytes between the two.
    pipe: usize,
    /// Bytes that are read and written at once on this side, in turn.
    splits: Vec<usize>,
}

impl Call {
    fn path(&self) -> &'static str {
        match self.fate {
            Fate::Whole => "/whole",
            Fate::Cancelled => "/cancelled",
            Fate::Refused => "/refused",
            Fate::Early => "/early",
        }
    }

    fn len(&self) -> usize {
        self.parts.iter().sum()
    }

    /// Byte `at` of the body.
    fn byte(&self, at: usize) -> u8 {
        (at * 7 + self.len() + self.field) as u8
    }

    fn part(&self, at: usize, len: usize) -> Bytes {
        (at..at + len).map(|at| self.byte(at)).collect()
    }

    fn holds(&self, at: usize, part: &[u8]) {
        assert!(part.iter().enumerate().all(|(index, byte)| *byte == self.byte(at + index)), "another body");
    }
}

/// Runs a connection on `io` until it is done, or lost. `step` does what there is to do, and says whether it did any. It is
/// told which streams were woken: others that had nothing to do have nothing to do still.
async fn drive(
    io: &mut DuplexStream,
    splits: &[usize],
    connection: &mut Connection,
    mut step: impl FnMut(&mut Connection, &[Key]) -> bool,
) {
    let (now, mut splits) = (Instant::now(), splits.iter().copied().cycle());
    let mut size = || splits.next().unwrap();
    poll_fn(|cx| {
        loop {
            let woken: Vec<Key> = connection.woken().collect();
            let mut moved = step(connection, &woken);
            connection.assert_sound();
            moved |= write(io, size(), connection, cx);
            if connection.is_done() && connection.outbox().is_empty() {
                return Pin::new(&mut *io).poll_shutdown(cx).map(drop);
            }
            let mut bytes = vec![0; size()];
            let mut buffer = ReadBuf::new(&mut bytes);
            if Pin::new(&mut *io).poll_read(cx, &mut buffer).is_ready() {
                moved = true;
                match buffer.filled() {
                    [] => connection.lose(),
                    bytes => connection.recv(now, &mut BytesMut::from(bytes)),
                }
                if connection.fault().is_some() {
                    let woken: Vec<Key> = connection.woken().collect();
                    step(connection, &woken);
                    while write(io, usize::MAX, connection, cx) {}
                    return Poll::Ready(());
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// Writes some of the outbox. Whether any of it went.
fn write(io: &mut DuplexStream, most: usize, connection: &mut Connection, cx: &mut Context<'_>) -> bool {
    let mut slices = Slices::new();
    connection.outbox().slices(&mut slices);
    let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(most).collect();
    drop(slices);
    match Pin::new(io).poll_write(cx, &bytes) {
        Poll::Ready(Ok(written)) if written > 0 => {
            connection.written(written);
            true
        }
        _ => false,
    }
}

/// A stream that this side answers.
struct Echo {
    key: Key,
    busy: bool,
    path: Vec<u8>,
    part: Bytes,
    trailers: Option<Box<Fields>>,
    ended: bool,
}

impl Echo {
    fn new(connection: &mut Connection, opened: Opened) -> Self {
        let (key, head) = (opened.key, opened.head.unwrap());
        let path = head.target().to_vec();
        match &path[..] {
            b"/refused" => connection.reset(key, Code::INTERNAL_ERROR),
            _ => {
                let mut answer = ResponseHead::new(200);
                answer.fields.push(b"x-field", head.fields.get(b"x-field").unwrap());
                // One that was given up by now is not there to be answered.
                let _ = connection.send_head(key, &ResponseHead::new(103), false);
                let _ = connection.send_head(key, &answer, path == b"/early");
            }
        }
        Echo { key, busy: true, path, part: Bytes::new(), trailers: None, ended: false }
    }

    /// Goes on as far as it can. Whether anything was done, and whether it is over.
    fn step(&mut self, connection: &mut Connection, most: usize) -> (bool, bool) {
        let mut moved = false;
        if self.path == b"/early" || self.path == b"/refused" || connection.cut(self.key).is_some() {
            return (true, true);
        }
        loop {
            if !self.part.is_empty() {
                let room = connection.capacity(self.key, self.part.len());
                if room == 0 {
                    return (moved, false);
                }
                connection.send_data(self.key, self.part.split_to(room), false).unwrap();
                connection.release(self.key, room);
            } else if self.ended {
                match self.trailers.take() {
                    Some(trailers) => connection.send_trailers(self.key, &trailers).unwrap(),
                    None => connection.send_data(self.key, Bytes::new(), true).unwrap(),
                }
                return (true, true);
            } else {
                match connection.read(self.key, most) {
                    None => return (moved, false),
                    Some(Read::Data { part, end }) => (self.part, self.ended) = (part, end),
                    Some(Read::Trailers(trailers)) => self.trailers = Some(trailers),
                    Some(Read::End) => self.ended = true,
                    Some(Read::Cut(_)) => return (true, true),
                }
            }
            moved = true;
        }
    }
}

/// A stream that this side has opened.
struct Ask {
    call: Call,
    key: Key,
    busy: bool,
    sent: usize,
    sent_end: bool,
    answered: bool,
    received: usize,
    trailers: bool,
}

impl Ask {
    fn new(connection: &mut Connection, call: Call) -> Self {
        let mut head = RequestHead::new(b"POST", b"http", b"a", call.path().as_bytes());
        head.fields.push(b"x-field", "f".repeat(call.field).as_bytes());
        let end = call.parts.is_empty() && !call.trailers && call.fate != Fate::Cancelled;
        let key = connection.open(&head, end).unwrap();
        Ask { call, key, busy: true, sent: 0, sent_end: end, answered: false, received: 0, trailers: false }
    }

    /// Goes on as far as it can. Whether anything was done, and whether it is over.
    fn step(&mut self, connection: &mut Connection, most: usize) -> (bool, bool) {
        let (sent, gone) = self.send(connection);
        let (received, over) = self.receive(connection, most);
        (sent || received, gone || over)
    }

    fn send(&mut self, connection: &mut Connection) -> (bool, bool) {
        let mut moved = false;
        while !self.sent_end && connection.cut(self.key).is_none() {
            let left = self.call.len() - self.sent;
            if left > 0 {
                let room = connection.capacity(self.key, left);
                if room == 0 {
                    return (moved, false);
                }
                let part = self.call.part(self.sent, room);
                connection.send_data(self.key, part, false).unwrap();
                self.sent += room;
            } else if self.call.fate == Fate::Cancelled {
                return (true, true);
            } else {
                match self.call.trailers {
                    true => connection.send_trailers(self.key, &Fields::from([("x-last", "1")])).unwrap(),
                    false => connection.send_data(self.key, Bytes::new(), true).unwrap(),
                }
                self.sent_end = true;
            }
            moved = true;
        }
        (moved, false)
    }

    fn receive(&mut self, connection: &mut Connection, most: usize) -> (bool, bool) {
        let mut moved = false;
        while !self.answered {
            match connection.read_head(self.key) {
                None => return (moved, false),
                Some(Err(cut)) => {
                    assert_eq!((cut, self.call.fate), (Cut::Reset(Code::INTERNAL_ERROR), Fate::Refused));
                    return (true, true);
                }
                Some(Ok(head)) => {
                    assert_eq!(head.status, 200);
                    assert_eq!(head.fields.get(b"x-field").unwrap(), "f".repeat(self.call.field).as_bytes());
                    self.answered = true;
                }
            }
            moved = true;
        }
        loop {
            match connection.read(self.key, most) {
                None => return (moved, false),
                Some(Read::Data { part, .. }) => {
                    self.call.holds(self.received, &part);
                    self.received += part.len();
                    connection.release(self.key, part.len());
                }
                Some(Read::Trailers(_)) => self.trailers = true,
                Some(Read::End) if self.call.fate == Fate::Early => return (true, true),
                Some(Read::End) => {
                    assert_eq!(self.call.fate, Fate::Whole);
                    assert_eq!((self.received, self.trailers), (self.call.len(), self.call.trailers));
                    return (true, self.sent_end);
                }
                Some(Read::Cut(cut)) => panic!("{cut:?} of {:?}", self.call),
            }
            moved = true;
        }
    }
}

/// This side is called.
async fn serves(setup: Setup) {
    let (near, mut far) = tokio::io::duplex(setup.pipe);
    let (client, connection) = h2::client::Builder::new()
        .reset_stream_duration(Duration::from_secs(1000))
        .max_concurrent_reset_streams(100)
        .initial_window_size(setup.windows.0)
        .initial_connection_window_size(setup.windows.1)
        .max_frame_size(setup.frame)
        .handshake(near)
        .await
        .unwrap();
    let mut calls = JoinSet::new();
    for call in setup.calls {
        calls.spawn_local(ask(client.clone(), call));
    }
    drop(client);
    let running = tokio::task::spawn_local(async move {
        connection.await.unwrap();
    });
    let mut ours = Connection::new(Side::Server, setup.limits, Instant::now());
    let mut streams = Vec::new();
    // What comes in small parts goes back in small frames, of which the `h2` crate takes few at once.
    let splits: Vec<usize> = setup.splits.iter().map(|split| split + 300).collect();
    let most = splits[0];
    drive(&mut far, &splits, &mut ours, |connection, woken| {
        let mut moved = false;
        while let Some(opened) = connection.accept() {
            streams.push(Echo::new(connection, opened));
            moved = true;
        }
        streams.retain_mut(|stream| {
            if !stream.busy && !woken.contains(&stream.key) {
                return true;
            }
            let (did, over) = stream.step(connection, most);
            stream.busy = did;
            moved |= did;
            if over {
                connection.let_go(stream.key);
            }
            !over
        });
        moved
    })
    .await;
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
    drop(far);
    running.await.unwrap();
    assert_eq!(ours.fault().map(|fault| fault.code), Some(Code::NO_ERROR), "{:?}", ours.fault());
    ours.assert_sound();
    assert!(ours.is_empty(), "streams are left");
}

/// What the `h2` crate asks for.
async fn ask(client: h2::client::SendRequest<Bytes>, call: Call) {
    let request = Request::post(format!("http://a{}", call.path()))
        .header("x-field", "f".repeat(call.field))
        .body(())
        .unwrap();
    let (answer, body) = client.ready().await.unwrap().send_request(request, false).unwrap();
    let receive = async {
        let answer = match (answer.await, call.fate) {
            (Ok(answer), Fate::Whole | Fate::Early | Fate::Cancelled) => answer,
            (Err(_), Fate::Cancelled) => return,
            (Err(error), Fate::Refused) => return assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR)),
            (answer, fate) => panic!("{answer:?} to {fate:?}"),
        };
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-field"].len(), call.field);
        let mut body = answer.into_body();
        let mut received = 0;
        while let Some(part) = body.data().await {
            let part = match part {
                Err(_) if call.fate == Fate::Cancelled => return,
                part => part.unwrap(),
            };
            call.holds(received, &part);
            received += part.len();
            body.flow_control().release_capacity(part.len()).unwrap();
        }
        if call.fate == Fate::Cancelled {
            return;
        }
        let trailers = body.trailers().await.unwrap();
        if call.fate == Fate::Whole {
            assert_eq!((received, trailers.is_some()), (call.len(), call.trailers));
        }
    };
    let (sent, ()) = tokio::join!(send(body, &call), receive);
    assert!(sent || call.fate != Fate::Whole);
}

/// Sends a call's body. Whether it was taken.
async fn send(mut body: SendStream<Bytes>, call: &Call) -> bool {
    let mut at = 0;
    for part in &call.parts {
        let end = at + part;
        while at < end {
            body.reserve_capacity(end - at);
            let Some(Ok(room)) = poll_fn(|cx| body.poll_capacity(cx)).await else { return false };
            let part = call.part(at, room.min(end - at));
            at += part.len();
            if body.send_data(part, false).is_err() {
                return false;
            }
        }
    }
    match (call.fate, call.trailers) {
        (Fate::Cancelled, _) => body.send_reset(Reason::CANCEL),
        (_, true) => return body.send_trailers(HeaderMap::from_iter([last()])).is_ok(),
        (_, false) => return body.send_data(Bytes::new(), true).is_ok(),
    }
    true
}

fn last() -> (http::HeaderName, http::HeaderValue) {
    (http::HeaderName::from_static("x-last"), http::HeaderValue::from_static("1"))
}

/// This side calls.
async fn calls(setup: Setup) {
    let (mut near, far) = tokio::io::duplex(setup.pipe);
    let server = async move {
        let mut connection = h2::server::Builder::new()
            // It takes frames for faults that come later than that on a stream it has reset.
            .reset_stream_duration(Duration::from_secs(1000))
            .max_concurrent_reset_streams(100)
            .initial_window_size(setup.windows.0)
            .initial_connection_window_size(setup.windows.1)
            .max_frame_size(setup.frame)
            // It may count a stream for a moment longer than its last frame needs to get here, refuse the one in its
            // place, and take what was on its way on that for a stream that never was.
            .max_concurrent_streams(2 * setup.streams)
            .handshake(far)
            .await
            .unwrap();
        while let Some(accepted) = connection.accept().await {
            let (request, respond) = match accepted {
                Ok(accepted) => accepted,
                // This side has all it wanted, and has closed.
                Err(error) if error.is_io() => return,
                Err(error) => panic!("{error}"),
            };
            tokio::task::spawn_local(echo(request, respond));
        }
    };
    let server = tokio::task::spawn_local(server);
    let mut ours = Connection::new(Side::Client, setup.limits, Instant::now());
    let mut waiting = setup.calls.into_iter();
    let mut streams: Vec<Ask> = Vec::new();
    let most = setup.splits[0];
    drive(&mut near, &setup.splits, &mut ours, |connection, woken| {
        let mut moved = false;
        while connection.allowed().is_some_and(|allowed| connection.open_streams() < allowed as usize / 2)
            && let Some(call) = waiting.next()
        {
            streams.push(Ask::new(connection, call));
            moved = true;
        }
        streams.retain_mut(|stream| {
            if !stream.busy && !woken.contains(&stream.key) {
                return true;
            }
            let (did, over) = stream.step(connection, most);
            stream.busy = did;
            moved |= did;
            if over {
                connection.let_go(stream.key);
            }
            !over
        });
        if waiting.len() == 0 && streams.is_empty() && !connection.is_leaving() {
            connection.leave();
            moved = true;
        }
        moved
    })
    .await;
    assert_eq!(ours.fault(), None);
    assert!(streams.is_empty() && ours.is_done(), "all was answered");
    ours.assert_sound();
    assert!(ours.is_empty(), "streams are left");
    drop(near);
    server.await.unwrap();
}

/// How the `h2` crate answers.
async fn echo(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let mut answer = Response::new(());
    answer.headers_mut().insert("x-field", request.headers()["x-field"].clone());
    let early = match request.uri().path() {
        "/refused" => return respond.send_reset(Reason::INTERNAL_ERROR),
        path => path == "/early",
    };
    let Ok(mut out) = respond.send_response(answer, early) else { return };
    if early {
        return;
    }
    let mut body = request.into_body();
    while let Some(Ok(mut part)) = body.data().await {
        let _ = body.flow_control().release_capacity(part.len());
        while !part.is_empty() {
            out.reserve_capacity(part.len());
            let Some(Ok(room)) = poll_fn(|cx| out.poll_capacity(cx)).await else { return };
            let _ = out.send_data(part.split_to(room.min(part.len())), false);
        }
    }
    let _ = match body.trailers().await {
        Ok(Some(trailers)) => out.send_trailers(trailers),
        Ok(None) => out.send_data(Bytes::new(), true),
        Err(_) => return,
    };
}

fn any_call() -> impl Strategy<Value = Call> {
    let parts = prop_oneof![
        3 => prop::collection::vec(0..2000usize, 0..5),
        1 => prop::collection::vec(0..40_000usize, 0..3),
    ];
    let field = prop_oneof![8 => 0..100usize, 1 => 0..40_000usize];
    let fate = prop_oneof![
        6 => Just(Fate::Whole),
        1 => Just(Fate::Cancelled),
        1 => Just(Fate::Refused),
        1 => Just(Fate::Early),
    ];
    (parts, field, any::<bool>(), fate).prop_map(|(parts, field, trailers, fate)| Call {
        parts,
        field,
        trailers,
        fate,
    })
}

fn any_setup() -> impl Strategy<Value = Setup> {
    let windows = (prop_oneof![1..2000u32, 1..200_000u32], 65_535..1_000_000u32);
    let ours = (65_535..200_000u32, 65_535..1_000_000u32, 1000..200_000usize);
    (
        prop::collection::vec(any_call(), 1..12),
        windows,
        ours,
        prop_oneof![Just(16_384), 16_384..100_000u32],
        1..12u32,
        // At least the preface: the `h2` crate waits until it is written.
        64..100_000usize,
        prop::collection::vec(prop_oneof![1..30usize, 1..40_000usize], 1..6),
    )
        .prop_map(|(calls, windows, (stream_window, window, unsent), frame, streams, pipe, splits)| {
            Setup {
                calls,
                limits: Limits { stream_window, window, unsent, ..Limits::default() },
                windows,
                frame,
                streams,
                pipe,
                splits,
            }
        })
}

/// Runs it on a clock that jumps when nobody has anything to do: whoever waits for ever is found at once.
fn run(work: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let work = async { tokio::time::timeout(Duration::from_secs(1000), work).await };
    LocalSet::new().block_on(&runtime, work).expect("nobody waits for ever");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn another_implementation_is_served(setup in any_setup()) {
        run(serves(setup));
    }

    #[test]
    fn another_implementation_is_called(setup in any_setup()) {
        run(calls(setup));
    }
}
