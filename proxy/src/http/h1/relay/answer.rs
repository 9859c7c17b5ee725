//! The answer: passed on, or given by this sidecar; and what is left to do when an exchange has ended.

use std::cell::RefCell;
use std::task::{Context, Poll};
use std::time::Duration;

use lighter_filters::LocalAnswer;
use lighter_migrate::Ended;
use tokio::time::Instant;

use super::exchange::Exchange;
use super::flow::Broken;
use super::wire::poll_fill;
use super::{After, Connection, Fault};
use crate::balance::{Outcome, Picked};
use crate::buf::{BUFFER_BYTES, Buffer};
use crate::drain::Phase;
use crate::error::{Cause, Side};
use crate::http::h1::Pool;
use crate::http::h1::body::{Framing, Pass};
use crate::http::h1::edit::{self, Edit, ResponseRules, Slices, Span};
use crate::http::h1::head::{self, Response};
use crate::http::local::{self, ErrorAnswer};
use crate::http::unpicked;
use crate::io::Stream;
use crate::link::send::LENT;
use crate::retry::{Came, retry_after};
use crate::telemetry::{self, Direction, Record, Spoken};

thread_local! {
    /// An answer's head is edited and written in one step, so one scratch for all is enough.
    static EDIT: RefCell<Edit> = RefCell::default();
}

impl Exchange {
    /// Tells where it was placed what it carried, and by what it failed.
    #[cold]
    fn tell(&self, picked: &mut Picked, fault: Option<&Fault>) {
        picked.carried((self.upload.moved + u64::from(self.early), self.download.moved));
        let came = match fault {
            Some(fault) => fault.came,
            None if self.status >= 500 => Some(Came::Answer { status: self.status, grpc: None, wait: None }),
            None => None,
        };
        if let Some(came) = came {
            picked.set_back(came);
        }
    }
}

impl Connection {
    /// Passes the answer on. Ready when it is complete.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Fault> {
        loop {
            if self.exchange.answering {
                return self.poll_download(cx);
            }
            if self.out.poll_flush(&mut self.down.stream, cx).map_err(|_| client_gone())?.is_pending() {
                return Ok(Poll::Pending);
            }
            if let Some(mut buffer) = self.exchange.download.buffer.take() {
                let whole = self.answer_head(&mut buffer, cx);
                if !buffer.is_empty() {
                    self.exchange.download.buffer = Some(buffer);
                }
                match whole? {
                    Poll::Ready(true) => continue,
                    Poll::Ready(false) => {}
                    Poll::Pending => return Ok(Poll::Pending),
                }
            }
            if self.poll_answer_bytes(cx)?.is_pending() {
                return Ok(Poll::Pending);
            }
        }
    }

    fn poll_download(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Fault> {
        let Connection { exchange: x, down, out, .. } = self;
        let x = &mut **x;
        let Some(up) = &mut x.up else { return Ok(Poll::Ready(())) };
        match x.download.poll(cx, &mut up.io, down, out) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Ready(Err(broken)) => Err(match broken {
                Broken::Sink => client_gone(),
                Broken::Source => Fault::new(Cause::UpstreamReset, "the endpoint cut its answer"),
                Broken::Truncated => {
                    Fault::new(Cause::UpstreamTruncated, "the endpoint ended its answer early")
                }
                Broken::Framing(refusal) => Fault::new(Cause::UpstreamMalformed, refusal.detail),
            }),
        }
    }

    fn poll_answer_bytes(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Fault> {
        let x = &mut *self.exchange;
        let Some(up) = &mut x.up else {
            return Err(Fault::new(Cause::Internal, "no connection to read from"));
        };
        let nothing_came = x.download.buffer.is_none();
        // A connection that rested may have been closed while this request was on its way. The endpoint did not answer
        // it; that it did not run it either is known only of requests that may run twice anyway.
        let rested = up.reused;
        let (cause, detail, came) = match poll_fill(&mut x.download.buffer, &mut up.io, cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(0)) if nothing_came => {
                (Cause::UpstreamClosed, "the endpoint closed before it answered", Came::Broken)
            }
            Poll::Ready(Ok(0)) => {
                (Cause::UpstreamTruncated, "the endpoint closed within its answer's head", Came::Broken)
            }
            Poll::Ready(Ok(_)) => {
                self.progress += 1;
                return Ok(Poll::Ready(()));
            }
            // A reset in place of an end mostly says that the endpoint left something unread, on a new connection this
            // request: its process died with the connection still in the queue, or before it got round to reading.
            // Mostly: so only what changes nothing is asked of another one.
            Poll::Ready(Err(error)) => {
                if let Some(fault) = Fault::refused(&error) {
                    return Err(fault);
                }
                let came = if x.harmless && nothing_came { Came::Dropped } else { Came::Broken };
                (Cause::UpstreamReset, "the endpoint cut the connection", came)
            }
        };
        if rested && nothing_came && x.idempotent {
            // It is not known, and does no harm.
            let _ = self.ended(Ended::Lost);
            return Err(Fault::new(cause, detail).after(Came::Unread));
        }
        Err(Fault::new(cause, detail).after(came))
    }

    /// Passes on a head and what of the body came with it. False: more bytes are needed. Pending: what it acknowledges is not
    /// journaled yet.
    fn answer_head(&mut self, buffer: &mut Buffer, cx: &mut Context<'_>) -> Result<Poll<bool>, Fault> {
        let bytes = buffer.filled();
        let mut room = head::room();
        let most = self.worker.shared.config.max_head_bytes.min(BUFFER_BYTES - 1024);
        let response = match head::response(bytes, &mut room, self.exchange.asked) {
            Ok(Some(response)) if response.len <= most => response,
            Ok(None) if bytes.len() < most => return Ok(Poll::Ready(false)),
            Ok(_) => {
                return Err(Fault::new(
                    Cause::UpstreamMalformed,
                    "the answer's head is larger than the limit",
                ));
            }
            Err(refusal) => return Err(Fault::new(refusal.cause, refusal.detail)),
        };
        let interim = response.status < 200 && response.framing != Framing::Tunnel;
        if !interim && self.poll_journaled(response.framing == Framing::Tunnel, cx)?.is_pending() {
            return Ok(Poll::Pending);
        }
        if response.status >= 400
            && let Some(fault) = self.asks_elsewhere(&response)
        {
            return Err(fault);
        }
        if !response.keep_alive && response.fields.get(local::DRAINING_FIELD).is_some() {
            self.endpoint_drains();
        }
        let x = &mut *self.exchange;
        if interim && x.minor == 0 {
            // A client of HTTP/1.0 does not know interim answers.
            let len = response.len;
            drop(room);
            buffer.consume(len);
            return Ok(Poll::Ready(true));
        }
        let decode = response.framing == Framing::Chunked && x.minor == 0;
        let mut pass = Pass::default();
        if interim {
            x.expects_continue &= response.status != 100;
        } else {
            let never_asked = x.expects_continue && x.early == 0 && x.upload.moved == 0 && !x.uploaded;
            x.close = !x.keep_alive
                || decode
                || never_asked
                || response.framing == Framing::UntilClose
                || self.ticket.is_to_end();
            x.tunnel = response.framing == Framing::Tunnel;
            x.websocket = x.tunnel
                && response.fields.get("upgrade").is_some_and(|to| to.eq_ignore_ascii_case(b"websocket"));
            if x.tunnel && !x.uploaded {
                // What is left of the request would have to go before what the client says in the other protocol.
                let early = "the endpoint changed the protocol before it had the whole request";
                return Err(Fault::new(Cause::UpstreamMalformed, early));
            }
            // It goes nowhere else any more.
            if x.keeps.take().is_some() {
                x.upload.kept = None;
            }
            // What follows is not this answer's any more.
            x.download.begin(if x.tunnel { Framing::None } else { response.framing }, decode);
            if !decode && !x.tunnel {
                let rest = &bytes[response.len..];
                // To a link much goes by itself, without being copied.
                if rest.len() < LENT || !matches!(self.down.stream, Stream::Link(_)) {
                    pass = x
                        .download
                        .body
                        .pass(rest)
                        .map_err(|refusal| Fault::new(Cause::UpstreamMalformed, refusal.detail))?;
                }
            }
        }
        let used = response.len + pass.pass;
        let close = self.exchange.close && !interim;
        EDIT.with_borrow_mut(|edit| self.send_head(edit, bytes, &response, pass, close, cx))?;
        let x = &mut *self.exchange;
        if !interim {
            let now = Instant::now();
            x.clock = Some(now);
            x.latency = now - x.began;
            x.status = response.status;
            x.up_stays = response.keep_alive;
            x.answering = true;
            x.deadline = x.end;
            x.download.moved = pass.pass as u64;
        }
        drop(room);
        buffer.consume(used + pass.omit);
        Ok(Poll::Ready(true))
    }

    /// Whether an answer that is there may go on. `tunnel`: it is the beginning of something else.
    #[inline]
    fn poll_journaled(&self, tunnel: bool, cx: &mut Context<'_>) -> Result<Poll<()>, Fault> {
        let Some(picked) = self.exchange.picked.as_ref() else { return Ok(Poll::Ready(())) };
        if tunnel && picked.is_journaled() {
            let detail = "what comes within another protocol cannot be journaled";
            return Err(Fault::new(Cause::Unsupported, detail));
        }
        match picked.poll_journaled(cx) {
            Poll::Ready(Err(cause)) => Err(Fault::new(cause, unpicked(cause))),
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// The sidecar at the endpoint says that it drains. Said by others, it says nothing of the endpoint.
    #[cold]
    fn endpoint_drains(&self) {
        let endpoint = self.exchange.picked.as_ref().map(|picked| &picked.endpoint);
        if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.secure.is_some()) {
            endpoint.leave(std::time::Instant::now());
        }
    }

    /// Whether the answer is dropped, and another endpoint asked.
    #[cold]
    fn asks_elsewhere(&mut self, response: &Response<'_, '_>) -> Option<Fault> {
        let (came, fault) = match self.unreached(response) {
            Some(cause) => {
                self.exchange.unreached = true;
                let on_device = self.exchange.picked.as_ref().is_some_and(Picked::is_on_device);
                if !self.exchange.idempotent && !self.is_vouched() && !on_device {
                    return self.ran_before(response);
                }
                (Came::Unread, Fault::new(cause, "the sidecar of the endpoint cannot reach its application"))
            }
            None => {
                let wait = response.fields.get("retry-after").and_then(retry_after);
                let came = Came::Answer { status: response.status, grpc: None, wait };
                (came, Fault::new(Cause::UpstreamClosed, "its answer calls for another try"))
            }
        };
        self.exchange.again = self.decide(came);
        match self.exchange.again {
            Some(_) => Some(fault.after(came)),
            None => self.ran_before(response),
        }
    }

    /// What another sidecar answers that the client hears of, where the Service has state: that the request may have run is counted here,
    /// too; anything else is not told where an earlier try may have run.
    fn ran_before(&mut self, response: &Response<'_, '_>) -> Option<Fault> {
        let picked = self.exchange.picked.as_ref().filter(|picked| picked.has_state())?;
        let shared = &self.worker.shared;
        let passes =
            picked.sent().is_some() || shared.lighter_passes(self.direction, Some(picked.endpoint.address));
        let said = response.fields.get(local::ERROR_FIELD).filter(|_| passes)?;
        self.exchange.said = local::unknown(said);
        let is_hidden = self.exchange.said.is_none() && self.exchange.attempts.may_have_run();
        is_hidden.then(|| Fault::new(Cause::OutcomeUnknown, local::RAN_BEFORE))
    }

    /// What the sidecar beside the endpoint says of its application, if that could not be reached.
    fn unreached(&self, response: &Response<'_, '_>) -> Option<Cause> {
        match self.direction {
            Direction::Outbound if response.status >= 500 => {
                local::unreached(response.fields.get(local::ERROR_FIELD)?)
            }
            _ => None,
        }
    }

    /// Whether what is said by the upstream is the word of a sidecar of the mesh, and of nobody else.
    fn is_vouched(&self) -> bool {
        self.exchange.up.as_ref().is_some_and(|up| up.io.stream.is_link())
    }

    fn send_head(
        &mut self,
        edit: &mut Edit,
        bytes: &[u8],
        response: &Response<'_, '_>,
        pass: Pass,
        close: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let draining = close && self.ticket.tells_of_drain();
        let state = match (&self.target, self.exchange.route) {
            (Some(target), Some(route)) => target.destination.routes.get(route),
            _ => None,
        };
        let is_last = response.status >= 200 || response.framing == Framing::Tunnel;
        let picked = self.exchange.picked.as_ref();
        let endpoint = picked.map(|picked| &*picked.endpoint);
        // What was sent on is answered by a sidecar. That it drains is not said of this one.
        let sent = picked.is_some_and(|picked| picked.sent().is_some())
            && response.fields.get(local::DRAINING_FIELD).is_none();
        let address = endpoint.map(|endpoint| endpoint.address);
        let lighter = sent || self.worker.shared.lighter_passes(self.direction, address);
        let rules = ResponseRules { lighter, client_minor: self.exchange.minor, close, draining };
        let heard = picked.filter(|picked| is_last && picked.is_heard());
        match state {
            Some(state) if state.chain.changes_response() && response.status >= 200 => {
                let mut changed = edit::filter_response(response, lighter);
                if let Some(picked) = heard {
                    changed.fields.retain(|(name, value)| !picked.hear(name, value));
                }
                state.chain.on_response(&mut changed);
                edit.changed_response(response, &changed, edit::reason(bytes), &rules);
            }
            _ => {
                edit.response(bytes, response, &rules);
                if let Some(picked) = heard {
                    edit.leave_out(bytes, response, |name, value| picked.hear(name, value));
                }
            }
        }
        if let (Some(state), Some(endpoint), true) = (state, endpoint, is_last)
            && let Some((name, value)) = state.say_session(self.exchange.session, endpoint.address)
        {
            edit.append(name, value.as_bytes());
        }
        let mut slices = Slices::new();
        edit.keep(response.len, response.len + pass.pass);
        edit.slices(bytes, &mut slices);
        if self.exchange.up.as_ref().is_some_and(|up| up.io.has_content()) {
            // It goes out with what follows.
            self.out.hold(&slices);
            return Ok(());
        }
        self.send_down(&slices, cx)
    }

    /// Ends an exchange: gives the endpoint's connection back or drops it, answers in the endpoint's stead where it did
    /// not, and accounts.
    pub(super) fn settle(&mut self, result: Result<(), Fault>) -> After {
        let x = &mut *self.exchange;
        // Mostly the answer's head came in this same turn.
        let (now, duration) = match x.clock.take() {
            Some(now) => (now, x.latency),
            None => {
                let now = Instant::now();
                (now, now - x.began)
            }
        };
        if x.tunnel && result.is_ok() {
            if let Some(mut picked) = x.picked.take() {
                if let Some(mut kept) = picked.keep() {
                    // It runs on, and is no request to the application any more.
                    kept.is_unlimited();
                    x.kept = Some(kept);
                }
                picked.finish(Outcome::Answered, x.latency, now.into_std());
            }
            return After::Tunnel;
        }
        let fault = result.err();
        (x.kept, x.keeps) = (None, None);
        self.settle_upstream(fault.as_ref(), now, duration);
        let x = &mut *self.exchange;
        let fault = fault.map(|fault| x.failed(fault));
        let whole = x.uploaded || (x.framing == Framing::None && x.head_len > 0);
        let after = match fault {
            None if !x.close && whole => After::Next,
            None if whole && self.down.early.is_empty() => After::Close,
            None => After::Linger,
            Some(fault) if x.answering || fault.cause == Cause::DownstreamAborted => After::Reset,
            Some(Fault { cause: Cause::Moved, .. }) if self.down.refuse(Cause::Moved) => After::Reset,
            Some(fault) => {
                let stays = x.keep_alive && whole && self.ticket.phase() == Phase::Serving;
                let answer = ErrorAnswer { cause: fault.cause, detail: fault.detail, grpc: x.grpc };
                x.status = answer.status();
                x.latency = duration;
                let bytes = answer.http1(x.asked.head, !stays);
                self.out.queue().extend_from_slice(&bytes);
                if stays { After::Next } else { After::Linger }
            }
        };
        let cause = fault.map(|fault| fault.cause).or(self.exchange.said);
        self.account(cause, duration);
        if after == After::Next {
            self.use_up();
        }
        after
    }

    fn settle_upstream(&mut self, fault: Option<&Fault>, now: Instant, duration: Duration) {
        let Connection { exchange: x, target, worker, .. } = self;
        let x = &mut **x;
        let up = x.up.take();
        let Some(mut picked) = x.picked.take() else { return };
        if picked.is_placed() {
            x.tell(&mut picked, fault);
        }
        let outcome = match fault {
            None if x.unreached => Outcome::Failed,
            None => Outcome::of(x.status),
            // A connection that rested too long says nothing about its endpoint.
            Some(Fault { came: Some(Came::Unread), .. }) => Outcome::Abandoned,
            // Time that passed while the client was to send or to read is not the endpoint's.
            Some(Fault { cause: Cause::RequestTimeout | Cause::IdleTimeout, came: None, .. })
                if !x.uploaded || x.answering =>
            {
                Outcome::Abandoned
            }
            Some(fault) if fault.cause.side() == Side::Upstream => Outcome::Failed,
            Some(_) => Outcome::Abandoned,
        };
        match up {
            Some(up) if fault.is_none() && x.up_stays && x.uploaded && x.download.buffer.is_none() => {
                if let Some(target) = target {
                    Pool::keep(worker, picked.endpoint.id, up, target.destination.policy(), now);
                }
            }
            Some(up) => {
                if fault.is_some() || !x.uploaded {
                    up.io.reset_on_close();
                }
                x.up_out.clear();
            }
            None => {}
        }
        x.download.buffer = None;
        x.failed = None;
        if x.tried == x.began {
            // Picked when the request began.
            picked.finish_after(outcome, x.latency, duration);
        } else {
            // Time in which it was held, waited for others, or was with another endpoint is not this one's.
            let latency = x.latency.saturating_sub(x.tried - x.began);
            picked.finish(outcome, latency, now.into_std());
        }
    }

    /// An answer that a filter gives.
    pub(super) fn answer_locally(&mut self, answer: &LocalAnswer) -> After {
        let x = &mut *self.exchange;
        let stays = x.keep_alive && x.framing == Framing::None && self.ticket.phase() == Phase::Serving;
        x.status = answer.status;
        x.latency = x.began.elapsed();
        let duration = x.latency;
        self.out.queue().extend_from_slice(&local::filter_answer_http1(answer, !stays));
        self.account(answer.refusal.map(Cause::from), duration);
        if !stays {
            return After::Linger;
        }
        self.use_up();
        After::Next
    }

    /// The request is done with: what is behind it in the buffers is the next one's.
    fn use_up(&mut self) {
        let x = &mut *self.exchange;
        if let Some(mut input) = self.input.take() {
            input.consume(x.head_len as usize + x.early as usize);
            if !input.is_empty() {
                self.input = Some(input);
            }
        }
        if let Some(behind) = x.upload.buffer.take()
            && !behind.is_empty()
        {
            self.input = Some(behind);
        }
    }

    /// Counts the exchange.
    pub(super) fn account(&self, cause: Option<Cause>, duration: Duration) {
        let head = self.input.as_ref().map_or(&b""[..], |input| input.filled());
        let x = &*self.exchange;
        let Some(target) = &self.target else { return };
        let destination = &target.destination;
        let metrics = match x.route {
            Some(route) => &destination.routes[route].metrics,
            None => &destination.unrouted,
        };
        let caller = self.vouched.as_ref().and_then(Option::as_ref);
        // Only a log, a tap and a span show the request's own words.
        let logged = telemetry::is_heard() || x.span.is_some();
        let words = |span: Span| if logged { span.get(head, &x.edit) } else { &[] };
        telemetry::account(&Record {
            caller: caller.map_or("", |caller| caller.id.as_str()),
            metrics,
            spoken: Spoken::Http1,
            peer: self.peer,
            endpoint: x.endpoint,
            status: x.status,
            grpc_status: None,
            cause,
            method: words(x.method),
            path: words(x.path),
            authority: words(x.authority),
            request_id: words(x.request_id),
            bytes_in: u64::from(x.early) + x.upload.moved,
            bytes_out: x.download.moved,
            latency: x.latency,
            duration,
            retries: x.retries,
            span: x.span.as_deref(),
        });
    }
}

fn client_gone() -> Fault {
    Fault::new(Cause::DownstreamAborted, "the client went away")
}
