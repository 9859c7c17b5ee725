//! A caller that speaks HTTP/2, and an endpoint that speaks HTTP/1: one stream, one exchange on a connection of its
//! own, which is kept for the next one.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use lighter_migrate::Ended;

use self::answer::{Answer, Connection, Download};
use self::upload::{Replay, Upload};
use super::heads::{self, Sized};
use crate::balance::{Avoid, Endpoint, Outcome, Picked};
use crate::buf::BUFFER_BYTES;
use crate::error::{Cause, ProxyError};
use crate::http::CROWDED;
use crate::http::h1::head::Asked;
use crate::http::h1::pool::{Pool, Upstream};
use crate::http::h2::body::grpc_status;
use crate::http::h2::call::Call;
use crate::http::h2::exchange::{
    Interims, aborted, admitted, has_moved, is_cut, journaled, moves_away, moves_on, watched,
};
use crate::http::h2::fields::Fields;
use crate::http::h2::limits::Standing;
use crate::http::h2::retry::Weighed;
use crate::http::hop::{self, Kind};
use crate::http::stream::Stream;
use crate::io;
use crate::link;
use crate::stateful::moved::Keeps;

mod answer;
mod upload;

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
            && let Some(keeps) = Keeps::take(&mut call.keeps, &mut call.attempts, whole)
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
    call.sent = true;
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
    let mut cut = call.cut(picked);

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
        if is_cut(&mut cut, cx) {
            return Poll::Ready(Err(moves_away()));
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
            if unread {
                if picked.has_state() {
                    // It is not known, and does no harm.
                    let _ = call.ended(Ended::Lost, false);
                }
                return Err(error.safe());
            }
            return Err(error);
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
    if picked.is_held()
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
        if is_cut(&mut cut, cx) {
            return Poll::Ready(Err(moves_away()));
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
            if !download.trailers.is_empty() {
                picked.endpoint.hear_all(&mut download.trailers);
                // Its end is to be said, too, where nothing is left of them for callers.
                let _ = match download.trailers.is_empty() {
                    true => respond.send_data(Bytes::new(), true),
                    false => respond.send_trailers(&download.trailers),
                };
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
        io::Stream::Link(exchange) if Keeps::is_said_framed(&mut call.keeps, call.attempts) => {
            exchange.keeps()
        }
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
