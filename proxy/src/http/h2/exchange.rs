//! One request's life: route, filter, pick, send, stream both ways, account.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use lighter_config::identity::Spiffe;
use lighter_config::snapshot::Protocol;
use lighter_filters::LocalAnswer;
use lighter_migrate::Attempts;

use super::body::{self, End, Pump, Upload};
use super::call::{Call, Tally};
use super::conn::TooLarge;
use super::fields::{RequestHead, ResponseHead};
use super::head::{Filtered, Ordered};
use super::limits::{Limits, Standing};
use super::retry::{Crowded, Weighed};
use super::way::Way;
use super::{Downstream, answer, head};
use crate::authorize;
use crate::balance::{Avoid, Outcome, Picked};
use crate::error::{Cause, ProxyError, Retry, Side};
use crate::http::bridge::to_http1;
use crate::http::hop::{Half, Kind};
use crate::http::stream::Stream;
use crate::http::{BODY_TOO_LARGE, unpicked};
use crate::mesh::{RouteState, Target};
use crate::retry::{self, Tries};
use crate::stateful::gate;
use crate::stateful::moved::Keeps;
use crate::telemetry::{self, Record, RouteMetrics, Spoken};

/// Most interim answers that pass before an answer. They wait in memory where the caller is slow, and no flow control
/// holds them back.
const MAX_INTERIMS: u32 = 32;

/// A request that came.
pub(crate) struct Arrived {
    /// Its head, or that it was too large to be kept.
    pub(crate) head: Result<RequestHead, TooLarge>,
    /// Its body comes on it, and its answer goes.
    pub(crate) stream: Stream,
    /// How long its caller waits, where it says so beside the head.
    pub(crate) left: Option<Duration>,
}

/// Serves one stream.
pub(crate) async fn serve(downstream: Rc<Downstream>, arrived: Arrived) {
    let began = Instant::now();
    let Arrived { head, stream: respond, left } = arrived;
    let mut head = match head {
        Ok(head) => head,
        Err(TooLarge) => {
            let error = ProxyError::new(Cause::HeadTooLarge, "the head is larger than the limit");
            answer::error(&respond, &error, false, false);
            return;
        }
    };
    let grpc = head::is_grpc(&head.fields);
    let head_only = head.method() == b"HEAD";
    let target = match head::unify_authority(&mut head).and_then(|()| downstream.target(&head)) {
        Ok(target) => target,
        Err(cause) => {
            let error = ProxyError::new(cause, head::misdirected(cause));
            answer::error(&respond, &error, grpc, head_only);
            return;
        }
    };
    let Target { destination, pinned, .. } = &target;
    let routed = destination.route(&head);
    let metrics = routed.as_ref().map_or(&destination.unrouted, |(_, state)| &state.metrics);
    let spoken = if grpc { Spoken::Grpc } else { Spoken::Http2 };
    metrics.begin(spoken);
    let Some((route, state)) = routed else {
        let error = ProxyError::new(Cause::NoRoute, "no route matches");
        let (status, bytes_out) = answer::error(&respond, &error, grpc, head_only);
        let tally = Tally { status, bytes_out, ..Tally::default() };
        let request_id = head::request_id(&head.fields);
        account(&downstream, metrics, (&head, request_id), spoken, Some(error.cause), began, &tally);
        return;
    };

    let received = (!state.chain.is_empty()).then(|| head.clone());
    let policy = destination.policy();
    let placing = state.asked(&head);
    let span = head::begin_span(&mut head.fields, downstream.context.direction);
    let forwarded = state.gate.is_some() && downstream.is_forwarded(&head);
    let is_kept = state.gate.is_some() && respond.is_link() && head::is_kept(&head);
    let (prepared, Ordered { orders, copy }) =
        prepare(&downstream, &mut head, &target, (state, route), forwarded);
    let patience = &downstream.context.worker.shared.config.guard;
    let limits = Limits::new(state.request_timeout, policy.idle_timeout, grpc, &head.fields, began, patience)
        .within(left)
        .each(state.longest_try(pinned.is_none()));
    let mut call = Call {
        downstream: &downstream,
        state,
        policy,
        pinned: pinned.as_ref(),
        head,
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
        delay => Box::pin(call.hold(&respond, delay)).await.and(prepared),
    };
    let mut refusal = None;
    let ended = match prepared {
        Ok(None) => match downstream.upstream(destination) {
            Protocol::Http => to_http1::exchange(&mut call, &respond).await,
            _ => relay(&mut call, &respond).await,
        },
        Ok(Some(local)) => {
            call.tally.status = answer::filtered(&respond, &local);
            call.tally.grpc_status = local.grpc_status;
            refusal = local.refusal.map(Cause::from);
            Ok(())
        }
        Err(error) => Err(error),
    };
    let ended = ended.map_err(|error| call.failed(error));
    if let Err(error) = &ended
        && call.tally.status == 0
        && error.cause != Cause::DownstreamAborted
        && !(error.cause == Cause::Moved && respond.refuse(Cause::Moved))
    {
        (call.tally.status, call.tally.bytes_out) = answer::error(&respond, error, grpc, head_only);
        call.tally.grpc_status = grpc.then(|| error.cause.grpc_status());
    }
    let cause = ended.err().map(|error| error.cause).or(refusal);
    let named = (received.as_ref().unwrap_or(&call.head), head::request_id(&call.head.fields));
    account(&downstream, metrics, named, spoken, cause, began, &call.tally);
}

/// What happens to a head before it is sent: what this hop takes away and adds, and the route's filters. Returns what they
/// answer in its stead, and what they want done first. `forwarded`: its caller was judged, and is named, where it came in.
pub(crate) fn prepare(
    downstream: &Downstream,
    head: &mut RequestHead,
    target: &Target,
    route: (&RouteState, &lighter_config::snapshot::Route),
    forwarded: bool,
) -> (Result<Option<LocalAnswer>, ProxyError>, Ordered) {
    match filter(downstream, head, target, route, forwarded) {
        Ok(Filtered { answer, ordered }) => (Ok(answer), ordered),
        Err(error) => (Err(error), Ordered::default()),
    }
}

fn filter(
    downstream: &Downstream,
    head: &mut RequestHead,
    target: &Target,
    (state, route): (&RouteState, &lighter_config::snapshot::Route),
    forwarded: bool,
) -> Result<Filtered, ProxyError> {
    let shared = &downstream.context.worker.shared;
    shared
        .guard
        .admit(shared, &target.destination.port.key, head)
        .map_err(|cause| ProxyError::new(cause, unpicked(cause)))?;
    let refusal = |cause| ProxyError::new(cause, "the request cannot be passed on");
    if head.method() == b"CONNECT" {
        return Err(refusal(Cause::Unsupported));
    }
    if target.bars(downstream.caller().is_some()) {
        return Err(ProxyError::new(Cause::PlaintextRefused, authorize::UNPROVEN));
    }
    if let Some(guard) = target.guard.as_ref().filter(|_| !forwarded) {
        guard
            .request(downstream.context.peer, downstream.caller(), head, head.authority())
            .map_err(|cause| ProxyError::new(cause, authorize::REFUSAL))?;
    }
    let direction = downstream.context.direction;
    head::strip(&mut head.fields, direction, Half::Request);
    if !forwarded {
        head::annotate(&mut head.fields, direction, &downstream.peer);
        if let Some(caller) = &downstream.vouched {
            head::vouch(&mut head.fields, caller.as_deref());
        }
    }
    if state.chain.is_empty() {
        return Ok(Filtered::default());
    }
    let vouched = forwarded.then(|| gate::vouched_for(head.fields.of(Kind::ClientCert)).to_owned());
    let caller = vouched.as_deref().unwrap_or_else(|| downstream.caller().map_or("", Spiffe::as_str));
    head::filter_request(&downstream.context.worker, (route, state), head, caller).map_err(refusal)
}

/// Sends the request to an endpoint that speaks HTTP/2, to others as far as it may be tried again, and streams the answer
/// back.
async fn relay(call: &mut Call<'_>, respond: &Stream) -> Result<(), ProxyError> {
    let mut upload = Upload::new(respond, call.max_body, call.copy.take());
    let mut avoid: Option<Avoid> = None;
    call.limits.start(call.downstream).await;
    let mut sent = call.began;
    loop {
        let mut picked = call.pick(avoid.as_ref(), || upload.is_empty())?;
        if picked.waits() {
            admitted(call, &mut picked, respond).await?;
            // No endpoint's time ran meanwhile.
            sent = Instant::now();
        }
        call.limits.try_begins();
        call.tally.endpoint = Some(picked.endpoint.address);
        let error = match attempt(call, &picked, &mut upload, respond).await {
            Ok(outcome) => {
                let now = Instant::now();
                picked.carried((call.tally.bytes_in, call.tally.bytes_out));
                picked.finish(outcome, call.latency(sent), now);
                call.tally.ended = Some(now);
                return Ok(());
            }
            Err(error) => error,
        };
        if has_moved(&error)
            && let Some(keeps) = Keeps::take(&mut call.keeps, &mut call.attempts, upload.can_replay())
        {
            Box::pin(moves_on(call, (picked, keeps), respond)).await?;
            sent = Instant::now();
            continue;
        }
        let again = call.again(picked, error, sent, upload.can_replay())?;
        again.wait(call, respond).await?;
        avoid = again.avoid;
        sent = Instant::now();
    }
}

/// One try. An error leaves `upload` as it can be used for another one.
async fn attempt(
    call: &mut Call<'_>,
    picked: &Picked,
    upload: &mut Upload,
    respond: &Stream,
) -> Result<Outcome, ProxyError> {
    let way = Way::find(call.downstream, call.policy, picked);
    let way = watched(&mut call.limits, respond, way).await??;
    let stream = way.open(call, &picked.endpoint, upload.is_empty())?;
    upload.start();
    call.sent = true;
    let (downstream, began, mut interims) = (call.downstream, call.began, Interims::default());
    let mut cut = call.cut(picked);
    let answered = {
        let (limits, tally) = (&mut call.limits, &mut call.tally);
        poll_fn(|cx| {
            if let Poll::Ready(error) = upload.poll(respond, &stream, cx) {
                return Poll::Ready(Err(error));
            }
            while let Poll::Ready(answer) = stream.poll_head(cx) {
                match answer {
                    Ok(mut interim) if interim.status < 200 => {
                        interims.pass(downstream, &mut interim)?;
                        // A caller that is gone is noticed below.
                        let _ = respond.send_head(&interim, false);
                    }
                    answer => return Poll::Ready(answer.map_err(answer::before_head)),
                }
            }
            if respond.poll_cut(cx).is_ready() {
                return Poll::Ready(Err(aborted()));
            }
            if is_cut(&mut cut, cx) {
                return Poll::Ready(Err(moves_away()));
            }
            let moved = upload.moved();
            let standing =
                || Standing { owed: upload.is_owed(respond, cx), untaken: false, bytes: upload.bytes() };
            limits.check(moved, standing).map(Err)
        })
        .await
        .inspect(|_| tally.latency = began.elapsed())
    };
    call.tally.bytes_in = upload.bytes();
    let answered = match answered {
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
    let weighed = Weighed { head: &answered, end, whole: upload.can_replay(), vouched: way.is_link() };
    let outcome = match call.weigh(weighed) {
        Ok(outcome) => outcome,
        Err(error) => {
            way.cancel(stream);
            return Err(error);
        }
    };
    upload.forget();
    call.keeps = None;
    if picked.is_held()
        && let Err(error) = journaled(call, picked, respond).await
    {
        way.cancel(stream);
        return Err(error);
    }
    let answer = (answered, end, picked);
    pass(call, answer, (way, stream, cut), upload, respond).await.map(|()| outcome)
}

/// Passes the answer of an endpoint on, and what is left of the request. `end`: it has no body.
async fn pass(
    call: &mut Call<'_>,
    (mut answered, end, picked): (ResponseHead, bool, &Picked),
    (way, stream, mut cut): (Way, Stream, Option<Cut<'_>>),
    upload: &mut Upload,
    respond: &Stream,
) -> Result<(), ProxyError> {
    call.finish_head(&mut answered, picked)?;
    call.tally.status = answered.status;
    if call.grpc && end {
        call.tally.grpc_status = body::grpc_status(&answered.fields);
    }
    if respond.send_head(&answered, end).is_err() {
        way.cancel(stream);
        return Err(aborted());
    }
    drop(answered);
    let mut download = Pump::new(call.grpc, u64::MAX).hearing(&picked.endpoint);
    let ended = if end {
        Ok(())
    } else {
        let limits = &mut call.limits;
        poll_fn(|cx| {
            if let Poll::Ready(error) = upload.poll(respond, &stream, cx) {
                return Poll::Ready(Err((error, None)));
            }
            match download.poll(&stream, respond, cx) {
                Poll::Ready(End::Clean) => return Poll::Ready(Ok(())),
                Poll::Ready(End::Source(broken)) => {
                    return Poll::Ready(Err((answer::after_head(broken), Some(broken))));
                }
                Poll::Ready(End::Sink | End::TooLarge) => return Poll::Ready(Err((aborted(), None))),
                Poll::Pending => {}
            }
            if respond.poll_cut(cx).is_ready() {
                return Poll::Ready(Err((aborted(), None)));
            }
            if is_cut(&mut cut, cx) {
                return Poll::Ready(Err((moves_away(), None)));
            }
            let moved = upload.moved() | std::mem::take(&mut download.moved);
            let standing = || Standing {
                owed: upload.is_owed(respond, cx),
                untaken: stream.readable(cx) > 0,
                bytes: upload.bytes() + download.bytes,
            };
            limits.check(moved, standing).map(|error| Err((error, None)))
        })
        .await
    };
    call.tally.bytes_in = upload.bytes();
    call.tally.bytes_out = download.bytes;
    call.tally.grpc_status = call.tally.grpc_status.or(download.grpc_status);
    if ended.is_ok() && upload.is_done() {
        return Ok(());
    }
    // Either something broke, or the answer is whole before the request is: the rest of that is not wanted.
    if let Err((error, broken)) = &ended {
        respond.cut(error, *broken);
    }
    if ended.as_ref().err().is_none_or(|(error, _)| is_ours(error)) {
        way.cancel(stream);
    }
    ended.map_err(|(error, _)| error)
}

/// Resolves with `work`, unless the caller goes away or the time is over.
pub(crate) async fn watched<F: Future>(
    limits: &mut Limits<'_>,
    respond: &Stream,
    work: F,
) -> Result<F::Output, ProxyError> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if respond.poll_cut(cx).is_ready() {
            return Poll::Ready(Err(aborted()));
        }
        limits.check(false, Standing::default).map(Err)
    })
    .await
}

/// Holds an answer that is there until what it acknowledges is journaled.
#[cold]
pub(crate) async fn journaled(
    call: &mut Call<'_>,
    picked: &Picked,
    respond: &Stream,
) -> Result<(), ProxyError> {
    let waits = poll_fn(|cx| picked.poll_journaled(cx));
    let journaled = watched(&mut call.limits, respond, waits).await?;
    journaled.map_err(|cause| ProxyError::new(cause, unpicked(cause)))
}

/// Waits until the limits of the port let the request through.
pub(crate) async fn admitted(
    call: &mut Call<'_>,
    picked: &mut Picked,
    respond: &Stream,
) -> Result<(), ProxyError> {
    let admitted = watched(&mut call.limits, respond, Box::pin(picked.admitted())).await?;
    admitted.map_err(|cause| ProxyError::new(cause, unpicked(cause)))?;
    call.is_sent(picked);
    Ok(())
}

/// Whether a try was refused unexecuted, as the state of the Service has left where it went.
pub(crate) fn has_moved(error: &ProxyError) -> bool {
    error.cause == Cause::Moved && error.retry == Retry::Safe
}

/// The state of the Service has left where a try went, which has not executed the request: finds where it is. What comes of that
/// counts as no other try, and says nothing of the endpoint.
#[cold]
pub(crate) async fn moves_on(
    call: &mut Call<'_>,
    (picked, keeps): (Picked, Box<Keeps>),
    respond: &Stream,
) -> Result<(), ProxyError> {
    let finding = call.leaves(picked, keeps);
    let found = watched(&mut call.limits, respond, Box::pin(finding)).await?;
    call.found(found);
    Ok(())
}

/// Whether it is this side that ends the stream, so that the upstream is to be told.
pub(crate) fn is_ours(error: &ProxyError) -> bool {
    matches!(error.cause, Cause::RequestTimeout | Cause::IdleTimeout) || error.cause.side() != Side::Upstream
}

/// The caller went away.
pub(crate) fn aborted() -> ProxyError {
    ProxyError::new(Cause::DownstreamAborted, "the caller went away")
}

/// Resolves once a call is to end that may go on for long.
pub(crate) type Cut<'p> = Pin<Box<dyn Future<Output = ()> + 'p>>;

pub(crate) fn is_cut(cut: &mut Option<Cut<'_>>, cx: &mut Context<'_>) -> bool {
    cut.as_mut().is_some_and(|cut| cut.as_mut().poll(cx).is_ready())
}

/// The state of the Service leaves, and a stream does not end by itself.
pub(crate) fn moves_away() -> ProxyError {
    ProxyError::new(
        Cause::OutcomeUnknown,
        "the state of the service moves, and the stream did not end in time",
    )
}

/// The caller sends more than its route allows.
pub(crate) fn too_large() -> ProxyError {
    ProxyError::new(Cause::BodyTooLarge, BODY_TOO_LARGE)
}

/// What a failed try says of its endpoint.
pub(crate) fn outcome(error: &ProxyError, status: u16) -> Outcome {
    if let Retry::Maybe(retry::Came::Answer { status, grpc, .. }) = error.retry {
        return grpc.map_or(Outcome::of(status), Outcome::of_grpc);
    }
    match error.cause {
        cause if cause.side() != Side::Upstream => Outcome::Abandoned,
        // Refused unread, or gone after an announcement: the endpoint is well, and said what to do.
        Cause::UpstreamReset | Cause::UpstreamClosed if error.retry == Retry::Safe => Outcome::Abandoned,
        // It answered in time; how long the rest may take is the caller's choice as well.
        Cause::RequestTimeout | Cause::IdleTimeout if status != 0 => Outcome::Answered,
        _ => Outcome::Failed,
    }
}

/// The interim answers of one try.
#[derive(Default)]
pub(crate) struct Interims(u32);

impl Interims {
    /// Lets one more pass, without what this hop takes away, unless there are too many.
    pub(crate) fn pass(
        &mut self,
        downstream: &Downstream,
        interim: &mut ResponseHead,
    ) -> Result<(), ProxyError> {
        self.0 += 1;
        if self.0 > MAX_INTERIMS {
            return Err(ProxyError::new(Cause::UpstreamMalformed, "interim answers without end"));
        }
        head::strip(&mut interim.fields, downstream.context.direction, Half::Response);
        Ok(())
    }
}

/// Accounts for an exchange. `named`: the request as it came, and its id.
pub(crate) fn account(
    downstream: &Downstream,
    metrics: &RouteMetrics,
    (head, request_id): (&RequestHead, &[u8]),
    spoken: Spoken,
    cause: Option<Cause>,
    began: Instant,
    tally: &Tally,
) {
    let cause = cause.or(tally.said);
    telemetry::account(&Record {
        metrics,
        spoken,
        peer: downstream.context.peer,
        caller: downstream.caller().map_or("", Spiffe::as_str),
        endpoint: tally.endpoint,
        status: tally.status,
        grpc_status: tally.grpc_status,
        cause,
        method: head.method(),
        path: head.target(),
        authority: head.authority(),
        request_id,
        bytes_in: tally.bytes_in,
        bytes_out: tally.bytes_out,
        latency: tally.latency,
        duration: tally.ended.unwrap_or_else(Instant::now) - began,
        retries: tally.retries,
        span: tally.span.as_deref(),
    });
}
