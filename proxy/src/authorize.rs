//! The callee's guard: AuthorizationPolicies in force at a workload's own ports, and what they decided, counted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use lighter_config::identity::Spiffe;
use lighter_config::name::ServicePort;
use lighter_config::snapshot::authorization::{Authorization, Caller, Decision};
use lighter_config::snapshot::{RequestParts, Snapshot};

use crate::error::Cause;

/// What every policy says about one port.
pub(crate) struct Guard {
    authorization: Arc<Authorization>,
    port: ServicePort,
    /// By the name of a rule or a policy.
    counts: HashMap<Arc<str>, Counts>,
    /// When a refusal was told of last, in seconds since `since`, from 1.
    told: AtomicU64,
    since: Instant,
}

struct Counts {
    allowed: metrics::Counter,
    denied: metrics::Counter,
    /// What a policy in audit mode would have denied.
    audited: metrics::Counter,
}

/// What is told to a caller that has to prove who it is, and did not.
pub(crate) const UNPROVEN: &str = "this port is open only to callers that prove who they are (mTLS)";

/// What is told to a caller that was refused: not which policy it was, which is for the callee's log.
pub(crate) const REFUSAL: &str = "no policy of the service allows this";

impl Guard {
    /// The guard of `port` by `config`; `old` stays where it says the same. None: no policy is about the port.
    pub(crate) fn of(config: &Snapshot, port: &ServicePort, old: Option<&Arc<Guard>>) -> Option<Arc<Guard>> {
        let authorization =
            config.authorization.get(port).filter(|authorization| !authorization.is_empty())?;
        match old {
            Some(old) if old.authorization == *authorization => Some(old.clone()),
            _ => Some(Arc::new(Guard::new(authorization.clone(), port.clone()))),
        }
    }

    fn new(authorization: Arc<Authorization>, port: ServicePort) -> Self {
        let rules = authorization.rules.iter().map(|rule| &rule.name);
        let names = rules.chain(&authorization.allow).chain(&authorization.audit_allow);
        let counts = names.map(|name| (name.clone(), Counts::of(&port, name))).collect();
        Guard { authorization, port, counts, told: AtomicU64::new(0), since: Instant::now() }
    }

    /// Whether the caller may send opaque bytes. Nothing is counted: what it sends is not known yet.
    pub(crate) fn admits(&self, peer: SocketAddr, identity: Option<&Spiffe>) -> bool {
        let caller = Caller { identity, address: peer.ip() };
        !self.authorization.needs_requests()
            && matches!(self.authorization.decide::<Nothing>(&caller, None), Decision::Allowed(_))
    }

    /// Decides about a request. `authority` is its Host or `:authority`.
    pub(crate) fn request<R: RequestParts + ?Sized>(
        &self,
        peer: SocketAddr,
        identity: Option<&Spiffe>,
        request: &R,
        authority: &[u8],
    ) -> Result<(), Cause> {
        self.decide(&Caller { identity, address: peer.ip() }, Some((request, authority)))
    }

    /// Decides about an opaque connection.
    pub(crate) fn connection(&self, peer: SocketAddr, identity: Option<&Spiffe>) -> Result<(), Cause> {
        self.decide::<Nothing>(&Caller { identity, address: peer.ip() }, None)
    }

    fn decide<R: RequestParts + ?Sized>(
        &self,
        caller: &Caller<'_>,
        request: Option<(&R, &[u8])>,
    ) -> Result<(), Cause> {
        if let Some(Decision::Denied(policy)) = self.authorization.audit(caller, request) {
            self.tell("would be denied", policy, caller);
            self.count(policy, |counts| &counts.audited);
        }
        match self.authorization.decide(caller, request) {
            Decision::Allowed(None) => Ok(()),
            Decision::Allowed(Some(policy)) => {
                self.count(policy, |counts| &counts.allowed);
                Ok(())
            }
            Decision::Denied(policy) => {
                self.tell("denied", policy, caller);
                self.count(policy, |counts| &counts.denied);
                Err(Cause::Denied)
            }
        }
    }

    fn count(&self, policy: &str, which: impl Fn(&Counts) -> &metrics::Counter) {
        if let Some(counts) = self.counts.get(policy) {
            which(counts).increment(1);
        }
    }

    /// Writes a line, but at most one a second: callers must not fill the log. Every refusal is counted.
    fn tell(&self, what: &str, policy: &str, caller: &Caller<'_>) {
        let now = self.since.elapsed().as_secs() + 1;
        if self.told.swap(now, Relaxed) == now {
            return;
        }
        tracing::info!(
            port = %self.port,
            policy,
            peer = %caller.address,
            identity = caller.identity.map_or("none", Spiffe::as_str),
            "a caller is {what}"
        );
    }
}

impl Counts {
    fn of(port: &ServicePort, policy: &Arc<str>) -> Self {
        metrics::describe_counter!(
            "lighter_authorization_decisions_total",
            "What AuthorizationPolicies decided at this workload's ports; audited: what a policy in audit mode would have \
             denied."
        );
        let counter = |decision: &'static str| {
            metrics::counter!(
                "lighter_authorization_decisions_total",
                "service" => port.service.to_string(),
                "port" => port.port.to_string(),
                "policy" => policy.to_string(),
                "decision" => decision
            )
        };
        Counts { allowed: counter("allowed"), denied: counter("denied"), audited: counter("audited") }
    }
}

/// The request of an opaque connection: there is none.
enum Nothing {}

impl RequestParts for Nothing {
    fn method(&self) -> &[u8] {
        match *self {}
    }

    fn path(&self) -> &[u8] {
        match *self {}
    }

    fn query(&self) -> Option<&[u8]> {
        match *self {}
    }

    fn header(&self, _: &str) -> Option<&[u8]> {
        match *self {}
    }
}
