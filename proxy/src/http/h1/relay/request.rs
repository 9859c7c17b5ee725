//! A request's head: read, routed, edited, and an endpoint picked for it. All in one step, without a pause.

use std::task::Context;

use lighter_config::name::ServicePort;
use lighter_config::snapshot::Protocol;
use lighter_filters::{Facts, Orders};
use tokio::time::Instant;

use super::{Connection, Fault, Next};
use crate::authorize;
use crate::balance::{Avoid, Cluster, Picked};
use crate::buf::{BUFFER_BYTES, Buffer};
use crate::error::Cause;
use crate::http::h1::body::Framing;
use crate::http::h1::edit::{self, RequestRules, Span};
use crate::http::h1::head::{self, Asked, Form, Request};
use crate::http::{address_text, dice, hop, unpicked};
use crate::mesh::Target;
use crate::mirror::Copy;
use crate::offload::Placing;
use crate::session::Session;
use crate::stateful::entry::Came;
use crate::stateful::gate;
use crate::stateful::moved::Keeps;
use crate::telemetry::{Direction, Spoken, spans};

/// Room that a buffer has behind the largest head.
const BEHIND_HEAD: usize = 1024;

impl Connection {
    /// Begins an exchange if a whole head is there.
    #[inline]
    pub(super) fn begin(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        let mut input = self.input.take()?;
        let next = match head::empty_lines(input.filled()) {
            Some(skipped) => {
                input.consume(skipped);
                self.begin_with(&input, cx)
            }
            None => Some(self.refuse(Cause::BadRequest, "nothing but empty lines")),
        };
        if !input.is_empty() {
            self.input = Some(input);
        }
        next
    }

    fn begin_with(&mut self, input: &Buffer, cx: &mut Context<'_>) -> Option<Next> {
        let bytes = input.filled();
        let most = self.worker.shared.config.max_head_bytes.min(BUFFER_BYTES - BEHIND_HEAD);
        if self.scanned > 0 && bytes.len() < most && !head::may_end(bytes, self.scanned) {
            self.scanned = bytes.len();
            return None;
        }
        let mut room = head::room();
        match head::request(bytes, &mut room) {
            Ok(Some(request)) if request.len <= most => {
                self.scanned = 0;
                Some(self.route(bytes, &request, cx).unwrap_or_else(Next::Refuse))
            }
            Ok(None) if bytes.len() < most => {
                self.scanned = bytes.len();
                None
            }
            Ok(_) => Some(self.refuse(Cause::HeadTooLarge, "the head is larger than the limit")),
            Err(refusal) => Some(self.refuse(refusal.cause, refusal.detail)),
        }
    }

    /// A head that is not read: nothing of it is known, and nothing behind it can be.
    #[cold]
    pub(super) fn refuse(&mut self, cause: Cause, detail: &'static str) -> Next {
        self.exchange.start(Instant::now());
        self.exchange.forget_request();
        if let Some(target) = &self.target {
            target.destination.unrouted.begin(Spoken::Http1);
        }
        Next::Refuse(Fault::new(cause, detail))
    }

    fn route(
        &mut self,
        bytes: &[u8],
        request: &Request<'_, '_>,
        cx: &mut Context<'_>,
    ) -> Result<Next, Fault> {
        let now = Instant::now();
        self.describe(bytes, request, now);
        let aimed = self.aim(request);
        let Connection { target, exchange: x, worker, .. } = self;
        let x = &mut **x;
        let Some(target) = target.as_ref() else {
            return Err(aimed.err().unwrap_or(Fault::new(Cause::Internal, "the request goes nowhere")));
        };
        let destination = &*target.destination;
        let Some((route, state)) = destination.route(request) else {
            destination.unrouted.begin(Spoken::Http1);
            return Err(Fault::new(Cause::NoRoute, "no route takes this request"));
        };
        x.route = Some(route.index);
        x.end = state.request_timeout.map(|limit| now + limit);
        x.deadline = x.first_end(state.retries.try_timeout, now);
        x.idle = destination.policy().idle_timeout;
        let patience = worker.shared.config.guard.client_timeout;
        x.window = Some(x.window(patience));
        state.metrics.begin(Spoken::Http1);
        worker
            .shared
            .guard
            .admit(&worker.shared, &destination.port.key, request)
            .map_err(|cause| Fault::new(cause, unpicked(cause)))?;
        if request.form == Form::Authority {
            return Err(Fault::new(Cause::Unsupported, "CONNECT is for the explicit proxy port"));
        }
        if target.bars(self.vouched.as_ref().is_some_and(Option::is_some)) {
            return Err(Fault::new(Cause::PlaintextRefused, authorize::UNPROVEN));
        }
        let forwarded = state.gate.is_some() && {
            let caller = self.vouched.as_ref().and_then(|caller| Some(&caller.as_ref()?.id));
            gate::is_forwarded(&worker.shared, caller, request.fields.get(hop::FORWARDED_FIELD))
        };
        // Of what comes in chunks more may be read ahead than its caller keeps.
        let is_kept = state.gate.is_some()
            && self.down.stream.is_link()
            && request.framing.known_length().is_some()
            && request.fields.get(hop::KEEPS_FIELD).is_some();
        if let Some(guard) = target.guard.as_ref().filter(|_| !forwarded) {
            let identity = self.vouched.as_ref().and_then(|caller| Some(&caller.as_ref()?.id));
            guard
                .request(self.peer, identity, request, request.authority)
                .map_err(|cause| Fault::new(cause, authorize::REFUSAL))?;
        }
        if self.direction == Direction::Inbound && self.caller.is_none() {
            self.caller = Some(address_text(self.peer));
        }
        // What is said of the caller of one that was sent on was said where it came in.
        let known = !forwarded;
        let rules = RequestRules {
            authority: destination.port.key.service.name.as_bytes(),
            caller: self.caller.as_deref().filter(|_| known).unwrap_or_default(),
            vouch: self
                .vouched
                .as_ref()
                .filter(|_| known)
                .map(|caller| caller.as_ref().map_or(&b""[..], |caller| caller.field.as_bytes())),
            identify: self.direction == Direction::Outbound,
        };
        x.span = spans::begin(self.direction, |name| request.fields.get(name));
        if state.chain.is_empty() && x.span.is_none() {
            x.request_id = x.edit.request(bytes, request, &rules);
        } else {
            let caller = match forwarded {
                false => self.vouched.as_ref().and_then(|caller| Some(caller.as_ref()?.id.as_str())),
                true => Some(gate::vouched_for(request.fields.get("x-forwarded-client-cert"))),
            };
            let facts = Facts {
                caller: caller.unwrap_or_default(),
                grpc: request.grpc,
                body: request.framing.known_length(),
                now: now.into_std(),
                dice,
            };
            let mut changed = edit::filter_request(request, rules.authority, facts);
            if let Some(span) = &x.span {
                span.write(|name, value| changed.set(name, value));
            }
            let answer = state.chain.on_request(route, &mut changed);
            let Orders { delay, max_body, .. } = changed.orders;
            (x.max_body, x.held) = (max_body, delay);
            if !delay.is_zero() {
                state.metrics.delayed();
            }
            if let Some(answer) = answer {
                return Ok(if delay.is_zero() { Next::Answer(answer) } else { Next::Delay(Some(answer)) });
            }
            if request.upgrade.is_none() {
                x.upload.copy = Copy::begin(worker, state, &changed, request.framing == Framing::Chunked);
            }
            x.request_id = x.edit.changed_request(request, &changed, &rules);
        }
        let caller = &self.peer;
        let came = || {
            let came = Came {
                source: gate::source(self.peer),
                bytes: request.len,
                deadline: x.end,
                is_stream: request.upgrade.is_some(),
                waits: true,
                is_kept,
                is_forwarded: forwarded,
            };
            (&worker.shared, came)
        };
        let held = state.admit(request, came).map_err(|cause| Fault::new(cause, unpicked(cause)))?;
        let hash = |cluster: &Cluster| {
            x.hash = cluster.hash(request, caller.ip());
            x.hash
        };
        if target.pinned.is_none() {
            x.session = state.session(request);
        }
        if state.offload.is_some() {
            x.placing = state.asked(request);
        }
        let mut picked = pick(target, route.index, None, (x.placing.as_ref(), x.session, hash), now)?;
        picked.hold(held);
        // What is placed may run on a device, which knows of no other place.
        if target.pinned.is_none() && picked.wait_out(true, came) && x.placing.is_none() {
            // What is framed in chunks takes more than its content, of which it is known how much is kept.
            let length = request.framing.known_length();
            x.keeps = length.and_then(|length| Keeps::request(&worker.shared, request.len, Some(length)));
        }
        if picked.is_on_device() {
            x.deadline = x.first_end(state.try_timeout(&picked), now);
            x.silence = state.longest_silence(&picked);
            x.window = Some(x.window(patience));
        }
        if !x.held.is_zero() {
            x.endpoint = Some(picked.endpoint.address);
            x.picked = Some(picked);
            return Ok(Next::Delay(None));
        }
        if picked.waits() {
            x.picked = Some(picked);
            return Ok(Next::Exchange);
        }
        x.up = worker.http1.borrow_mut().take(picked.endpoint.id, now, cx);
        x.keep_for_links();
        x.endpoint = Some(picked.endpoint.address);
        x.picked = Some(picked);
        Ok(Next::Exchange)
    }

    /// Notes what has to be known until the exchange ends.
    fn describe(&mut self, bytes: &[u8], request: &Request<'_, '_>, now: Instant) {
        let x = &mut *self.exchange;
        x.start(now);
        x.head_len = request.len as u32;
        x.method = Span::of(bytes, request.method);
        x.path = Span::of(bytes, request.target);
        x.authority = Span::of(bytes, request.authority);
        x.framing = request.framing;
        x.asked = Asked { head: request.method == b"HEAD", upgrade: request.upgrade.is_some() };
        x.minor = request.minor;
        x.keep_alive = request.keep_alive;
        x.expects_continue = request.expects_continue;
        x.grpc = request.grpc;
        x.idempotent = hop::is_idempotent(request.method);
        x.harmless = hop::is_safe(request.method);
    }

    /// Finds where the request goes, by the mesh of the moment.
    fn aim(&mut self, request: &Request<'_, '_>) -> Result<(), Fault> {
        let in_force = &self.worker.shared.mesh;
        if !self.by_authority {
            if self.seen != Some(in_force.generation()) {
                let mesh = in_force.load();
                self.seen = Some(mesh.generation);
                if let Some(target) = &mut self.target {
                    target.refresh(&mesh);
                }
            }
            return Ok(());
        }
        let mesh = in_force.load();
        self.target = None;
        let unknown = Fault::new(Cause::NotInRegistry, "the authority is no Service of this mesh");
        let authority = std::str::from_utf8(request.authority).map_err(|_| unknown)?;
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| unknown)?),
            _ => (authority, 80),
        };
        let service = mesh.service(host, &self.worker.shared.config.namespace).ok_or(unknown)?;
        let destination = mesh.destination(&ServicePort { service, port }).ok_or(unknown)?.clone();
        // What speaks something else at the other end is reached by CONNECT, or in its own tongue.
        if !matches!(destination.protocol(), Protocol::Auto | Protocol::Http) {
            return Err(Fault::new(Cause::Unsupported, "this port does not speak HTTP/1.1: use CONNECT"));
        }
        self.target = Some(Target::of(destination));
        Ok(())
    }
}

/// Picks an endpoint for route `index` of `target`: that of the request's session, or another one than `avoid` if there is
/// one. `placing`: what is known of the request, where it may run on a device; `hash` gives what [`Cluster::hash`] says of it.
pub(super) fn pick(
    target: &Target,
    index: usize,
    avoid: Option<&Avoid>,
    (placing, session, hash): (Option<&Placing>, Option<Session>, impl FnMut(&Cluster) -> Option<u64>),
    now: Instant,
) -> Result<Picked, Fault> {
    let now = now.into_std();
    if let Some(endpoint) = &target.pinned {
        return Ok(Cluster::take(endpoint, now));
    }
    let pick = || {
        let mut picked = target.destination.routes[index].pick(
            placing.map(|asked| (asked, true)),
            session,
            hash,
            (avoid.is_none(), avoid),
            now,
        )?;
        picked.needs_connection().map(|()| picked)
    };
    pick().map_err(|cause| Fault::new(cause, unpicked(cause)))
}
