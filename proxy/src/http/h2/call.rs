//! One request and all that is known of it, from when it came until it is answered: where it goes, and what is said to the
//! endpoint there and of its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::snapshot::TrafficPolicy;
use lighter_migrate::{Attempts, Ended, Known, Next, To};

use super::exchange::{Cut, watched};
use super::fields::{RequestHead, ResponseHead};
use super::limits::Limits;
use super::retry::Crowded;
use super::{Downstream, head};
use crate::balance::{Avoid, Cluster, Endpoint, Picked};
use crate::error::{Cause, ProxyError, Retry, Side};
use crate::http::hop::Kind;
use crate::http::local::{self, ERROR_FIELD, RAN_BEFORE};
use crate::http::stream::Stream;
use crate::http::{hop, unpicked};
use crate::mesh::RouteState;
use crate::mirror::Copy;
use crate::offload::Placing;
use crate::retry::Tries;
use crate::session::Session;
use crate::stateful::entry::Came;
use crate::stateful::gate::{self, LetIn};
use crate::stateful::moved::Keeps;
use crate::telemetry::spans::Begun;
use crate::worker::Shared;

/// One request and all that is known of it.
pub(crate) struct Call<'a> {
    pub(crate) downstream: &'a Downstream,
    pub(crate) state: &'a RouteState,
    pub(crate) policy: &'a TrafficPolicy,
    pub(crate) pinned: Option<&'a Arc<Endpoint>>,
    pub(crate) head: RequestHead,
    pub(crate) grpc: bool,
    /// When it came, or the route let it go on.
    pub(crate) began: Instant,
    /// The longest body that is passed on.
    pub(crate) max_body: u64,
    /// A copy that is made of it.
    pub(crate) copy: Option<Box<Copy>>,
    pub(crate) limits: Limits<'a>,
    pub(crate) tally: Tally,
    pub(crate) crowded: Crowded,
    /// The other tries that it had.
    pub(crate) tries: Tries,
    /// The session that it is of, if its route has sessions.
    pub(crate) session: Option<Box<Session>>,
    /// What is known of it before it runs, if its route's requests may run on devices.
    pub(crate) placing: Option<Placing>,
    /// The try at hand is on one.
    pub(crate) on_device: bool,
    /// That it was let in, between two tries.
    pub(crate) kept: Option<Box<LetIn>>,
    /// Another instance of this workload's Service has sent it on.
    pub(crate) forwarded: bool,
    /// Its caller's sidecar keeps it until it is answered.
    pub(crate) is_kept: bool,
    /// This sidecar does, as the state of its Service may leave from where it goes.
    pub(crate) keeps: Option<Box<Keeps>>,
    /// Where it goes next, as the state has left.
    pub(crate) elsewhere: Option<Box<Picked>>,
    /// Each try has a connection of its own.
    pub(crate) connects: bool,
    /// There is another one, after this time.
    pub(crate) decided: Option<Duration>,
    /// The try at hand has begun to send it.
    pub(crate) sent: bool,
    /// What became of those that it had at a Service with state.
    pub(crate) attempts: Attempts,
}

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
    /// Its span in a trace, where one is recorded.
    pub(crate) span: Option<Box<Begun>>,
    /// What a sidecar behind this one has answered in the service's stead, as far as that is counted here as well.
    pub(crate) said: Option<Cause>,
}

impl Call<'_> {
    /// Waits because its route says so, as long as the caller does and the limits allow.
    pub(super) async fn hold(&mut self, respond: &Stream, delay: Duration) -> Result<(), ProxyError> {
        self.state.metrics.delayed();
        self.limits.start(self.downstream).await;
        watched(&mut self.limits, respond, tokio::time::sleep(delay)).await?;
        self.began = Instant::now();
        Ok(())
    }

    /// Picks an endpoint: that of its session, or not `avoid` if there is another. `is_empty` says whether the request has no body.
    pub(crate) fn pick(
        &mut self,
        avoid: Option<&Avoid>,
        is_empty: impl Fn() -> bool,
    ) -> Result<Picked, ProxyError> {
        let is_first = self.tally.endpoint.is_none();
        if !is_first && let Some(picked) = self.elsewhere.take() {
            return Ok(*picked);
        }
        let now = if is_first { self.began } else { Instant::now() };
        if let Some(endpoint) = self.pinned {
            return Ok(Cluster::take(endpoint, now));
        }
        let caller = self.downstream.context.peer.ip();
        let mut pick = || {
            let held = match is_first {
                true => self.state.admit(&self.head, || self.comes())?,
                false => self.state.admit_again(self.kept.take()),
            };
            if is_first {
                self.session = self.state.session(&self.head).map(Box::new);
            }
            let session = self.session.as_deref().copied();
            let placing = self.placing.as_ref().map(|asked| (asked, self.connects));
            let hash = |cluster: &Cluster| cluster.hash(&self.head, caller);
            let mut picked = self.state.pick(placing, session, hash, (is_first, avoid), now)?;
            picked.hold(held);
            // What is placed may run on a device, which knows of no other place.
            if is_first && picked.wait_out(self.connects, || self.comes()) && self.placing.is_none() {
                self.keeps = self.keep(is_empty());
            }
            Ok(picked)
        };
        let picked = pick().map_err(|cause| ProxyError::new(cause, unpicked(cause)))?;
        if self.placing.is_some() {
            self.on_device = picked.is_on_device();
            self.limits.next_within(self.state.try_timeout(&picked), self.state.longest_silence(&picked));
        }
        Ok(picked)
    }

    /// Keeps the request until it is answered, if it can be.
    #[cold]
    #[inline(never)]
    fn keep(&self, is_empty: bool) -> Option<Box<Keeps>> {
        let (came, length) = (self.comes(), self.head.fields.of(Kind::ContentLength));
        let length = length.and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
        Keeps::request(came.0, came.1.bytes, if is_empty { Some(0) } else { length })
    }

    /// Leaves the endpoint from which the state has left, and gives what finds where it is.
    pub(crate) fn leaves(
        &mut self,
        picked: Picked,
        keeps: Box<Keeps>,
    ) -> impl Future<Output = (Picked, Box<Keeps>)> + use<> {
        self.limits.try_ends();
        self.sent = false;
        keeps.elsewhere(picked.leave(Instant::now()))
    }

    /// That is found.
    pub(crate) fn found(&mut self, (picked, keeps): (Picked, Box<Keeps>)) {
        self.attempts.goes(keeps.to());
        self.keeps = Some(keeps);
        self.elsewhere = Some(Box::new(picked));
    }

    /// Whether it goes elsewhere, as the state has left where a try did not get to.
    #[cold]
    pub(super) fn looks_again(&mut self) -> bool {
        let Some(found) = Keeps::look_again(&mut self.keeps) else { return false };
        self.attempts.goes(To::Elsewhere);
        self.elsewhere = Some(Box::new(found));
        true
    }

    /// A try of it ended so, at a Service with state: what is to be done. `whole`: everything that was sent of it is at hand.
    #[cold]
    pub(crate) fn ended(&mut self, how: Ended, whole: bool) -> Next {
        let is_repeatable = self.on_device || self.state.retries.may_repeat(self.head.method());
        self.attempts.ended(how, Known { is_kept: whole && self.keeps.is_some(), is_repeatable })
    }

    /// What is asked of the place of a Service with state.
    #[cold]
    fn comes(&self) -> (&Arc<Shared>, Came) {
        let context = &self.downstream.context;
        let came = Came {
            source: gate::source(context.peer),
            bytes: self.head.target().len() + self.head.fields.size(),
            deadline: self.limits.end().map(tokio::time::Instant::from_std),
            // Which of them go on for long nobody says.
            is_stream: self.grpc,
            waits: true,
            is_kept: self.is_kept,
            is_forwarded: self.forwarded,
        };
        (&context.worker.shared, came)
    }

    /// Resolves once it is to be cut, as the state of its Service leaves this place: for what may not end by itself. What runs
    /// elsewhere does not keep the state here.
    pub(crate) fn cut<'p>(&self, picked: &'p Picked) -> Option<Cut<'p>> {
        if self.grpc && picked.sent().is_none() { picked.cut() } else { None }
    }

    /// Says to the next sidecar that it was sent on, if it is.
    pub(crate) fn is_sent(&mut self, picked: &Picked) {
        if let Some(epoch) = picked.sent() {
            self.head.fields.set(hop::FORWARDED_FIELD.as_bytes(), epoch.0.to_string().as_bytes());
        }
    }

    /// What its caller is told as it failed by `error`: where the Service has state, before all else that it may have run.
    pub(crate) fn failed(&self, error: ProxyError) -> ProxyError {
        match self.attempts.may_have_run() && self.tally.status == 0 && error.cause.side() != Side::Downstream
        {
            true => ProxyError { cause: Cause::OutcomeUnknown, retry: Retry::Never, ..error },
            false => error,
        }
    }

    /// How long the endpoint of a try that began at `sent` took to answer.
    pub(crate) fn latency(&self, sent: Instant) -> Duration {
        self.tally.latency.saturating_sub(sent - self.began)
    }

    /// Makes `grpc-timeout` say what is left of it.
    pub(crate) fn refresh_deadline(&mut self) {
        if self.grpc
            && let Some(left) = self.limits.left_of_grpc()
        {
            self.head.fields.set(head::GRPC_TIMEOUT, head::grpc_timeout_value(left).as_bytes());
        }
    }

    /// What this hop and the route's filters do to the head of an endpoint's answer.
    pub(crate) fn finish_head(
        &mut self,
        response: &mut ResponseHead,
        picked: &Picked,
    ) -> Result<(), ProxyError> {
        let endpoint = &picked.endpoint;
        let context = &self.downstream.context;
        // What was sent on is answered by a sidecar.
        let sent = picked.sent().is_some();
        if !sent && !context.worker.shared.lighter_passes(context.direction, Some(endpoint.address)) {
            response.fields.remove(Kind::Lighter);
        }
        if (response.status >= 400 || self.grpc)
            && picked.has_state()
            && let Some(said) = response.fields.get(ERROR_FIELD.as_bytes())
        {
            self.tally.said = local::unknown(said);
            if self.tally.said.is_none() && self.attempts.may_have_run() {
                return Err(ran_before());
            }
        }
        picked.hear_all(&mut response.fields);
        if self.state.chain.changes_response() {
            head::filter_response(&self.state.chain, response)
                .map_err(|cause| ProxyError::new(cause, "a filter made an answer that is not valid"))?;
        }
        let session = self.session.as_deref().copied();
        if let Some((name, value)) = self.state.say_session(session, endpoint.address) {
            response.fields.push(name, value.as_bytes());
        }
        Ok(())
    }
}

/// A sidecar says of the last try that it was not executed. An earlier one may have been.
fn ran_before() -> ProxyError {
    ProxyError::new(Cause::OutcomeUnknown, RAN_BEFORE)
}
