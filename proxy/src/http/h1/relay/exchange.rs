//! An exchange with an endpoint: connect, send, and pass both bodies on at the same time.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::flow::{Broken, Flow};
use super::request::pick;
use super::wire::{Expired, Outbox, is_silent, poll_fill};
use super::{Connection, Fault};
use crate::balance::{Avoid, Outcome, Picked};
use crate::buf::Buffer;
use crate::dial;
use crate::drain::Phase;
use crate::error::{Cause, Retry};
use crate::http::h1::body::Framing;
use crate::http::h1::edit::{Edit, Slices, Span};
use crate::http::h1::head::Asked;
use crate::http::h1::pool::{Upstream, is_quiet};
use crate::link;

/// Longest silence of a client that still sends a body whose answer is complete.
const LATE_BODY: Duration = Duration::from_secs(10);

/// One exchange. Kept by its connection and used again.
pub(super) struct Exchange {
    pub(super) picked: Option<Picked>,
    pub(super) up: Option<Upstream>,
    /// The endpoint of the attempt before.
    pub(super) failed: Option<Avoid>,
    /// Where it went, if that far.
    pub(super) endpoint: Option<SocketAddr>,
    /// The route's place in its table, once there is one.
    pub(super) route: Option<usize>,
    pub(super) began: Instant,
    /// The time, if this poll has read the clock.
    pub(super) clock: Option<Instant>,
    /// From the request's head to the answer's.
    pub(super) latency: Duration,
    pub(super) deadline: Option<Instant>,
    pub(super) idle: Option<Duration>,

    // What is known of the request.
    pub(super) head_len: u32,
    /// Its head for the next hop.
    pub(super) edit: Edit,
    /// Bytes of the body that were read with the head and go out with it.
    pub(super) early: u32,
    pub(super) method: Span,
    pub(super) path: Span,
    pub(super) authority: Span,
    pub(super) request_id: Span,
    pub(super) framing: Framing,
    pub(super) asked: Asked,
    pub(super) minor: u8,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) grpc: bool,
    pub(super) idempotent: bool,
    /// It changes nothing, however often it is sent.
    pub(super) harmless: bool,

    // How far it is.
    pub(super) sent: bool,
    pub(super) uploaded: bool,
    /// The endpoint takes no more of the body.
    pub(super) refused: bool,
    /// The answer's head is on its way to the client.
    pub(super) answering: bool,
    pub(super) answered: bool,
    pub(super) retries: u8,
    pub(super) upload: Flow,
    pub(super) up_out: Outbox,
    pub(super) download: Flow,

    // What is known of the answer.
    pub(super) status: u16,
    pub(super) tunnel: bool,
    /// It is the sidecar's beside the endpoint, whose application could not be reached.
    pub(super) unreached: bool,
    /// The endpoint's connection can be used again.
    pub(super) up_stays: bool,
    /// The client's connection ends with this answer.
    pub(super) close: bool,
}

impl Exchange {
    pub(super) fn new() -> Self {
        Exchange {
            picked: None,
            up: None,
            failed: None,
            endpoint: None,
            route: None,
            began: Instant::now(),
            clock: None,
            latency: Duration::ZERO,
            deadline: None,
            idle: None,
            head_len: 0,
            edit: Edit::default(),
            early: 0,
            method: Span::default(),
            path: Span::default(),
            authority: Span::default(),
            request_id: Span::default(),
            framing: Framing::None,
            asked: Asked::default(),
            minor: 1,
            keep_alive: false,
            expects_continue: false,
            grpc: false,
            idempotent: false,
            harmless: false,
            sent: false,
            uploaded: false,
            refused: false,
            answering: false,
            answered: false,
            retries: 0,
            upload: Flow::none(),
            up_out: Outbox::default(),
            download: Flow::none(),
            status: 0,
            tunnel: false,
            unreached: false,
            up_stays: false,
            close: false,
        }
    }

    /// Begins anew: nothing is known of the request yet.
    pub(super) fn start(&mut self, now: Instant) {
        self.endpoint = None;
        self.route = None;
        self.began = now;
        self.latency = Duration::ZERO;
        self.deadline = None;
        self.head_len = 0;
        self.early = 0;
        self.method = Span::default();
        self.path = Span::default();
        self.authority = Span::default();
        self.request_id = Span::default();
        self.framing = Framing::None;
        self.asked = Asked::default();
        self.minor = 1;
        self.keep_alive = false;
        self.grpc = false;
        self.retries = 0;
        self.status = 0;
        self.tunnel = false;
        self.close = false;
        self.upload.moved = 0;
        self.download.moved = 0;
        self.again();
    }

    /// Lets go of whatever it may still hold.
    pub(super) fn let_go(&mut self) {
        self.picked = None;
        self.up = None;
        self.failed = None;
        self.upload.let_go();
        self.up_out.clear();
        self.download.let_go();
    }

    /// Forgets an attempt.
    fn again(&mut self) {
        self.sent = false;
        self.uploaded = false;
        self.refused = false;
        self.answering = false;
        self.answered = false;
        self.unreached = false;
        self.up_stays = false;
    }

    /// Whether nothing more is to be waited for, given that the answer is complete.
    fn is_over(&self) -> bool {
        let never_asked = self.expects_continue && self.early == 0 && self.upload.moved == 0;
        self.uploaded || self.refused || self.tunnel || !self.up_stays || never_asked
    }
}

impl Connection {
    /// Carries the exchange to its end, on one endpoint or, where that is safe, on a second one.
    pub(super) async fn exchange(&mut self) -> Result<(), Fault> {
        loop {
            if self.exchange.up.is_none()
                && let Err(fault) = self.dial().await
            {
                match self.pick_again(&fault) {
                    true => continue,
                    false => return Err(fault),
                }
            }
            match poll_fn(|cx| self.poll_exchange(cx)).await {
                Err(fault) if self.pick_again(&fault) => {}
                result => return result,
            }
        }
    }

    /// Connects to the endpoint that is picked.
    async fn dial(&mut self) -> Result<(), Fault> {
        let (Some(picked), Some(target)) = (&self.exchange.picked, &self.target) else {
            return Err(Fault::new(Cause::Internal, "no endpoint is picked"));
        };
        let (worker, direction, endpoint) = (self.worker.clone(), self.direction, picked.endpoint.clone());
        let timeout = target.destination.policy().connect_timeout;
        let mut dialling = Box::pin(link::dial::exchange(&worker, direction, &endpoint, timeout));
        let dialled = poll_fn(|cx| match dialling.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Ok(result)),
            Poll::Pending => self
                .poll_limits(cx)
                .and_then(|()| self.poll_client(cx))
                .map_or_else(|fault| Poll::Ready(Err(fault)), |()| Poll::Pending),
        });
        let dialled = dialled.await?;
        match dialled {
            Ok(up) => {
                self.exchange.up = Some(up);
                Ok(())
            }
            Err(error) => {
                let safe = error.retry == Retry::Safe;
                if let Some(picked) = self.exchange.picked.take() {
                    let endpoint = picked.endpoint.clone();
                    picked.finish(dial::outcome(&error), Duration::ZERO, Instant::now().into_std());
                    self.exchange.failed = Some(Avoid::after(endpoint, error.cause));
                }
                Err(Fault { cause: error.cause, detail: error.detail, safe })
            }
        }
    }

    /// Whether there is another try left, and the whole request is still at hand.
    pub(super) fn asks_elsewhere(&self) -> bool {
        let x = &*self.exchange;
        let whole = x.upload.moved == 0 && x.upload.buffer.is_none() && !x.answering;
        let may = self.target.as_ref().is_some_and(|target| target.destination.policy().safe_retry);
        whole && may && x.retries == 0 && x.route.is_some()
    }

    /// Picks another endpoint if the fault allows it, and the whole request is still at hand.
    fn pick_again(&mut self, fault: &Fault) -> bool {
        if !fault.safe || !self.asks_elsewhere() {
            return false;
        }
        let (Some(target), x) = (&self.target, &mut *self.exchange) else { return false };
        let Some(route) = x.route else { return false };
        let now = Instant::now();
        if let Some(picked) = x.picked.take() {
            x.failed = Some(Avoid::after(picked.endpoint.clone(), fault.cause));
            // A connection that rested too long says nothing about its endpoint.
            let closed = matches!(fault.cause, Cause::UpstreamClosed | Cause::UpstreamReset);
            let rested = closed && x.up.as_ref().is_some_and(|up| up.reused);
            let outcome = if rested { Outcome::Abandoned } else { Outcome::Failed };
            picked.finish(outcome, Duration::ZERO, now.into_std());
        }
        let Ok(picked) = pick(target, route, x.failed.as_ref(), now) else { return false };
        x.endpoint = Some(picked.endpoint.address);
        x.picked = Some(picked);
        x.up = None;
        x.up_out.clear();
        x.download.buffer = None;
        x.retries = 1;
        x.again();
        true
    }

    /// Sends the request and passes both bodies on.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.exchange.clock = None;
        self.poll_limits(cx)?;
        let mut silent = false;
        if !self.exchange.sent {
            self.send_up(cx)?;
            self.exchange.sent = true;
            // Taken from the pool in this same poll, where it was silent: what has come since wakes the task.
            silent = self.exchange.up.as_ref().is_some_and(|up| up.reused);
        }
        if !self.exchange.uploaded && !self.exchange.refused {
            self.poll_upload(cx)?;
        }
        if !self.exchange.answered {
            if silent || self.poll_answer(cx)?.is_pending() {
                return match self.exchange.uploaded {
                    true => {
                        self.poll_client(cx).map_or_else(|fault| Poll::Ready(Err(fault)), |()| Poll::Pending)
                    }
                    false => Poll::Pending,
                };
            }
            self.exchange.answered = true;
        }
        if self.exchange.is_over() {
            return Poll::Ready(Ok(()));
        }
        // The answer is complete and the request is not: go on while the endpoint listens.
        if self.exchange.up.as_mut().is_some_and(|up| is_quiet(&mut up.io, cx)) {
            self.exchange.idle = Some(self.exchange.idle.unwrap_or(LATE_BODY).min(LATE_BODY));
            let _ = self.poll_limits(cx);
            Poll::Pending
        } else {
            self.exchange.refused = true;
            Poll::Ready(Ok(()))
        }
    }

    /// The request's head, and what of its body is at hand, in one write.
    fn send_up(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        let Connection { exchange: x, input, .. } = self;
        let x = &mut **x;
        let (Some(input), Some(up)) = (input, &mut x.up) else {
            return Err(Fault::new(Cause::Internal, "nothing to send"));
        };
        x.upload.begin(x.framing, false);
        let (head, rest) = input.filled().split_at(x.head_len as usize);
        let pass = x.upload.body.pass(rest).map_err(|refusal| Fault::new(refusal.cause, refusal.detail))?;
        let mut slices = Slices::new();
        x.edit.slices(head, &mut slices);
        if pass.pass > 0 {
            slices.push(IoSlice::new(&rest[..pass.pass]));
        }
        x.early = pass.pass as u32;
        // A connection that rested can have died without anybody's fault, and one that is new together with its
        // endpoint; what was written to that one it may have read in part.
        let gone = Fault {
            cause: Cause::UpstreamReset,
            detail: "the endpoint closed the connection",
            safe: up.reused || x.idempotent,
        };
        x.up_out
            .send(&slices, &mut up.io.stream, cx)
            .map_err(|error| Fault::refused(&error).unwrap_or(gone))?;
        drop(slices);
        if !x.upload.body.is_done() && rest.len() > pass.pass {
            let mut behind = Buffer::take();
            behind.extend(&rest[pass.pass..]);
            x.upload.hold(behind, pass.omit);
            input.truncate(x.head_len as usize + pass.pass);
        }
        Ok(())
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        let Connection { exchange: x, down, .. } = self;
        let x = &mut **x;
        let Some(up) = &mut x.up else { return Ok(()) };
        match x.upload.poll(cx, down, &mut up.io, &mut x.up_out) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => x.uploaded = true,
            // It may have answered before it closed.
            Poll::Ready(Err(Broken::Sink)) => x.refused = true,
            // A complete answer stays one.
            Poll::Ready(Err(_)) if x.answered => x.refused = true,
            Poll::Ready(Err(Broken::Framing(refusal))) => {
                return Err(Fault::new(refusal.cause, refusal.detail));
            }
            Poll::Ready(Err(Broken::Source | Broken::Truncated)) => {
                return Err(Fault::new(Cause::DownstreamAborted, "the client went away within its request"));
            }
        }
        Ok(())
    }

    /// Whether a limit has passed, or the drain's deadline.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        if self.ticket.phase() == Phase::Closed {
            return Err(Fault::new(Cause::Draining, "the drain deadline passed"));
        }
        let x = &mut *self.exchange;
        let progress = self.progress.wrapping_add(x.upload.moved).wrapping_add(x.download.moved);
        match self.timer.poll(cx, x.deadline, x.idle, progress) {
            None => Ok(()),
            Some(_) if x.answered => {
                x.refused = true;
                Ok(())
            }
            Some(Expired::Deadline) => Err(Fault::new(Cause::RequestTimeout, "the request took too long")),
            Some(Expired::Idle) => Err(Fault::new(Cause::IdleTimeout, "nothing moved for too long")),
        }
    }

    /// Whether the client is still there. What it sends ahead is kept as long as there is room.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        loop {
            let ahead = match &self.exchange.upload.buffer {
                Some(_) => &mut self.exchange.upload.buffer,
                None => &mut self.input,
            };
            if let Some(buffer) = ahead {
                if buffer.room() == 0 {
                    buffer.compact();
                }
                if buffer.room() == 0 {
                    return Ok(());
                }
            }
            if is_silent(&self.down, cx) {
                return Ok(());
            }
            match poll_fill(ahead, &mut self.down, cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(read)) if read > 0 => self.progress += 1,
                Poll::Ready(_) => return Err(Fault::new(Cause::DownstreamAborted, "the client went away")),
            }
        }
    }
}

impl Flow {
    /// Begins with what was read already, of which the first `omit` bytes are left out.
    fn hold(&mut self, buffer: Buffer, omit: usize) {
        self.buffer = Some(buffer);
        self.omit = omit;
    }
}
