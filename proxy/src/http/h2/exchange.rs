//! One request's life: route, filter, pick, send, stream both ways, account.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, Uri};
use lighter_config::snapshot::{Protocol, TrafficPolicy};

use super::body::{self, End, Pump};
use super::limits::Limits;
use super::retry::{Again, Crowded};
use super::upstream::Handles;
use super::way::Way;
use super::{Downstream, answer, head};
use crate::authorize;
use crate::balance::{Cluster, Endpoint, Outcome, Picked};
use crate::error::{Cause, ProxyError, Retry, Side};
use crate::http::bridge::to_http1;
use crate::http::hop::Half;
use crate::http::stream::{Respond, Sink, Source};
use crate::mesh::{RouteState, Target};
use crate::telemetry::{self, Record, RouteMetrics, Spoken};

/// Most interim answers that pass before an answer. They wait in memory where the caller is slow, and no flow control
/// holds them back.
const MAX_INTERIMS: u32 = 32;

/// What is counted of an exchange.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) endpoint: Option<std::net::SocketAddr>,
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) latency: Duration,
    /// When it ended, if the clock was read then.
    pub(crate) ended: Option<Instant>,
    pub(crate) retries: u8,
}

/// One request and all that is known of it.
pub(crate) struct Call<'a> {
    pub(crate) downstream: &'a Downstream,
    pub(crate) state: &'a RouteState,
    pub(crate) policy: &'a TrafficPolicy,
    pub(crate) pinned: Option<&'a Arc<Endpoint>>,
    pub(crate) parts: Parts,
    pub(crate) request_id: Option<HeaderValue>,
    pub(crate) grpc: bool,
    pub(crate) began: Instant,
    pub(crate) limits: Limits,
    pub(crate) tally: Tally,
    pub(crate) crowded: Crowded,
}

/// A request that came.
pub(crate) struct Arrived {
    pub(crate) parts: Parts,
    pub(crate) body: Source,
    pub(crate) respond: Respond,
    /// How long its caller waits, where it says so beside the head.
    pub(crate) left: Option<Duration>,
}

/// Serves one stream.
pub(crate) async fn serve(downstream: Rc<Downstream>, arrived: Arrived) {
    let began = Instant::now();
    let Arrived { mut parts, body, mut respond, left } = arrived;
    let grpc = head::is_grpc(&parts.headers);
    let target = match head::unify_authority(&mut parts).and_then(|()| downstream.target(&parts)) {
        Ok(target) => target,
        Err(cause) => {
            let error = ProxyError::new(cause, head::misdirected(cause));
            answer::error(&mut respond, &error, grpc, parts.method == Method::HEAD);
            return;
        }
    };
    let Target { destination, pinned, .. } = &target;
    let routed = destination.route(&head::View(&parts));
    let metrics = routed.as_ref().map_or(&destination.unrouted, |(_, state)| &state.metrics);
    let spoken = if grpc { Spoken::Grpc } else { Spoken::Http2 };
    metrics.begin(spoken);
    let Some((route, state)) = routed else {
        let error = ProxyError::new(Cause::NoRoute, "no route matches");
        let (status, bytes_out) = answer::error(&mut respond, &error, grpc, parts.method == Method::HEAD);
        let tally = Tally { status, bytes_out, ..Tally::default() };
        let request_id = parts.headers.get(head::REQUEST_ID);
        account(
            &downstream,
            metrics,
            (&parts.method, &parts.uri, request_id),
            spoken,
            Some(error.cause),
            began,
            &tally,
        );
        return;
    };

    let received = (!state.chain.is_empty()).then(|| parts.uri.clone());
    let policy = destination.policy();
    let prepared = prepare(&downstream, &mut parts, &target, state, route);
    let limits = Limits::new(state.request_timeout, policy.idle_timeout, grpc, &parts, began).within(left);
    let mut call = Call {
        downstream: &downstream,
        state,
        policy,
        pinned: pinned.as_ref(),
        request_id: parts.headers.get(head::REQUEST_ID).cloned(),
        parts,
        grpc,
        began,
        limits,
        tally: Tally::default(),
        crowded: Crowded::default(),
    };
    let ended = match prepared {
        Ok(None) => match downstream.upstream(destination) {
            Protocol::Http => to_http1::exchange(&mut call, body, &mut respond).await,
            _ => relay(&mut call, body, &mut respond).await,
        },
        Ok(Some(local)) => {
            call.tally.status = answer::filtered(&mut respond, &local);
            Ok(())
        }
        Err(error) => Err(error),
    };
    if let Err(error) = &ended
        && call.tally.status == 0
        && error.cause != Cause::DownstreamAborted
    {
        let head_only = call.parts.method == Method::HEAD;
        (call.tally.status, call.tally.bytes_out) = answer::error(&mut respond, error, grpc, head_only);
        call.tally.grpc_status = grpc.then(|| error.cause.grpc_status());
    }
    let cause = ended.err().map(|error| error.cause);
    let uri = received.as_ref().unwrap_or(&call.parts.uri);
    let named = (&call.parts.method, uri, call.request_id.as_ref());
    account(&downstream, metrics, named, spoken, cause, began, &call.tally);
}

/// What happens to a head before it is sent: what this hop takes away and adds, and the route's filters.
pub(crate) fn prepare(
    downstream: &Downstream,
    parts: &mut Parts,
    target: &Target,
    state: &RouteState,
    route: &lighter_config::snapshot::Route,
) -> Result<Option<lighter_filters::LocalAnswer>, ProxyError> {
    let refusal = |cause| ProxyError::new(cause, "the request cannot be passed on");
    if parts.method == Method::CONNECT {
        return Err(refusal(Cause::Unsupported));
    }
    if target.bars(downstream.caller().is_some()) {
        return Err(ProxyError::new(Cause::PlaintextRefused, authorize::UNPROVEN));
    }
    if let Some(guard) = &target.guard {
        let authority = head::authority(&parts.uri);
        guard
            .request(downstream.context.peer, downstream.caller(), &head::View(parts), authority)
            .map_err(|cause| ProxyError::new(cause, authorize::REFUSAL))?;
    }
    let direction = downstream.context.direction;
    head::strip(&mut parts.headers, direction, Half::Request);
    head::annotate(&mut parts.headers, direction, &downstream.peer);
    if let Some(caller) = &downstream.vouched {
        head::vouch(&mut parts.headers, caller.as_deref());
    }
    if state.chain.is_empty() {
        return Ok(None);
    }
    head::filter_request(&state.chain, route, parts).map_err(refusal)
}

/// Sends the request to an endpoint that speaks HTTP/2, to a second one if the first has not read it, and streams
/// the answer back.
async fn relay(call: &mut Call<'_>, body: Source, respond: &mut Respond) -> Result<(), ProxyError> {
    let mut upload = Upload::new(body);
    let mut avoid: Option<Arc<Endpoint>> = None;
    call.limits.start(call.downstream).await;
    let mut sent = call.began;
    loop {
        let picked = call.pick(avoid.as_deref())?;
        call.tally.endpoint = Some(picked.endpoint.address);
        let error = match attempt(call, &picked, &mut upload, respond, sent).await {
            Ok(outcome) => {
                let now = Instant::now();
                picked.finish(outcome, call.tally.latency, now);
                call.tally.ended = Some(now);
                return Ok(());
            }
            Err(error) => error,
        };
        avoid = match call.again(picked, error, sent, upload.can_replay())? {
            Again::Elsewhere(endpoint) => Some(endpoint),
            Again::After(pause) => {
                watched(&mut call.limits, respond, tokio::time::sleep(pause)).await?;
                None
            }
        };
        sent = Instant::now();
    }
}

/// One try. An error leaves `upload` as it can be used for another one.
async fn attempt(
    call: &mut Call<'_>,
    picked: &Picked,
    upload: &mut Upload,
    respond: &mut Respond,
    sent: Instant,
) -> Result<Outcome, ProxyError> {
    let way = Way::find(call.downstream, call.policy, &picked.endpoint);
    let way = watched(&mut call.limits, respond, way).await??;
    let (mut response, send) = way.open(call, &picked.endpoint, upload.is_empty())?;
    let unused = upload.start(send);
    let (downstream, mut interims) = (call.downstream, Interims::default());
    let answered = {
        let (limits, tally, grpc) = (&mut call.limits, &mut call.tally, call.grpc);
        poll_fn(|cx| {
            if let Poll::Ready(error) = upload.poll(cx) {
                return Poll::Ready(Err(error));
            }
            // gRPC has no interim answers, and asking for them is not free.
            if !grpc {
                while let Poll::Ready(Some(mut interim)) = response.poll_interim(cx) {
                    interims.pass(downstream, &mut interim)?;
                    respond.interim(interim);
                }
            }
            if let Poll::Ready(answer) = response.poll(cx) {
                return Poll::Ready(answer.map_err(|error| answer::before_head(&error)));
            }
            if respond.poll_cut(cx).is_ready() {
                return Poll::Ready(Err(aborted()));
            }
            limits.check(upload.moved()).map(Err)
        })
        .await
        .inspect(|_| tally.latency = sent.elapsed())
    };
    call.tally.bytes_in = upload.bytes();
    let answered = match answered {
        Ok(answered) => answered,
        Err(error) => {
            call.refused(&error, &way);
            if is_ours(&error) {
                way.cancel(Handles {
                    send: upload.take_stream().or(unused),
                    response: Some(response),
                    body: None,
                });
            }
            return Err(error);
        }
    };
    let end = answered.body().is_end();
    let outcome = match call.unreached(answered.status(), answered.headers(), end) {
        Some(error) if call.asks_elsewhere(upload.can_replay()) => {
            way.cancel(Handles { send: None, response: None, body: Some(answered.into_body()) });
            return Err(error.safe());
        }
        Some(_) => Outcome::Failed,
        None => Outcome::Answered,
    };
    upload.forget();
    stream(call, answered, way, upload, unused, respond).await.map(|()| outcome)
}

/// Passes the answer on, and what is left of the request.
async fn stream(
    call: &mut Call<'_>,
    answered: Response<Source>,
    way: Way,
    upload: &mut Upload,
    unused: Option<Sink>,
    respond: &mut Respond,
) -> Result<(), ProxyError> {
    let (mut response, body) = answered.into_parts();
    let end = body.is_end();
    call.finish_head(&mut response)?;
    call.tally.status = response.status.as_u16();
    if call.grpc && end {
        call.tally.grpc_status = body::grpc_status(&response.headers);
    }
    let Ok(to) = respond.answer(Response::from_parts(response, ()), end) else {
        way.cancel(Handles { send: upload.take_stream().or(unused), response: None, body: Some(body) });
        return Err(aborted());
    };
    let mut download = (!end).then(|| Pump::new(body, to, call.grpc));
    let ended = match &mut download {
        None => Ok(()),
        Some(download) => {
            let limits = &mut call.limits;
            poll_fn(|cx| {
                if let Poll::Ready(error) = upload.poll(cx) {
                    return Poll::Ready(Err((error, None)));
                }
                match download.poll(cx) {
                    Poll::Ready(End::Clean) => return Poll::Ready(Ok(())),
                    Poll::Ready(End::Source(error)) => {
                        return Poll::Ready(Err((answer::after_head(&error), Some(error))));
                    }
                    Poll::Ready(End::Sink) => return Poll::Ready(Err((aborted(), None))),
                    Poll::Pending => {}
                }
                if download.to().poll_cut(cx).is_ready() {
                    return Poll::Ready(Err((aborted(), None)));
                }
                let moved = upload.moved() | std::mem::take(&mut download.moved);
                limits.check(moved).map(|error| Err((error, None)))
            })
            .await
        }
    };
    call.tally.bytes_in = upload.bytes();
    if let Some(download) = &download {
        call.tally.bytes_out = download.bytes;
        call.tally.grpc_status = call.tally.grpc_status.or(download.grpc_status);
    }
    if ended.is_ok() && upload.is_done() {
        return Ok(());
    }
    // Either something broke, or the answer is whole before the request is: the rest of that is not wanted.
    let body = match download {
        None => None,
        Some(download) => {
            let (body, mut to) = download.into_parts();
            if let Err((error, broken)) = &ended {
                to.cut(error, broken.as_ref());
            }
            Some(body)
        }
    };
    if ended.as_ref().err().is_none_or(|(error, _)| is_ours(error)) {
        way.cancel(Handles { send: upload.take_stream().or(unused), response: None, body });
    }
    ended.map_err(|(error, _)| error)
}

/// Resolves with `work`, unless the caller goes away or the time is over.
pub(crate) async fn watched<F: Future>(
    limits: &mut Limits,
    respond: &mut Respond,
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
        limits.check(false).map(Err)
    })
    .await
}

/// Whether it is this side that ends the stream, so that the upstream is to be told.
pub(crate) fn is_ours(error: &ProxyError) -> bool {
    matches!(error.cause, Cause::RequestTimeout | Cause::IdleTimeout) || error.cause.side() != Side::Upstream
}

/// The caller went away.
pub(crate) fn aborted() -> ProxyError {
    ProxyError::new(Cause::DownstreamAborted, "the caller went away")
}

/// What a failed try says of its endpoint.
pub(crate) fn outcome(error: &ProxyError, status: u16) -> Outcome {
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
        interim: &mut Response<()>,
    ) -> Result<(), ProxyError> {
        self.0 += 1;
        if self.0 > MAX_INTERIMS {
            return Err(ProxyError::new(Cause::UpstreamMalformed, "interim answers without end"));
        }
        head::strip(interim.headers_mut(), downstream.context.direction, Half::Response);
        Ok(())
    }
}

impl Call<'_> {
    /// Picks an endpoint, not `avoid` if there is another.
    pub(crate) fn pick(&self, avoid: Option<&Endpoint>) -> Result<Picked, ProxyError> {
        let now = self.began;
        match self.pinned {
            Some(endpoint) => Ok(Cluster::take(endpoint, now)),
            None => self
                .state
                .backends
                .pick()
                .and_then(|cluster| cluster.pick(avoid, now))
                .map_err(|cause| ProxyError::new(cause, "no endpoint takes this request")),
        }
    }

    /// The head as it is sent, with the time that is left in `grpc-timeout`.
    pub(crate) fn head(&mut self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.version_mut() = self.parts.version;
        *request.headers_mut() = if self.policy.safe_retry {
            self.parts.headers.clone()
        } else {
            std::mem::take(&mut self.parts.headers)
        };
        if let Some(left) = self.left_of_grpc() {
            request.headers_mut().insert(head::GRPC_TIMEOUT, head::grpc_timeout_value(left));
        }
        request
    }

    /// What is left of `grpc-timeout`, where that has to be said anew.
    pub(crate) fn left_of_grpc(&self) -> Option<Duration> {
        self.grpc.then(|| self.limits.left_of_grpc()).flatten()
    }

    /// What this hop and the route's filters do to an answer's head.
    pub(crate) fn finish_head(&self, response: &mut http::response::Parts) -> Result<(), ProxyError> {
        head::strip(&mut response.headers, self.downstream.context.direction, Half::Response);
        if self.state.chain.changes_response() {
            head::filter_response(&self.state.chain, response)
                .map_err(|cause| ProxyError::new(cause, "a filter made an answer that is not valid"))?;
        }
        Ok(())
    }
}

/// The request's body on its way to one endpoint, and to a second one if the first has not read it.
struct Upload {
    /// Nothing of it was sent yet.
    unsent: Option<Source>,
    pump: Option<Pump>,
    /// Whether there is more to send, and someone who wants it.
    running: bool,
}

impl Upload {
    fn new(body: Source) -> Self {
        Upload { unsent: (!body.is_end()).then_some(body), pump: None, running: false }
    }

    /// Whether the request has no body at all.
    fn is_empty(&self) -> bool {
        self.unsent.is_none() && self.pump.is_none()
    }

    /// Sends the body to `to` from its beginning. Gives `to` back where there is nothing to send.
    fn start(&mut self, to: Sink) -> Option<Sink> {
        let (pump, rest) = match (self.unsent.take(), self.pump.take()) {
            (Some(body), _) => (Some(Pump::new(body, to, false).replayable()), None),
            (None, Some(pump)) => (pump.again(to), None),
            (None, None) => (None, Some(to)),
        };
        self.running = pump.is_some();
        self.pump = pump;
        rest
    }

    /// Moves the body on; ready if the caller cut it.
    fn poll(&mut self, cx: &mut Task<'_>) -> Poll<ProxyError> {
        match &mut self.pump {
            Some(pump) if self.running => match std::task::ready!(pump.poll(cx)) {
                End::Source(_) => Poll::Ready(aborted()),
                // What the upstream makes of it, its answer tells.
                End::Clean | End::Sink => {
                    self.running = false;
                    Poll::Pending
                }
            },
            _ => Poll::Pending,
        }
    }

    fn moved(&mut self) -> bool {
        self.pump.as_mut().is_some_and(|pump| std::mem::take(&mut pump.moved))
    }

    fn can_replay(&self) -> bool {
        self.pump.as_ref().is_none_or(Pump::can_replay)
    }

    fn forget(&mut self) {
        if let Some(pump) = &mut self.pump {
            pump.forget();
        }
    }

    fn bytes(&self) -> u64 {
        self.pump.as_ref().map_or(0, |pump| pump.bytes)
    }

    /// Whether the upstream has the whole request.
    fn is_done(&self) -> bool {
        self.unsent.is_none() && self.pump.as_ref().is_none_or(Pump::is_done)
    }

    /// The stream to the upstream. What is left of the request is dropped.
    fn take_stream(&mut self) -> Option<Sink> {
        self.pump.take().map(|pump| pump.into_parts().1)
    }
}

pub(crate) fn account(
    downstream: &Downstream,
    metrics: &RouteMetrics,
    (method, uri, request_id): (&Method, &Uri, Option<&HeaderValue>),
    spoken: Spoken,
    cause: Option<Cause>,
    began: Instant,
    tally: &Tally,
) {
    telemetry::account(&Record {
        metrics,
        spoken,
        peer: downstream.context.peer,
        caller: downstream.caller().unwrap_or_default(),
        endpoint: tally.endpoint,
        status: tally.status,
        grpc_status: tally.grpc_status,
        cause,
        method: method.as_str().as_bytes(),
        path: uri.path_and_query().map_or("", |target| target.as_str()).as_bytes(),
        authority: head::authority(uri),
        request_id: request_id.map_or(b"", HeaderValue::as_bytes),
        bytes_in: tally.bytes_in,
        bytes_out: tally.bytes_out,
        latency: tally.latency,
        duration: tally.ended.unwrap_or_else(Instant::now) - began,
        retries: tally.retries,
    });
}
