//! An exchange with an endpoint: send, and pass both bodies on at the same time.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use lighter_migrate::Attempts;
use tokio::time::Instant;

use super::flow::{Broken, Flow};
use super::wire::{Expired, Outbox, is_silent, poll_fill};
use super::{Connection, Fault};
use crate::balance::{Avoid, Picked};
use crate::buf::Buffer;
use crate::drain::Phase;
use crate::error::{Cause, Side};
use crate::guard::client::{self, Slow};
use crate::http::BODY_TOO_LARGE;
use crate::http::h1::body::Framing;
use crate::http::h1::edit::{Edit, Slices, Span};
use crate::http::h1::head::Asked;
use crate::http::h1::pool::{Upstream, is_quiet};
use crate::mirror;
use crate::offload::Placing;
use crate::retry::{Came, Tries};
use crate::session::Session;
use crate::stateful::gate::LetIn;
use crate::stateful::moved::Keeps;
use crate::telemetry::spans::Begun;

/// Longest silence of a client that still sends a body whose answer is complete.
const LATE_BODY: Duration = Duration::from_secs(10);

/// One exchange. Kept by its connection and used again.
pub(super) struct Exchange {
    pub(super) picked: Option<Picked>,
    pub(super) up: Option<Upstream>,
    /// The endpoint of the attempt before.
    pub(super) failed: Option<Avoid>,
    /// That it was let in, between two tries, and while it is a tunnel.
    pub(super) kept: Option<Box<LetIn>>,
    /// It is kept until it is answered, as the state of its Service may leave from where it goes.
    pub(super) keeps: Option<Box<Keeps>>,
    /// Where it went, if that far.
    pub(super) endpoint: Option<SocketAddr>,
    /// The route's place in its table, once there is one.
    pub(super) route: Option<usize>,
    /// What says where it goes, if its balancer hashes.
    pub(super) hash: Option<u64>,
    /// The session that it is of, if its route has sessions.
    pub(super) session: Option<Session>,
    /// What is known of it before it runs, if its route's requests may run on devices.
    pub(super) placing: Option<Placing>,
    pub(super) began: Instant,
    /// When the try at hand began.
    pub(super) tried: Instant,
    /// The time, if this poll has read the clock.
    pub(super) clock: Option<Instant>,
    /// From the request's head to the answer's.
    pub(super) latency: Duration,
    /// When the whole exchange has to be over.
    pub(super) end: Option<Instant>,
    /// The same, or when the try at hand has to be answered, if that is earlier.
    pub(super) deadline: Option<Instant>,
    pub(super) idle: Option<Duration>,
    /// How often it is looked whether something moves: the time that is left for nothing to move, or less.
    pub(super) window: Option<Duration>,
    /// How long a device may be silent within its answer.
    pub(super) silence: Option<Duration>,
    /// Since when nothing moves, if that is after its beginning.
    quiet: Instant,
    /// How long it is held before it is sent.
    pub(super) held: Duration,
    /// The longest body that is passed on.
    pub(super) max_body: u64,

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
    /// Its span in a trace, where one is recorded.
    pub(super) span: Option<Box<Begun>>,
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
    pub(super) tries: Tries,
    /// There is another try, after this time.
    pub(super) again: Option<Duration>,
    /// What became of those that it had at a Service with state.
    pub(super) attempts: Attempts,
    pub(super) upload: Flow,
    pub(super) up_out: Outbox,
    pub(super) download: Flow,

    // What is known of the answer.
    pub(super) status: u16,
    pub(super) tunnel: bool,
    /// What it is a tunnel for.
    pub(super) websocket: bool,
    /// It is the sidecar's beside the endpoint, whose application could not be reached.
    pub(super) unreached: bool,
    /// What a sidecar behind this one has answered in the service's stead, as far as that is counted here as well.
    pub(super) said: Option<Cause>,
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
            kept: None,
            keeps: None,
            endpoint: None,
            route: None,
            hash: None,
            session: None,
            placing: None,
            began: Instant::now(),
            tried: Instant::now(),
            clock: None,
            latency: Duration::ZERO,
            end: None,
            deadline: None,
            idle: None,
            window: None,
            silence: None,
            quiet: Instant::now(),
            held: Duration::ZERO,
            max_body: u64::MAX,
            head_len: 0,
            edit: Edit::default(),
            early: 0,
            method: Span::default(),
            path: Span::default(),
            authority: Span::default(),
            request_id: Span::default(),
            span: None,
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
            tries: Tries::default(),
            again: None,
            attempts: Attempts::default(),
            upload: Flow::none(),
            up_out: Outbox::default(),
            download: Flow::none(),
            status: 0,
            tunnel: false,
            websocket: false,
            unreached: false,
            said: None,
            up_stays: false,
            close: false,
        }
    }

    /// Begins: how far it is, and where it goes. What an exchange before it held was let go of, and what is known of the
    /// request is for the caller to say.
    #[inline]
    pub(super) fn start(&mut self, now: Instant) {
        self.endpoint = None;
        self.route = None;
        (self.began, self.tried) = (now, now);
        self.latency = Duration::ZERO;
        (self.end, self.deadline) = (None, None);
        self.held = Duration::ZERO;
        self.session = None;
        self.silence = None;
        self.placing = None;
        self.failed = None;
        self.max_body = u64::MAX;
        self.edit.clear();
        self.early = 0;
        self.request_id = Span::default();
        self.retries = 0;
        self.tries = Tries::default();
        self.upload.copy = None;
        self.status = 0;
        self.tunnel = false;
        self.close = false;
        self.again = None;
        self.attempts = Attempts::default();
        self.said = None;
        self.forget();
    }

    /// Nothing is known of the request, and nothing will be.
    pub(super) fn forget_request(&mut self) {
        self.head_len = 0;
        self.method = Span::default();
        self.path = Span::default();
        self.authority = Span::default();
        self.framing = Framing::None;
        self.asked = Asked::default();
        self.keep_alive = false;
        self.grpc = false;
    }

    /// Lets go of whatever it may still hold.
    pub(super) fn let_go(&mut self) {
        self.picked = None;
        self.up = None;
        self.failed = None;
        self.kept = None;
        self.keeps = None;
        self.span = None;
        self.upload.let_go();
        self.up_out.clear();
        self.download.let_go();
    }

    /// When the first of two limits passes: that of the exchange, or that of a try which begins at `now`.
    pub(super) fn first_end(&self, try_timeout: Option<Duration>, now: Instant) -> Option<Instant> {
        let Some(limit) = try_timeout else { return self.end };
        let of_try = now + limit;
        Some(self.end.map_or(of_try, |end| end.min(of_try)))
    }

    /// How often it is looked whether something moves, if its client has so long.
    #[inline]
    pub(super) fn window(&self, patience: Duration) -> Duration {
        [self.idle, self.silence].into_iter().flatten().fold(patience, Duration::min)
    }

    /// Whether the whole request is still at hand.
    pub(super) fn is_whole(&self) -> bool {
        let kept = self.upload.kept.is_some();
        !self.answering && (kept || (self.upload.moved == 0 && self.upload.buffer.is_none()))
    }

    /// Keeps nothing for state that leaves where it goes by a connection of HTTP/1.1, on which nobody gives it back.
    pub(super) fn keep_for_links(&mut self) {
        if self.up.is_some() {
            self.keeps = None;
        }
    }

    /// Forgets an attempt.
    pub(super) fn forget(&mut self) {
        self.sent = false;
        self.uploaded = false;
        self.refused = false;
        self.answering = false;
        self.answered = false;
        self.unreached = false;
        self.up_stays = false;
    }

    /// What the client is told as it failed so: where the Service has state, before all else that it may have run.
    pub(super) fn failed(&self, fault: Fault) -> Fault {
        match self.attempts.may_have_run() && !self.answering && fault.cause.side() != Side::Downstream {
            true => Fault::new(Cause::OutcomeUnknown, fault.detail),
            false => fault,
        }
    }

    /// A try came to nothing: nothing is left of it, and no endpoint's time runs.
    #[cold]
    pub(super) fn try_ends(&mut self) {
        if let Some(up) = self.up.take() {
            up.io.reset_on_close();
        }
        self.up_out.clear();
        self.download.buffer = None;
        self.deadline = self.end;
        self.forget();
    }

    /// Whether nothing more is to be waited for, given that the answer is complete.
    fn is_over(&self) -> bool {
        let never_asked = self.expects_continue && self.early == 0 && self.upload.moved == 0;
        self.uploaded || self.refused || self.tunnel || !self.up_stays || never_asked
    }
}

impl Connection {
    /// Sends the request and passes both bodies on.
    pub(super) fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
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
            let idle = self.exchange.idle.unwrap_or(LATE_BODY).min(LATE_BODY);
            (self.exchange.idle, self.exchange.window) = (Some(idle), Some(idle));
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
        if x.upload.kept.is_some() {
            return self.send_again(cx);
        }
        x.upload.begin(x.framing, false);
        let (head, rest) = input.filled().split_at(x.head_len as usize);
        let pass = x.upload.body.pass(rest).map_err(|refusal| Fault::new(refusal.cause, refusal.detail))?;
        // One whose length is said was measured before.
        let Some(most) = x.max_body.checked_sub(pass.pass as u64) else {
            return Err(Fault::new(Cause::BodyTooLarge, BODY_TOO_LARGE));
        };
        x.upload.most = most;
        mirror::restart(&mut x.upload.copy);
        mirror::add(&mut x.upload.copy, &rest[..pass.pass]);
        let mut slices = Slices::new();
        x.edit.slices(head, &mut slices);
        if pass.pass > 0 {
            slices.push(IoSlice::new(&rest[..pass.pass]));
        }
        x.early = pass.pass as u32;
        let gone = gone(up.reused, x.idempotent);
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
        if !x.upload.body.is_done()
            && (x.keeps.is_some() || self.state().is_some_and(|state| state.retries.repeats()))
        {
            self.exchange.upload.keep();
        }
        Ok(())
    }

    /// The request as far as it was sent to the endpoint before.
    #[cold]
    fn send_again(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        let Connection { exchange: x, input, .. } = self;
        let x = &mut **x;
        let (Some(input), Some(up), Some(kept)) = (input, &mut x.up, &x.upload.kept) else {
            return Err(Fault::new(Cause::Internal, "nothing to send"));
        };
        let (head, rest) = input.filled().split_at(x.head_len as usize);
        let (early, ahead) = rest.split_at(x.early as usize);
        let mut slices = Slices::new();
        x.edit.slices(head, &mut slices);
        slices.push(IoSlice::new(early));
        slices.push(IoSlice::new(kept));
        let gone = gone(up.reused, x.idempotent);
        x.up_out
            .send(&slices, &mut up.io.stream, cx)
            .map_err(|error| Fault::refused(&error).unwrap_or(gone))?;
        drop(slices);
        if !x.upload.body.is_done() && !ahead.is_empty() && x.upload.buffer.is_none() {
            // It came while there was no endpoint to send it to.
            let mut behind = Buffer::take();
            behind.extend(ahead);
            x.upload.hold(behind, 0);
            input.truncate(x.head_len as usize + x.early as usize);
        }
        Ok(())
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        let Connection { exchange: x, down, .. } = self;
        let x = &mut **x;
        let Some(up) = &mut x.up else { return Ok(()) };
        match x.upload.poll(cx, down, &mut up.io, &mut x.up_out) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                x.uploaded = true;
                mirror::send(&mut x.upload.copy);
            }
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
    #[inline]
    pub(super) fn poll_limits(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        if self.ticket.phase() == Phase::Closed {
            return Err(Fault::new(Cause::Draining, "the drain deadline passed"));
        }
        let x = &mut *self.exchange;
        let progress = self.progress.wrapping_add(x.upload.moved).wrapping_add(x.download.moved);
        match self.timer.poll(cx, x.deadline, x.window, progress) {
            None => Ok(()),
            Some(expired) => self.expired(expired, progress, cx),
        }
    }

    #[cold]
    fn expired(&mut self, expired: Expired, progress: u64, cx: &mut Context<'_>) -> Result<(), Fault> {
        match expired {
            Expired::Moved(moved) => self.weigh(moved),
            _ if self.exchange.answered => {
                self.exchange.refused = true;
                Ok(())
            }
            Expired::Deadline => self.late(),
            Expired::Idle => {
                self.weigh(0)?;
                let x = &*self.exchange;
                self.timer.arm(cx, x.deadline, x.window, progress);
                Ok(())
            }
        }
    }

    /// So much moved since it was last looked: whether the client holds the exchange up, or nothing moved for too long.
    fn weigh(&mut self, moved: u64) -> Result<(), Fault> {
        let guard = &self.worker.shared.config.guard;
        let slow = self.held_up_by_client();
        let x = &mut *self.exchange;
        let (now, window) = (Instant::now(), x.window.unwrap_or_default());
        // What moved before the try began says nothing.
        if let Some(slow) = slow
            && now >= x.tried + guard.client_timeout
            && client::is_too_little(guard, moved, window)
        {
            slow.count();
            if x.answered {
                // A complete answer stays one.
                x.refused = true;
                return Ok(());
            }
            return Err(Fault::new(Cause::ClientTimeout, slow.detail()));
        }
        if moved > 0 {
            x.quiet = now;
        } else if x.quiet < x.began {
            x.quiet = now.checked_sub(window).unwrap_or(x.began);
        }
        match x.idle {
            Some(idle) if now >= x.quiet + idle => {
                Err(Fault::new(Cause::IdleTimeout, "nothing moved for too long"))
            }
            _ => match x.silence {
                Some(silence) if x.answering && slow.is_none() && now >= x.quiet + silence => {
                    let detail = "the device was silent for too long within its answer";
                    Err(Fault::new(Cause::IdleTimeout, detail).after(Came::Late))
                }
                _ => Ok(()),
            },
        }
    }

    /// What the client is waited for with, if it is for nobody else.
    fn held_up_by_client(&self) -> Option<Slow> {
        let x = &*self.exchange;
        let content = x.up.as_ref().is_some_and(|up| up.io.has_content());
        if x.answering && (!self.out.is_empty() || content || x.download.has_more()) {
            return Some(Slow::Answer);
        }
        let owed = !x.uploaded && !x.refused && x.up_out.is_empty() && x.upload.is_owed();
        owed.then_some(Slow::Body)
    }

    /// Whether the client is still there. What it sends ahead is kept as long as there is room.
    pub(super) fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
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

/// A connection that broke while the request was written to it. One that rested can have died without anybody's fault, and
/// one that is new together with its endpoint; what was written to that one it may have read in part.
fn gone(rested: bool, idempotent: bool) -> Fault {
    let fault = Fault::new(Cause::UpstreamReset, "the endpoint closed the connection");
    match (rested, idempotent) {
        (true, _) => fault.after(Came::Unread),
        (false, true) => fault.after(Came::Dropped),
        (false, false) => fault.after(Came::Broken),
    }
}

impl Flow {
    /// Begins with what was read already, of which the first `omit` bytes are left out.
    fn hold(&mut self, buffer: Buffer, omit: usize) {
        self.buffer = Some(buffer);
        self.omit = omit;
    }
}
