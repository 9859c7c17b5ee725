//! A caller that speaks HTTP/2, and an endpoint that speaks HTTP/1: one stream, one exchange on a connection of its
//! own, which is kept for the next one.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::heads::{self, Sized};
use crate::balance::{Avoid, Endpoint, Outcome, Picked};
use crate::buf::{BUFFER_BYTES, Buffer};
use crate::error::{Cause, ProxyError, Retry};
use crate::http::CROWDED;
use crate::http::h1::body::{Body, Step};
use crate::http::h1::head::{self, Asked};
use crate::http::h1::pool::{Pool, Upstream};
use crate::http::h2::body::grpc_status;
use crate::http::h2::call::Call;
use crate::http::h2::exchange::{
    Interims, aborted, admitted, has_moved, journaled, moves_on, too_large, watched,
};
use crate::http::h2::fields::{Fields, ResponseHead};
use crate::http::h2::limits::Standing;
use crate::http::h2::retry::Weighed;
use crate::http::hop::{self, Kind};
use crate::http::stream::{Read, Stream};
use crate::io;
use crate::link;
use crate::link::frame::{Code, Cut};
use crate::mirror::{self, Copy};
use crate::retry::{Came, REPLAY};
use crate::stateful::moved::Keeps;

/// Most bytes of a request that wait for the endpoint's socket.
const WRITE_AHEAD: usize = 32 * 1024;

/// Serves one stream by an endpoint that speaks HTTP/1.
pub(crate) async fn exchange(call: &mut Call<'_>, respond: &Stream) -> Result<(), ProxyError> {
    call.connects = true;
    let mut avoid: Option<Avoid> = None;
    let mut replay = Replay::new(call.state.retries.repeats(), call.copy.take());
    call.limits.start(call.downstream).await;
    loop {
        let mut picked = call.pick(avoid.as_ref(), || respond.is_end() && replay.is_empty())?;
        picked.needs_connection().map_err(|cause| ProxyError::new(cause, CROWDED))?;
        if picked.waits() {
            admitted(call, &mut picked, respond).await?;
        }
        call.limits.try_begins();
        call.tally.endpoint = Some(picked.endpoint.address);
        let sent = Instant::now();
        let error = match attempt(call, &picked, respond, &mut replay).await {
            Ok(outcome) => {
                picked.carried((call.tally.bytes_in, call.tally.bytes_out));
                picked.finish(outcome, call.latency(sent), Instant::now());
                return Ok(());
            }
            Err(error) => error,
        };
        let whole = replay.is_whole();
        if has_moved(&error)
            && let Some(keeps) = Keeps::take(&mut call.keeps, whole)
        {
            Box::pin(moves_on(call, (picked, keeps), respond)).await?;
            continue;
        }
        let again = call.again(picked, error, sent, whole)?;
        again.wait(call, respond).await?;
        avoid = again.avoid;
    }
}

async fn attempt(
    call: &mut Call<'_>,
    picked: &Picked,
    respond: &Stream,
    replay: &mut Replay,
) -> Result<Outcome, ProxyError> {
    let upstream = connect(call, picked, respond).await?;
    if call.keeps.is_some() {
        replay.keep();
    }
    let reused = upstream.reused;
    let head_only = call.head.method() == b"HEAD";
    let sized = match () {
        () if respond.is_end() && replay.is_empty() => Sized::Empty,
        () if call.head.fields.of(Kind::ContentLength).is_some() => Sized::Length,
        () => Sized::Chunked,
    };
    let mut upload = Upload {
        from: respond,
        out: BytesMut::with_capacity(1024),
        unreleased: replay.unreleased(),
        sized,
        bytes: replay.bytes,
        most: call.max_body,
        ended: sized == Sized::Empty || replay.ended,
        failed: false,
        replay,
    };
    heads::put_request(&mut upload.out, &call.head, &picked.endpoint.name, sized);
    upload.out.put_slice(upload.replay.text());
    let mut connection = Connection {
        upstream,
        buffer: None,
        scanned: 0,
        most: call.downstream.context.worker.shared.config.max_head_bytes.min(BUFFER_BYTES),
        asked: Asked { head: head_only, upgrade: false },
    };
    let (downstream, mut interims) = (call.downstream, Interims::default());

    let limits = &mut call.limits;
    let answered = poll_fn(|cx| {
        let moved = match upload.poll(&mut connection.upstream, cx) {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(moved)) => moved,
            Poll::Pending => false,
        };
        loop {
            match connection.poll_head(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(Answer { mut response, .. })) if response.status < 200 => {
                    interims.pass(downstream, &mut response)?;
                    let _ = respond.send_head(&response, false);
                }
                Poll::Ready(answer) => return Poll::Ready(answer),
            }
        }
        if respond.poll_cut(cx).is_ready() {
            return Poll::Ready(Err(aborted()));
        }
        let standing = || Standing { owed: upload.is_owed(cx), untaken: false, bytes: upload.bytes };
        limits.check(moved, standing).map(Err)
    })
    .await;
    call.tally.bytes_in = upload.bytes;
    let Answer { mut response, body, keep_alive } = match answered {
        Ok(answer) => answer,
        Err(error) => {
            // A kept connection that was closed while it rested: the request may be sent again if that is harmless.
            let unread = reused
                && sized == Sized::Empty
                && error.cause == Cause::UpstreamClosed
                && hop::is_idempotent(call.head.method());
            upload.give_up();
            return Err(if unread { error.safe() } else { error });
        }
    };
    let (whole, vouched) = (upload.replay.is_whole(), picked.endpoint.link().is_some());
    let outcome = match call.weigh(Weighed { head: &response, end: body.is_done(), whole, vouched }) {
        Ok(outcome) => outcome,
        Err(error) => {
            upload.give_up();
            return Err(error);
        }
    };
    upload.replay.forget();
    call.keeps = None;
    if picked.is_journaled()
        && let Err(error) = journaled(call, picked, respond).await
    {
        upload.give_up();
        return Err(error);
    }
    call.tally.latency = call.began.elapsed();

    call.finish_head(&mut response, picked)?;
    call.tally.status = response.status;
    if call.grpc && body.is_done() {
        call.tally.grpc_status = grpc_status(&response.fields);
    }
    let end = body.is_done();
    respond.send_head(&response, end).map_err(|_| aborted())?;
    let mut download = Download {
        to: respond,
        body,
        bytes: 0,
        pending: Bytes::new(),
        trailers: Fields::default(),
        done: end,
    };
    let limits = &mut call.limits;
    let ended = poll_fn(|cx| {
        let mut moved = match upload.poll(&mut connection.upstream, cx) {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(moved)) => moved,
            Poll::Pending => false,
        };
        let before = download.bytes;
        if let Poll::Ready(ended) = download.poll(&mut connection, cx) {
            return Poll::Ready(ended);
        }
        moved |= download.bytes > before;
        if respond.poll_cut(cx).is_ready() {
            return Poll::Ready(Err(aborted()));
        }
        let standing = || Standing {
            owed: upload.is_owed(cx),
            untaken: !download.pending.is_empty(),
            bytes: upload.bytes + download.bytes,
        };
        limits.check(moved, standing).map(Err)
    })
    .await;
    call.tally.bytes_in = upload.bytes;
    call.tally.bytes_out = download.bytes;
    if call.grpc && !download.trailers.is_empty() {
        call.tally.grpc_status = grpc_status(&download.trailers);
    }
    let whole = upload.ended && upload.out.is_empty() && !upload.failed;
    match ended {
        Ok(()) => {
            picked.endpoint.hear_all(&mut download.trailers);
            if !download.trailers.is_empty() {
                let _ = respond.send_trailers(&download.trailers);
            }
            if keep_alive && whole && connection.is_empty() {
                keep(call, &picked.endpoint, connection.upstream);
            }
            Ok(outcome)
        }
        Err(error) => {
            respond.cut(&error, None);
            Err(error)
        }
    }
}

/// A kept connection, or a new one.
async fn connect(call: &mut Call<'_>, picked: &Picked, respond: &Stream) -> Result<Upstream, ProxyError> {
    let endpoint = &*picked.endpoint;
    let worker = &call.downstream.context.worker;
    let now = tokio::time::Instant::now();
    let kept = poll_fn(|cx| Poll::Ready(worker.http1.borrow_mut().take(endpoint.id, now, cx))).await;
    if let Some(kept) = kept {
        call.keeps = None;
        return Ok(kept);
    }
    let direction = picked.direction(call.downstream.context.direction);
    let dialled = link::dial::exchange(worker, direction, endpoint, call.policy.connect_timeout);
    let mut upstream = watched(&mut call.limits, respond, dialled).await??;
    match &mut upstream.io.stream {
        // What is framed here as it goes takes more than its content, of which it is known how much is kept.
        io::Stream::Link(exchange) if Keeps::is_said_framed(&mut call.keeps) => exchange.keeps(),
        io::Stream::Link(_) => {}
        // It would not come back.
        _ => call.keeps = None,
    }
    Ok(upstream)
}

fn keep(call: &Call<'_>, endpoint: &Endpoint, upstream: Upstream) {
    let worker = &call.downstream.context.worker;
    Pool::keep(worker, endpoint.id, upstream, call.policy, tokio::time::Instant::now());
}

/// The request's body on its way to the endpoint.
struct Upload<'a> {
    from: &'a Stream,
    /// What is to be written: the head, then framed content.
    out: BytesMut,
    /// Content in `out`, whose window is given back when it is written.
    unreleased: usize,
    sized: Sized,
    bytes: u64,
    /// Most of them.
    most: u64,
    /// Everything is in `out`.
    ended: bool,
    /// The endpoint takes no more. What it makes of that, its answer tells.
    failed: bool,
    replay: &'a mut Replay,
}

/// What was read of a request's body, framed, so that it can be sent again.
#[derive(Default)]
struct Replay {
    /// As long as there is room for all of it. None: it is not kept.
    text: Option<Vec<u8>>,
    /// Something was read.
    begun: bool,
    /// All was read.
    ended: bool,
    bytes: u64,
    /// Content whose window is to be given back.
    unreleased: usize,
    /// A copy that is made of what is read.
    copy: Option<Box<Copy>>,
}

impl Replay {
    fn new(keeps: bool, copy: Option<Box<Copy>>) -> Self {
        Replay { text: keeps.then(Vec::new), copy, ..Replay::default() }
    }

    /// Whether nothing was read.
    fn is_empty(&self) -> bool {
        !self.begun
    }

    /// Whether all that was read can be sent again.
    fn is_whole(&self) -> bool {
        !self.begun || self.text.is_some()
    }

    fn text(&self) -> &[u8] {
        self.text.as_deref().unwrap_or_default()
    }

    fn unreleased(&mut self) -> usize {
        std::mem::take(&mut self.unreleased)
    }

    /// Something was read, and written down as `text`.
    fn push(&mut self, text: &[u8]) {
        self.begun = true;
        match &mut self.text {
            Some(kept) if kept.len() + text.len() <= REPLAY => kept.extend_from_slice(text),
            _ => self.text = None,
        }
    }

    /// It is kept from its beginning, where that is to come.
    fn keep(&mut self) {
        if !self.begun {
            self.text.get_or_insert_default();
        }
    }

    /// There will be no other try.
    fn forget(&mut self) {
        self.text = None;
    }
}

impl Upload<'_> {
    /// Whether the caller owes more of it.
    fn is_owed(&self, cx: &Context<'_>) -> bool {
        !self.ended && !self.failed && self.out.is_empty() && self.from.readable(cx) == 0
    }

    /// Writes what can be written. Ready when that is all there is for ever, or when the caller cut the body.
    fn poll(&mut self, upstream: &mut Upstream, cx: &mut Context<'_>) -> Poll<Result<bool, ProxyError>> {
        let mut moved = false;
        while !self.failed {
            while !self.out.is_empty() {
                match Pin::new(&mut upstream.io.stream).poll_write(cx, &self.out) {
                    Poll::Ready(Ok(written)) => {
                        moved = true;
                        self.out.advance(written);
                    }
                    Poll::Ready(Err(_)) => {
                        self.failed = true;
                        return Poll::Ready(Ok(moved));
                    }
                    Poll::Pending => return Poll::Ready(Ok(moved)),
                }
            }
            let released = std::mem::take(&mut self.unreleased);
            if released > 0 {
                self.from.release(released);
            }
            if self.ended {
                mirror::send(&mut self.replay.copy);
                return Poll::Ready(Ok(moved));
            }
            while self.out.len() < WRITE_AHEAD && !self.ended {
                match self.from.poll_read(WRITE_AHEAD, cx) {
                    Poll::Ready(Read::Data { part, .. }) => {
                        if self.bytes + part.len() as u64 > self.most {
                            return Poll::Ready(Err(too_large()));
                        }
                        mirror::add(&mut self.replay.copy, &part);
                        self.put(&part);
                    }
                    Poll::Ready(Read::Trailers(trailers)) => self.put_end(&trailers),
                    Poll::Ready(Read::End) => self.put_end(&Fields::default()),
                    Poll::Ready(Read::Cut(_)) => return Poll::Ready(Err(aborted())),
                    Poll::Pending if self.out.is_empty() => return Poll::Ready(Ok(moved)),
                    Poll::Pending => break,
                }
            }
        }
        Poll::Ready(Ok(moved))
    }

    /// The try is given up. What was read is in the replay.
    fn give_up(&mut self) {
        self.replay.unreleased += std::mem::take(&mut self.unreleased);
        (self.replay.bytes, self.replay.ended) = (self.bytes, self.ended);
    }

    fn put(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.out.len();
        self.bytes += bytes.len() as u64;
        self.unreleased += bytes.len();
        if self.sized == Sized::Chunked {
            self.out.put_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
            self.out.put_slice(bytes);
            self.out.put_slice(b"\r\n");
        } else {
            self.out.put_slice(bytes);
        }
        self.replay.push(&self.out[start..]);
    }

    fn put_end(&mut self, trailers: &Fields) {
        self.ended = true;
        if self.sized != Sized::Chunked {
            return;
        }
        let start = self.out.len();
        self.out.put_slice(b"0\r\n");
        for field in trailers.iter() {
            if hop::allowed_in_trailers(field.name) {
                heads::put_field(&mut self.out, field.name, field.value);
            }
        }
        self.out.put_slice(b"\r\n");
        self.replay.push(&self.out[start..]);
    }
}

/// The endpoint's connection, read side.
struct Connection {
    upstream: Upstream,
    /// Held only while bytes are in it.
    buffer: Option<Buffer>,
    /// So much of the buffer was found to be no whole head.
    scanned: usize,
    /// Most bytes of a head.
    most: usize,
    asked: Asked,
}

struct Answer {
    response: ResponseHead,
    body: Body,
    keep_alive: bool,
}

impl Connection {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, ProxyError>> {
        loop {
            if let Some(answer) = self.head()? {
                return Poll::Ready(Ok(answer));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                let error = ProxyError::new(Cause::UpstreamClosed, "the upstream closed before it answered");
                return Poll::Ready(Err(error.after(Came::Broken)));
            }
        }
    }

    /// The head that was read, if it is whole.
    fn head(&mut self) -> Result<Option<Answer>, ProxyError> {
        let Some(buffer) = &mut self.buffer else { return Ok(None) };
        let bytes = buffer.filled();
        if self.scanned > 0 && bytes.len() < self.most && !head::may_end(bytes, self.scanned) {
            self.scanned = bytes.len();
            return Ok(None);
        }
        let mut room = head::room();
        let parsed = head::response(bytes, &mut room, self.asked)
            .map_err(|refusal| ProxyError::new(refusal.cause, refusal.detail))?;
        match parsed {
            Some(parsed) if parsed.len <= self.most => {
                let answer = Answer {
                    response: heads::response(&parsed)?,
                    body: Body::new(parsed.framing),
                    keep_alive: parsed.keep_alive,
                };
                let len = parsed.len;
                drop(room);
                buffer.consume(len);
                self.scanned = 0;
                Ok(Some(answer))
            }
            None if bytes.len() < self.most => {
                self.scanned = bytes.len();
                Ok(None)
            }
            _ => Err(ProxyError::new(Cause::UpstreamMalformed, "the answer's head is larger than the limit")),
        }
    }

    /// Reads what is there; 0 at the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ProxyError>> {
        let mut buffer = self.buffer.take().unwrap_or_else(Buffer::take);
        buffer.compact();
        let read = buffer.poll_read(&mut self.upstream.io, cx);
        if !buffer.is_empty() {
            self.buffer = Some(buffer);
        }
        read.map(|read| match read {
            Ok(count) => Ok(count),
            Err(error) => {
                let detail = "the upstream broke the connection";
                Err(match link::stream::cut_in(&error) {
                    // It was not executed.
                    Some(Cut { code: Code::Refused, cause }) => {
                        ProxyError::new(cause.unwrap_or(Cause::UpstreamClosed), detail).safe()
                    }
                    _ => {
                        ProxyError::new(Cause::UpstreamClosed, detail).with_source(error).after(Came::Broken)
                    }
                })
            }
        })
    }

    fn is_empty(&self) -> bool {
        self.buffer.as_ref().is_none_or(Buffer::is_empty)
    }
}

/// The answer's body on its way to the caller.
struct Download<'a> {
    to: &'a Stream,
    body: Body,
    bytes: u64,
    /// Content that waits for the caller's window.
    pending: Bytes,
    trailers: Fields,
    done: bool,
}

impl Download<'_> {
    fn poll(&mut self, from: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        while !self.done {
            while !self.pending.is_empty() {
                let Ok(granted) = ready!(self.to.poll_capacity(self.pending.len(), cx)) else {
                    return Poll::Ready(Err(aborted()));
                };
                let chunk = self.pending.split_to(granted);
                self.bytes += chunk.len() as u64;
                self.done = self.pending.is_empty() && self.body.is_done() && self.trailers.is_empty();
                if self.to.send_data(chunk, self.done).is_err() {
                    return Poll::Ready(Err(aborted()));
                }
            }
            if self.done {
                break;
            }
            if self.body.is_done() {
                self.done = true;
                if self.trailers.is_empty() && self.to.send_data(Bytes::new(), true).is_err() {
                    return Poll::Ready(Err(aborted()));
                }
                break;
            }
            if from.is_empty() || !self.step(from)? {
                ready!(self.fill(from, cx))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Looks at what was read. False: more bytes are needed.
    fn step(&mut self, from: &mut Connection) -> Result<bool, ProxyError> {
        let Some(buffer) = &mut from.buffer else { return Ok(false) };
        let bytes = buffer.filled();
        let step = self
            .body
            .step(bytes)
            .map_err(|refusal| ProxyError::new(Cause::UpstreamMalformed, refusal.detail))?;
        let count = match step {
            Step::Data(count) => {
                self.pending = Bytes::copy_from_slice(&bytes[..count]);
                count
            }
            Step::Framing(count) | Step::End(count) => count,
            Step::Trailer(line) => {
                let (name, value) = line.split(bytes);
                if line.passes {
                    self.trailers.push_lower(name, value);
                }
                line.len
            }
            Step::More => return Ok(false),
        };
        buffer.consume(count);
        if buffer.is_empty() {
            from.buffer = None;
        }
        Ok(true)
    }

    fn fill(&mut self, from: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        let read = match ready!(from.poll_fill(cx)) {
            Ok(read) => read,
            // What has begun cannot be asked for again.
            Err(error) => {
                let error = ProxyError { cause: Cause::UpstreamTruncated, retry: Retry::Never, ..error };
                return Poll::Ready(Err(error));
            }
        };
        if read > 0 {
            return Poll::Ready(Ok(()));
        }
        if !self.body.ends_with_connection() {
            let error = ProxyError::new(Cause::UpstreamTruncated, "the upstream closed within the answer");
            return Poll::Ready(Err(error));
        }
        self.body = Body::Done;
        Poll::Ready(Ok(()))
    }
}
