//! A request's head: read, routed, edited, and an endpoint picked for it. All in one step, without a pause.

use std::task::Context;

use lighter_config::name::ServicePort;
use lighter_config::snapshot::Protocol;
use tokio::time::Instant;

use super::{Connection, Fault, Next};
use crate::authorize;
use crate::balance::{Avoid, Cluster, Picked};
use crate::buf::{BUFFER_BYTES, Buffer};
use crate::error::Cause;
use crate::http::h1::edit::{self, RequestRules, Span};
use crate::http::h1::head::{self, Asked, Form, Request};
use crate::http::{address_text, hop};
use crate::mesh::Target;
use crate::telemetry::{Direction, Spoken};

/// Room that a buffer has behind the largest head.
const BEHIND_HEAD: usize = 1024;

impl Connection {
    /// Begins an exchange if a whole head is there.
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
    fn refuse(&mut self, cause: Cause, detail: &'static str) -> Next {
        self.start(Instant::now());
        self.exchange.edit.clear();
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
        self.exchange.edit.clear();
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
        x.deadline = state.request_timeout.map(|limit| now + limit);
        x.idle = destination.policy().idle_timeout;
        state.metrics.begin(Spoken::Http1);
        if request.form == Form::Authority {
            return Err(Fault::new(Cause::Unsupported, "CONNECT is for the explicit proxy port"));
        }
        if target.bars(self.vouched.as_ref().is_some_and(Option::is_some)) {
            return Err(Fault::new(Cause::PlaintextRefused, authorize::UNPROVEN));
        }
        if let Some(guard) = &target.guard {
            let identity = self.vouched.as_ref().and_then(|caller| Some(&caller.as_ref()?.id));
            guard
                .request(self.peer, identity, request, request.authority)
                .map_err(|cause| Fault::new(cause, authorize::REFUSAL))?;
        }
        if self.direction == Direction::Inbound && self.caller.is_none() {
            self.caller = Some(address_text(self.peer));
        }
        let rules = RequestRules {
            authority: destination.port.key.service.name.as_bytes(),
            caller: self.caller.as_deref().unwrap_or_default(),
            vouch: self
                .vouched
                .as_ref()
                .map(|caller| caller.as_ref().map_or(&b""[..], |caller| caller.field.as_bytes())),
            identify: self.direction == Direction::Outbound,
        };
        if state.chain.is_empty() {
            x.request_id = x.edit.request(bytes, request, &rules);
        } else {
            let mut changed = edit::filter_request(request, rules.authority);
            if let Some(answer) = state.chain.on_request(route, &mut changed) {
                return Ok(Next::Answer(answer));
            }
            x.request_id = x.edit.changed_request(request, &changed, &rules);
        }
        let picked = pick(target, route.index, None, now)
            .map_err(|cause| Fault::new(cause, "no endpoint can take this request"))?;
        x.up = worker.http1.borrow_mut().take(picked.endpoint.id, now, cx);
        x.endpoint = Some(picked.endpoint.address);
        x.picked = Some(picked);
        Ok(Next::Exchange)
    }

    fn start(&mut self, now: Instant) {
        let x = &mut *self.exchange;
        // What the exchange before moved counts for good: progress never stands again where it stood.
        self.progress =
            self.progress.wrapping_add(x.upload.moved).wrapping_add(x.download.moved).wrapping_add(1);
        x.start(now);
    }

    /// Notes what has to be known until the exchange ends.
    fn describe(&mut self, bytes: &[u8], request: &Request<'_, '_>, now: Instant) {
        self.start(now);
        let x = &mut *self.exchange;
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

/// Picks an endpoint for route `index` of `target`, another one than `avoid` if there is one.
pub(super) fn pick(
    target: &Target,
    index: usize,
    avoid: Option<&Avoid>,
    now: Instant,
) -> Result<Picked, Cause> {
    let now = now.into_std();
    match &target.pinned {
        Some(endpoint) => Ok(Cluster::take(endpoint, now)),
        None => target.destination.routes[index].backends.pick()?.pick(avoid, now),
    }
}
