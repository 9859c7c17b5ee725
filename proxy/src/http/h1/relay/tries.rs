//! The tries of an exchange: an endpoint is picked and connected to, and the request sent, until one answers or there is no
//! other try.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use lighter_migrate::{Ended, Known, Next, To};
use tokio::time::{Instant, sleep};

use super::request::pick;
use super::{Connection, Fault};
use crate::balance::{Avoid, Outcome, Picked};
use crate::dial;
use crate::error::{Cause, Retry};
use crate::http::{hop, unpicked};
use crate::io::Stream;
use crate::link;
use crate::mesh::RouteState;
use crate::retry::{Came, Request};
use crate::stateful::moved::Keeps;

impl Connection {
    /// Carries the exchange to its end, on one endpoint or, where that may be, on others.
    pub(super) async fn exchange(&mut self) -> Result<(), Fault> {
        loop {
            if self.exchange.picked.as_ref().is_some_and(Picked::waits) {
                self.exchange.deadline = self.exchange.end;
                self.admitted().await?;
                self.try_begins(Instant::now());
            }
            let dialled = match self.exchange.up {
                Some(_) => Ok(()),
                None => self.dial().await,
            };
            let fault = match dialled {
                Ok(()) => match poll_fn(|cx| self.poll_exchange(cx)).await {
                    Ok(()) => return Ok(()),
                    Err(fault) => fault,
                },
                Err(fault) => fault,
            };
            // What is cold is kept elsewhere: this is a part of what every connection takes.
            Box::pin(self.next_try(fault)).await?;
        }
    }

    /// A try came to nothing: sees to the next one, if there is one.
    #[cold]
    async fn next_try(&mut self, fault: Fault) -> Result<(), Fault> {
        if fault.has_moved() {
            let (is_whole, x) = (self.exchange.is_whole(), &mut *self.exchange);
            if let Some(keeps) = Keeps::take(&mut x.keeps, &mut x.attempts, is_whole) {
                return self.moves_on(keeps).await;
            }
        }
        let how = match fault.came {
            Some(Came::Unread) => Some(Ended::Unread),
            Some(_) => Some(Ended::Lost),
            None => self.exchange.sent.then_some(Ended::Lost),
        };
        let next = how.and_then(|how| self.ended(how));
        if next == Some(Next::Look) {
            // What it holds of the limits is another one's to pick by.
            self.leave_endpoint(&fault);
            if let Some(picked) = Keeps::look_again(&mut self.exchange.keeps) {
                self.exchange.again = None;
                self.exchange.attempts.goes(To::Elsewhere);
                return self.goes_to(picked);
            }
        }
        let pause = self.again(&fault).filter(|_| next != Some(Next::Fail));
        let Some(pause) = pause else { return Err(fault) };
        self.leave_endpoint(&fault);
        if !pause.is_zero() {
            self.watched(Box::pin(sleep(pause))).await?;
        }
        self.pick_again()
    }

    /// A try of it ended so: what is to be done, where its Service has state.
    pub(super) fn ended(&mut self, how: Ended) -> Option<Next> {
        let head = self.input.as_ref()?.filled();
        let x = &*self.exchange;
        // One that could not be reached is left already: there it was kept for that, or nothing is known of it.
        let has_state = x.picked.as_ref().map_or(x.keeps.is_some(), Picked::has_state);
        if !has_state {
            return None;
        }
        let on_device = x.picked.as_ref().is_some_and(Picked::is_on_device);
        let may_repeat = |method: &[u8]| self.state().is_some_and(|state| state.retries.may_repeat(method));
        let is_repeatable = on_device || may_repeat(x.method.get(head, &x.edit));
        let known = Known { is_kept: x.keeps.is_some() && x.is_whole(), is_repeatable };
        Some(self.exchange.attempts.ended(how, known))
    }

    /// Waits as long as it is held, the client stays, and the limits allow; then takes a connection that rests.
    pub(super) async fn hold(&mut self) -> Result<(), Fault> {
        // No endpoint's time runs meanwhile.
        self.exchange.deadline = self.exchange.end;
        self.watched(Box::pin(sleep(self.exchange.held))).await?;
        let now = Instant::now();
        if let Some(picked) = &mut self.exchange.picked {
            picked.begins(now.into_std());
        }
        self.try_begins(now);
        if let Some(picked) = self.exchange.picked.as_ref().filter(|picked| !picked.waits()) {
            let id = picked.endpoint.id;
            self.take_kept(id).await;
        }
        Ok(())
    }

    /// Waits until the limits of the port let the request through, and takes a connection that rests.
    async fn admitted(&mut self) -> Result<(), Fault> {
        let Some(mut picked) = self.exchange.picked.take() else { return Ok(()) };
        let waiting = Box::pin(async move {
            let admitted = picked.admitted().await;
            (picked, admitted)
        });
        let (picked, admitted) = self.watched(waiting).await?;
        admitted.map_err(|cause| Fault::new(cause, unpicked(cause)))?;
        if let Some(epoch) = picked.sent() {
            let epoch = epoch.0.to_string();
            self.exchange.edit.append(hop::FORWARDED_FIELD.as_bytes(), epoch.as_bytes());
        }
        self.take_kept(picked.endpoint.id).await;
        self.exchange.endpoint = Some(picked.endpoint.address);
        self.exchange.picked = Some(picked);
        Ok(())
    }

    async fn take_kept(&mut self, endpoint: u32) {
        let now = Instant::now();
        poll_fn(|cx| {
            self.exchange.up = self.worker.http1.borrow_mut().take(endpoint, now, cx);
            self.exchange.keep_for_links();
            Poll::Ready(())
        })
        .await;
    }

    /// Connects to the endpoint that is picked.
    async fn dial(&mut self) -> Result<(), Fault> {
        let (Some(picked), Some(target)) = (&self.exchange.picked, &self.target) else {
            return Err(Fault::new(Cause::Internal, "no endpoint is picked"));
        };
        let direction = picked.direction(self.direction);
        let (worker, endpoint) = (self.worker.clone(), picked.endpoint.clone());
        let timeout = target.destination.policy().connect_timeout;
        let dialling = Box::pin(link::dial::exchange(&worker, direction, &endpoint, timeout));
        match self.watched(dialling).await? {
            Ok(mut up) => {
                let x = &mut *self.exchange;
                match &mut up.io.stream {
                    Stream::Link(exchange) if Keeps::is_said_framed(&mut x.keeps, x.attempts) => {
                        exchange.keeps();
                    }
                    Stream::Link(_) => {}
                    // Nobody gives it back.
                    _ => x.keeps = None,
                }
                x.up = Some(up);
                Ok(())
            }
            Err(error) => {
                let safe = error.retry == Retry::Safe;
                if let Some(mut picked) = self.exchange.picked.take() {
                    let endpoint = picked.endpoint.clone();
                    let (outcome, setback) = (dial::outcome(&error), picked.set_back(Came::Unread));
                    self.exchange.kept = picked.keep();
                    picked.finish(outcome, Duration::ZERO, Instant::now().into_std());
                    let avoid = Avoid::after(endpoint, error.cause).with(outcome).on_device(setback);
                    self.exchange.failed = Some(avoid);
                }
                let fault = Fault::new(error.cause, error.detail);
                Err(if safe { fault.after(Came::Unread) } else { fault })
            }
        }
    }

    /// Resolves with `work`, unless the client goes away or a limit passes.
    async fn watched<F: Future>(&mut self, work: F) -> Result<F::Output, Fault> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => self
                .poll_limits(cx)
                .and_then(|()| self.poll_client(cx))
                .map_or_else(|fault| Poll::Ready(Err(fault)), |()| Poll::Pending),
        })
        .await
    }

    /// How long to wait before another try; none if this was the last one.
    fn again(&mut self, fault: &Fault) -> Option<Duration> {
        let came = fault.came?;
        // Of an answer it is decided before it is dropped.
        self.exchange.again.take().or_else(|| self.decide(came))
    }

    /// The same, by what came of the try.
    pub(super) fn decide(&mut self, came: Came) -> Option<Duration> {
        let (x, head) = (&*self.exchange, self.input.as_ref()?.filled());
        let request = Request {
            method: x.method.get(head, &x.edit),
            whole: x.is_whole(),
            left: x.end.map(|end| end.saturating_duration_since(Instant::now())),
            // One that could not be reached is left already.
            on_device: match &x.picked {
                Some(picked) => picked.is_on_device(),
                None => x.failed.as_ref().is_some_and(|failed| failed.setback().is_some()),
            },
        };
        let mut tries = x.tries;
        let again = self.state()?.again(&mut tries, came, request);
        self.exchange.tries = tries;
        again
    }

    /// The state of the Service has left the endpoint, which has not executed the request: goes where it is. What comes of that
    /// counts as no other try, and says nothing of the endpoint.
    #[cold]
    async fn moves_on(&mut self, keeps: Box<Keeps>) -> Result<(), Fault> {
        let Some(picked) = self.exchange.picked.take() else {
            return Err(Fault::new(Cause::Internal, "no endpoint is picked"));
        };
        let left = picked.leave(Instant::now().into_std());
        self.exchange.try_ends();
        let (picked, keeps) = self.watched(Box::pin(keeps.elsewhere(left))).await?;
        self.exchange.attempts.goes(keeps.to());
        self.exchange.keeps = Some(keeps);
        self.goes_to(picked)
    }

    /// It goes to where the state of its Service is.
    #[cold]
    fn goes_to(&mut self, mut picked: Picked) -> Result<(), Fault> {
        picked.needs_connection().map_err(|cause| Fault::new(cause, unpicked(cause)))?;
        self.exchange.endpoint = Some(picked.endpoint.address);
        self.exchange.picked = Some(picked);
        self.try_begins(Instant::now());
        Ok(())
    }

    /// Leaves the endpoint at which a try failed.
    fn leave_endpoint(&mut self, fault: &Fault) {
        let x = &mut *self.exchange;
        if let Some(mut picked) = x.picked.take() {
            let now = Instant::now();
            let closed = matches!(fault.cause, Cause::UpstreamClosed | Cause::UpstreamReset);
            let rested = closed && x.up.as_ref().is_some_and(|up| up.reused);
            let (outcome, latency) = match fault.came {
                Some(Came::Answer { status, .. }) => (Outcome::of(status), now - x.tried),
                // A connection that rested too long says nothing about its endpoint, nor that the state of its Service has moved.
                Some(Came::Unread) if rested || fault.has_moved() => (Outcome::Abandoned, Duration::ZERO),
                _ => (Outcome::Failed, Duration::ZERO),
            };
            let setback = fault.came.and_then(|came| picked.set_back(came));
            let avoid = Avoid::after(picked.endpoint.clone(), fault.cause).with(outcome);
            x.failed = Some(avoid.on_device(setback));
            x.kept = picked.keep();
            picked.finish(outcome, latency, now.into_std());
        }
        x.try_ends();
    }

    /// Picks another endpoint.
    fn pick_again(&mut self) -> Result<(), Fault> {
        let (Some(target), x) = (&self.target, &mut *self.exchange) else {
            return Err(Fault::new(Cause::Internal, "the request goes nowhere"));
        };
        let Some(route) = x.route else {
            return Err(Fault::new(Cause::Internal, "the request has no route"));
        };
        let now = Instant::now();
        let (hash, placing) = (|_: &_| x.hash, x.placing.as_ref());
        let mut picked = pick(target, route, x.failed.as_ref(), (placing, x.session, hash), now)?;
        picked.hold(target.destination.routes[route].admit_again(x.kept.take()));
        x.endpoint = Some(picked.endpoint.address);
        x.picked = Some(picked);
        x.retries = x.retries.saturating_add(1);
        self.try_begins(now);
        Ok(())
    }

    /// A try begins: the endpoint's time runs.
    fn try_begins(&mut self, now: Instant) {
        let limit = self.try_timeout();
        let silence = self.longest_silence();
        let patience = self.worker.shared.config.guard.client_timeout;
        let x = &mut *self.exchange;
        x.silence = silence;
        x.window = Some(x.window(patience));
        x.tried = now;
        x.deadline = x.first_end(limit, now);
    }

    /// A deadline has passed.
    #[cold]
    pub(super) fn late(&mut self) -> Result<(), Fault> {
        let (now, limit) = (Instant::now(), self.try_timeout());
        let x = &mut *self.exchange;
        if x.end.is_some_and(|end| end <= now) {
            return Err(Fault::new(Cause::RequestTimeout, "the request took too long"));
        }
        if !x.uploaded && x.sent {
            // The endpoint has not the whole request yet: its time has not begun.
            x.deadline = x.first_end(limit, now);
            return Ok(());
        }
        Err(Fault::new(Cause::RequestTimeout, "the endpoint took too long to answer").after(Came::Late))
    }

    fn try_timeout(&self) -> Option<Duration> {
        let state = self.state()?;
        self.exchange.picked.as_ref().map_or(state.retries.try_timeout, |picked| state.try_timeout(picked))
    }

    fn longest_silence(&self) -> Option<Duration> {
        self.state()?.longest_silence(self.exchange.picked.as_ref()?)
    }

    /// The state of its route, once there is one.
    pub(super) fn state(&self) -> Option<&RouteState> {
        self.target.as_ref()?.destination.routes.get(self.exchange.route?)
    }
}
