//! A caller that speaks HTTP/1, and endpoints that speak HTTP/2: the connection and its exchanges, one after the
//! other.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

use bytes::BufMut;
use lighter_migrate::Attempts;
use tokio::time::Sleep;

use self::upload::Upload;
use super::client::{Client, Framed, Head, put_response};
use super::download::{Download, WRITE_AHEAD};
use crate::balance::{Avoid, Outcome, Picked};
use crate::drain::Phase;
use crate::error::{Cause, ProxyError};
use crate::guard::client::Slow;
use crate::http::h1::body::Body;
use crate::http::h1::head::Refusal;
use crate::http::h2::body::grpc_status;
use crate::http::h2::call::{Call, Tally};
use crate::http::h2::deadline::Deadline;
use crate::http::h2::exchange::{
    Interims, aborted, account, has_moved, is_cut, is_ours, moves_away, prepare,
};
use crate::http::h2::fields::ResponseHead;
use crate::http::h2::head::Ordered;
use crate::http::h2::limits::{Limits, Standing};
use crate::http::h2::retry::{Crowded, Weighed};
use crate::http::h2::way::Way;
use crate::http::h2::{Downstream, answer, head};
use crate::http::hop::Kind;
use crate::http::local::{self, ErrorAnswer};
use crate::http::stream::Stream;
use crate::http::{Context, HEAD_TIMEOUT, LINGER, unpicked};
use crate::io::Io;
use crate::retry::Tries;
use crate::stateful::moved::Keeps;
use crate::telemetry::Spoken;

mod upload;

/// Serves one HTTP/1 connection whose requests go to endpoints that speak HTTP/2, until it ends.
pub(crate) async fn serve(io: Io, context: Context) {
    let most = context.worker.shared.config.max_head_bytes;
    let downstream = Rc::new(Downstream::new(context, Rc::default()));
    let client = Client::new(io, most);
    let mut connection = Connection { client, downstream: downstream.clone(), timer: None };
    while let Some(head) = connection.next(&downstream).await {
        let after = match head {
            Ok(head) => connection.exchange(&downstream, head).await,
            Err(refusal) => {
                let refused = ErrorAnswer { cause: refusal.cause, detail: refusal.detail, grpc: false };
                connection.client.output().put_slice(&refused.http1(false, true));
                After::Linger
            }
        };
        match after {
            After::Next => {}
            After::Close => return connection.close().await,
            After::Linger => return connection.linger().await,
            After::Reset => return connection.client.io.reset_on_close(),
        }
    }
}

/// What becomes of the client's connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Next,
    /// It ends.
    Close,
    /// It ends, but the client may be sending still.
    Linger,
    /// It is cut.
    Reset,
}

struct Connection {
    client: Client,
    downstream: Rc<Downstream>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// The next request's head. `None`: the connection has ended.
    async fn next(&mut self, downstream: &Downstream) -> Option<Result<Head, Refusal>> {
        // Whether the client was resting when its time was set.
        let mut limit: Option<(bool, Option<Deadline>)> = None;
        poll_fn(|cx| {
            match self.client.poll_flush(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Ready(Ok(())) => {
                    if let Poll::Ready(head) = self.client.poll_head(cx) {
                        return Poll::Ready(head);
                    }
                }
                Poll::Pending => {}
            }
            let resting = self.client.is_resting();
            if limit.as_ref().is_none_or(|(before, _)| *before != resting) {
                let guard = &downstream.context.worker.shared.config.guard;
                let time = if resting { downstream.rest() } else { Some(guard.head_timeout) };
                let end = time.map(|time| downstream.deadlines.add(Instant::now() + time, cx.waker()));
                limit = Some((resting, end));
            }
            let over = limit.as_ref().and_then(|(_, end)| end.as_ref()).is_some_and(Deadline::is_due);
            let phase = self.phase(cx);
            let rests = || resting && !self.client.io.has_arrived();
            match phase {
                Phase::Draining if rests() => Poll::Ready(None),
                _ if downstream.context.ticket.is_let_go(rests) => Poll::Ready(None),
                Phase::Closed => Poll::Ready(None),
                _ if over && resting => Poll::Ready(None),
                _ if over => Poll::Ready(self.too_slow()),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// The client has not sent the head that it began, or not taken the answer before.
    fn too_slow(&mut self) -> Option<Result<Head, Refusal>> {
        let slow = if self.client.output().is_empty() { Slow::Head } else { Slow::Answer };
        slow.count();
        (slow == Slow::Head).then_some(Err(Refusal { cause: Cause::ClientTimeout, detail: slow.detail() }))
    }

    /// Writes what is there, or gives up.
    async fn flush(&mut self) {
        self.within(HEAD_TIMEOUT, |client, cx| client.poll_flush(cx).map(|_| ())).await;
    }

    /// The same, and ends the connection. Within TLS that has to be said, or it is a cut to the other side.
    async fn close(&mut self) {
        self.flush().await;
        if self.client.io.stream.plain().is_none() {
            let end = |client: &mut Client, cx: &mut Task<'_>| client.poll_end(cx);
            self.within(LINGER.0, end).await;
        }
    }

    /// The same, and listens for a while.
    async fn linger(&mut self) {
        self.flush().await;
        let mut left = LINGER.1;
        self.within(LINGER.0, |client, cx| client.poll_linger(&mut left, cx)).await;
    }

    /// Does `work` until it is done, `time` is over, or this process's time is.
    async fn within(&mut self, time: Duration, mut work: impl FnMut(&mut Client, &mut Task<'_>) -> Poll<()>) {
        let mut end: Option<Deadline> = None;
        poll_fn(|cx| {
            if work(&mut self.client, cx).is_ready() {
                return Poll::Ready(());
            }
            let deadlines = &self.downstream.deadlines;
            let end = end.get_or_insert_with(|| deadlines.add(Instant::now() + time, cx.waker()));
            let over = end.is_due();
            if self.phase(cx) == Phase::Closed || over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Where this process stands. The task is woken when that changes, and when a deadline is due.
    fn phase(&mut self, cx: &mut Task<'_>) -> Phase {
        self.downstream.deadlines.poll(&mut self.timer, cx);
        self.downstream.context.ticket.watch(cx.waker());
        self.downstream.context.ticket.phase()
    }

    /// One request's life.
    async fn exchange(&mut self, downstream: &Downstream, head: Head) -> After {
        let began = Instant::now();
        let Head { request: mut asked, mut body, minor, keep_alive } = head;
        let grpc = head::is_grpc(&asked.fields);
        let head_only = asked.method() == b"HEAD";
        let mut close = !keep_alive || downstream.context.ticket.is_to_end();
        let target = match downstream.target(&asked) {
            Ok(target) => target,
            Err(cause) => {
                let error = ProxyError::new(cause, head::misdirected(cause));
                self.answer(&error, grpc, head_only);
                return After::Linger;
            }
        };
        let destination = target.destination.clone();
        let routed = destination.route(&asked);
        let metrics = routed.as_ref().map_or(&destination.unrouted, |(_, state)| &state.metrics);
        metrics.begin(Spoken::Http1);
        let Some((route, state)) = routed else {
            let error = ProxyError::new(Cause::NoRoute, "no route matches");
            let (status, bytes_out) = self.answer(&error, grpc, head_only);
            let tally = Tally { status, bytes_out, ..Tally::default() };
            let named = (&asked, head::request_id(&asked.fields));
            account(downstream, metrics, named, Spoken::Http1, Some(error.cause), began, &tally);
            return After::Linger;
        };
        let received = (!state.chain.is_empty()).then(|| asked.clone());
        let policy = destination.policy();
        let placing = state.asked(&asked);
        let span = head::begin_span(&mut asked.fields, downstream.context.direction);
        let forwarded = state.gate.is_some() && downstream.is_forwarded(&asked);
        // Of what comes in chunks more may be read ahead than its caller keeps.
        let is_kept = state.gate.is_some()
            && self.client.io.stream.is_link()
            && (body.is_done() || asked.fields.of(Kind::ContentLength).is_some())
            && head::is_kept(&asked);
        let (prepared, Ordered { orders, copy }) =
            prepare(downstream, &mut asked, &target, (state, route), forwarded);
        let patience = &downstream.context.worker.shared.config.guard;
        let limits =
            Limits::new(state.request_timeout, policy.idle_timeout, grpc, &asked.fields, began, patience)
                .each(state.longest_try(target.pinned.is_none()));
        let mut call = Call {
            downstream,
            state,
            policy,
            pinned: target.pinned.as_ref(),
            head: asked,
            grpc,
            began,
            max_body: orders.max_body,
            copy,
            limits,
            tally: Tally { span, ..Tally::default() },
            crowded: Crowded::default(),
            tries: Tries::default(),
            session: None,
            placing,
            on_device: false,
            kept: None,
            forwarded,
            is_kept,
            keeps: None,
            elsewhere: None,
            connects: false,
            decided: None,
            sent: false,
            attempts: Attempts::default(),
        };
        let prepared = match orders.delay {
            Duration::ZERO => prepared,
            delay => Box::pin(self.hold(&mut call, &body, delay)).await.and(prepared),
        };
        let mut refusal = None;
        let ended = match prepared {
            Ok(None) => self.relay(&mut call, &mut body, minor, &mut close).await,
            Ok(Some(local)) => {
                close |= !body.is_done();
                (call.tally.status, call.tally.grpc_status) = (local.status, local.grpc_status);
                refusal = local.refusal.map(Cause::from);
                self.client.output().put_slice(&local::filter_answer_http1(&local, close));
                Ok(())
            }
            Err(error) => Err(error),
        };
        let ended = ended.map_err(|error| call.failed(error));
        let after = match &ended {
            Ok(()) if !close && body.is_done() => After::Next,
            Ok(()) if body.is_done() && self.client.has_no_more() => After::Close,
            // A request that was not read to its end stands before the next one.
            Ok(()) => After::Linger,
            Err(error) if call.tally.status != 0 || error.cause == Cause::DownstreamAborted => After::Reset,
            Err(error) if error.cause == Cause::Moved && self.client.io.refuse(Cause::Moved) => After::Reset,
            Err(error) => {
                (call.tally.status, call.tally.bytes_out) = self.answer(error, grpc, head_only);
                After::Linger
            }
        };
        let cause = ended.err().map(|error| error.cause).or(refusal);
        let named = (received.as_ref().unwrap_or(&call.head), head::request_id(&call.head.fields));
        account(downstream, metrics, named, Spoken::Http1, cause, began, &call.tally);
        after
    }

    /// Waits because the route says so, as long as the client does and the limits allow.
    async fn hold(&mut self, call: &mut Call<'_>, body: &Body, delay: Duration) -> Result<(), ProxyError> {
        call.state.metrics.delayed();
        call.limits.start(call.downstream).await;
        self.watched(call, body, tokio::time::sleep(delay)).await?;
        call.began = Instant::now();
        Ok(())
    }

    fn answer(&mut self, error: &ProxyError, grpc: bool, head_only: bool) -> (u16, u64) {
        let answer = ErrorAnswer::of(error, grpc);
        self.client.output().put_slice(&answer.http1(head_only, true));
        (answer.status(), if head_only { 0 } else { answer.body().len() as u64 })
    }

    /// Resolves with `work`, unless the time is over, or the client goes away behind its request's `body`.
    async fn watched<F: Future>(
        &mut self,
        call: &mut Call<'_>,
        body: &Body,
        work: F,
    ) -> Result<F::Output, ProxyError> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if body.is_done() && self.client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(aborted()));
            }
            self.check(call, false, Standing::default, cx).map(Err)
        })
        .await
    }

    /// Sends the request to an endpoint, to others as far as it may be tried again, and streams the answer back.
    async fn relay(
        &mut self,
        call: &mut Call<'_>,
        body: &mut Body,
        minor: u8,
        close: &mut bool,
    ) -> Result<(), ProxyError> {
        let mut upload = Upload::new(body, call.max_body, call.copy.take());
        let mut avoid: Option<Avoid> = None;
        call.limits.start(call.downstream).await;
        loop {
            let mut picked = call.pick(avoid.as_ref(), || upload.empty)?;
            if picked.waits() {
                let admitted = self.watched(call, upload.body, Box::pin(picked.admitted())).await?;
                admitted.map_err(|cause| ProxyError::new(cause, unpicked(cause)))?;
                call.is_sent(&picked);
            }
            call.limits.try_begins();
            call.tally.endpoint = Some(picked.endpoint.address);
            let sent = Instant::now();
            let error = match self.attempt(call, &picked, &mut upload, minor, close).await {
                Ok(outcome) => {
                    picked.carried((call.tally.bytes_in, call.tally.bytes_out));
                    picked.finish(outcome, call.latency(sent), Instant::now());
                    return Ok(());
                }
                Err(error) => error,
            };
            if has_moved(&error)
                && let Some(keeps) = Keeps::take(&mut call.keeps, &mut call.attempts, upload.sent.is_some())
            {
                let finding = call.leaves(picked, keeps);
                let found = self.watched(call, upload.body, Box::pin(finding)).await?;
                call.found(found);
                continue;
            }
            let again = call.again(picked, error, sent, upload.sent.is_some())?;
            if !again.pause.is_zero() {
                self.watched(call, upload.body, tokio::time::sleep(again.pause)).await?;
            }
            avoid = again.avoid;
        }
    }

    async fn attempt(
        &mut self,
        call: &mut Call<'_>,
        picked: &Picked,
        upload: &mut Upload<'_>,
        minor: u8,
        close: &mut bool,
    ) -> Result<Outcome, ProxyError> {
        let way = Way::find(call.downstream, call.policy, picked);
        let way = self.watched(call, upload.body, way).await??;
        let stream = way.open(call, &picked.endpoint, upload.empty)?;
        upload.start();
        call.sent = true;
        let mut interims = Interims::default();
        let mut cut = call.cut(picked);
        let answered = poll_fn(|cx| match is_cut(&mut cut, cx) {
            true => Poll::Ready(Err(moves_away())),
            false => self.poll_answer(call, upload, &stream, &mut interims, minor, cx),
        })
        .await;
        call.tally.bytes_in = upload.bytes;
        let mut response = match answered {
            Ok(answered) => answered,
            Err(error) => {
                call.refused(&error, &way);
                if is_ours(&error) {
                    way.cancel(stream);
                }
                return Err(error);
            }
        };
        let end = stream.is_end();
        let whole = upload.sent.is_some();
        let outcome = match call.weigh(Weighed { head: &response, end, whole, vouched: way.is_link() }) {
            Ok(outcome) => outcome,
            Err(error) => {
                way.cancel(stream);
                return Err(error);
            }
        };
        if picked.is_held() {
            let waits = poll_fn(|cx| picked.poll_journaled(cx));
            let journaled = match self.watched(call, upload.body, waits).await {
                Ok(journaled) => journaled.map_err(|cause| ProxyError::new(cause, unpicked(cause))),
                Err(error) => Err(error),
            };
            if let Err(error) = journaled {
                way.cancel(stream);
                return Err(error);
            }
        }
        call.tally.latency = call.began.elapsed();
        upload.sent = None;
        call.keeps = None;

        call.finish_head(&mut response, picked)?;
        call.tally.status = response.status;
        if call.grpc && end {
            call.tally.grpc_status = grpc_status(&response.fields);
        }
        let head_only = call.head.method() == b"HEAD";
        // Whether the request will be read to its end is not known yet if it still runs.
        *close |= upload.running || !upload.body.is_done();
        let framed = put_response(self.client.output(), &response, (head_only, end), minor, *close);
        *close |= framed == Framed::Close;
        let mut download = Download::new(framed, &picked.endpoint, end);
        let ended = poll_fn(|cx| match is_cut(&mut cut, cx) {
            true => Poll::Ready(Err(moves_away())),
            false => self.poll_body(call, upload, &mut download, &stream, cx),
        })
        .await;
        call.tally.bytes_in = upload.bytes;
        call.tally.bytes_out = download.bytes;
        if call.grpc
            && let Some(trailers) = &download.trailers
        {
            call.tally.grpc_status = grpc_status(trailers);
        }
        if ended.as_ref().err().map_or(upload.running, is_ours) {
            way.cancel(stream);
        }
        ended.map(|()| outcome)
    }

    fn poll_answer(
        &mut self,
        call: &mut Call<'_>,
        upload: &mut Upload<'_>,
        stream: &Stream,
        interims: &mut Interims,
        minor: u8,
        cx: &mut Task<'_>,
    ) -> Poll<Result<ResponseHead, ProxyError>> {
        let before = upload.bytes;
        if let Poll::Ready(error) = upload.poll(&mut self.client, stream, cx) {
            return Poll::Ready(Err(error));
        }
        while let Poll::Ready(answer) = stream.poll_head(cx) {
            match answer {
                Ok(mut interim) if interim.status < 200 => {
                    interims.pass(call.downstream, &mut interim)?;
                    // A client of HTTP/1.0 does not know interim answers.
                    if minor == 1 {
                        put_response(self.client.output(), &interim, (false, true), minor, false);
                    }
                }
                answer => return Poll::Ready(answer.map_err(answer::before_head)),
            }
        }
        if let Poll::Ready(Err(_)) = self.client.poll_flush(cx) {
            return Poll::Ready(Err(aborted()));
        }
        if !upload.running && self.client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(aborted()));
        }
        let standing = Standing { owed: upload.is_owed(), untaken: false, bytes: upload.bytes };
        self.check(call, upload.bytes > before, || standing, cx).map(Err)
    }

    fn poll_body(
        &mut self,
        call: &mut Call<'_>,
        upload: &mut Upload<'_>,
        download: &mut Download<'_>,
        stream: &Stream,
        cx: &mut Task<'_>,
    ) -> Poll<Result<(), ProxyError>> {
        let before = (upload.bytes, download.bytes);
        if let Poll::Ready(error) = upload.poll(&mut self.client, stream, cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            if self.client.output().len() >= WRITE_AHEAD || download.ended {
                match self.client.poll_flush(cx) {
                    Poll::Ready(Ok(())) if download.ended => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(aborted())),
                    Poll::Pending => break,
                }
            }
            match download.poll(&mut self.client, stream, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if let Poll::Ready(Err(_)) = self.client.poll_flush(cx) {
                        return Poll::Ready(Err(aborted()));
                    }
                    break;
                }
            }
        }
        if !upload.running && self.client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(aborted()));
        }
        let standing = Standing {
            owed: upload.is_owed(),
            untaken: !self.client.output().is_empty(),
            bytes: upload.bytes + download.bytes,
        };
        self.check(call, (upload.bytes, download.bytes) != before, || standing, cx).map(Err)
    }

    /// Ready when the time is over, or this process's.
    fn check(
        &mut self,
        call: &mut Call<'_>,
        moved: bool,
        standing: impl FnOnce() -> Standing,
        cx: &mut Task<'_>,
    ) -> Poll<ProxyError> {
        if self.phase(cx) == Phase::Closed {
            return Poll::Ready(ProxyError::new(Cause::Draining, "this sidecar's time to drain is over"));
        }
        call.limits.check(moved, standing)
    }
}
