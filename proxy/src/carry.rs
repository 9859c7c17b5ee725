//! A connection whose destination is known, from its first byte to the engine that carries it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lighter_config::snapshot::Protocol;

use crate::detect::{self, Lost, Verdict};
use crate::drain::{Phase, Ticket};
use crate::error::Cause;
use crate::http::{Context, Scope, h2, serve_http1};
use crate::io::Io;
use crate::mesh::{Learned, Speech, Target};
use crate::redis;
use crate::tcp::{self, Onward, Opaque, Upstream};
use crate::telemetry::{self, Direction, Spoken};
use crate::worker::Worker;

/// What carries a connection to its end; `None` if it ended already.
///
/// Finding out where a connection goes and what it speaks takes more memory than resting does. So that is a step of its
/// own, which is given back before its outcome, this, is polled.
pub(crate) type Engine = Option<Pin<Box<dyn Future<Output = ()>>>>;

/// Longest wait for the first words of a client whose requests say themselves where they go.
const PATIENCE: Duration = Duration::from_secs(60);

/// A downstream connection.
pub(crate) struct Call {
    /// The worker whose thread this is.
    pub(crate) worker: Rc<Worker>,
    /// The connection, and what was read of it.
    pub(crate) io: Io,
    /// The caller.
    pub(crate) peer: SocketAddr,
    /// Counts it.
    pub(crate) ticket: Ticket,
}

impl Call {
    /// Carries it to a port of a Service: finds out what it speaks, and hands it to what carries that. `said`: what
    /// the listener's configuration says it speaks; `Auto` leaves that to the port's own.
    pub(crate) async fn into_port(mut self, target: Target, said: Protocol) -> Engine {
        let speech = self.speech(&target, said);
        let onward = Onward::Port(target.clone());
        let learned = target.destination.learned.clone();
        let found = self.find(&onward, speech, &learned).await;
        self.into_found(target, onward, found).await
    }

    /// The same, of which it was found out what it speaks.
    pub(crate) async fn into_found(
        mut self,
        target: Target,
        onward: Onward,
        found: Result<(Verdict, Option<Upstream>), Lost>,
    ) -> Engine {
        match found {
            Ok((Verdict::Http1, _)) => {
                let (io, context) = self.into_fixed(target);
                Some(serve_http1(io, context))
            }
            Ok((Verdict::Http2, _)) => {
                let (io, context) = self.into_fixed(target);
                Some(Box::pin(h2::serve(io, context)))
            }
            Ok((Verdict::Tls | Verdict::Opaque | Verdict::Partial, _))
                if target.guard.as_ref().is_some_and(|guard| guard.connection(self.peer, None).is_err()) =>
            {
                self.refuse(&onward, Cause::Denied)
            }
            Ok((Verdict::Tls | Verdict::Opaque | Verdict::Partial, upstream))
                if target.destination.protocol() == Protocol::Redis =>
            {
                self.into_redis(target, onward, upstream).await
            }
            Ok((Verdict::Tls, upstream)) => {
                match detect::server_name(&mut self.io, self.worker.shared.config.detect_timeout).await {
                    Ok(name) => self.into_opaque(onward, upstream, Spoken::Tls, name).await,
                    Err(lost) => self.end(&onward, lost),
                }
            }
            Ok((Verdict::Opaque | Verdict::Partial, upstream)) => {
                self.into_opaque(onward, upstream, Spoken::Tcp, None).await
            }
            Err(lost) => self.end(&onward, lost),
        }
    }

    /// Who speaks first, and what. `said`: as with [`Self::into_port`].
    pub(crate) fn speech(&self, target: &Target, said: Protocol) -> Speech {
        let speech = match said {
            Protocol::Auto => target.destination.speech(),
            said => Speech::from(said),
        };
        // Whom no policy lets in without a request has to ask one, and is told so; nothing is dialled for them.
        match &target.guard {
            Some(guard) if speech == Speech::Unknown && !guard.admits(self.peer, None) => Speech::Http,
            _ => speech,
        }
    }

    /// Carries it untouched to where it wanted to go.
    pub(crate) async fn into_address(self, onward: Onward) -> Engine {
        self.into_opaque(onward, None, Spoken::Tcp, None).await
    }

    /// Passes everything on to an upstream that is connected already.
    pub(crate) async fn into_upstream(self, onward: Onward, upstream: Upstream) -> Engine {
        self.into_opaque(onward, Some(upstream), Spoken::Tcp, None).await
    }

    /// Serves requests that say themselves where they go.
    pub(crate) async fn into_requests(mut self) -> Engine {
        let verdict = tokio::select! {
            verdict = tokio::time::timeout(PATIENCE, detect::version(&mut self.io)) => verdict.ok()?.ok()?,
            () = self.ticket.reached(Phase::Draining) => return None,
        };
        let (io, context) = self.into_http(Scope::Authority, Direction::Outbound, None);
        match verdict {
            Verdict::Http2 => Some(Box::pin(h2::serve(io, context))),
            _ => Some(serve_http1(io, context)),
        }
    }

    /// Closes it with a reset, and counts why.
    pub(crate) fn refuse(self, onward: &Onward, cause: Cause) -> Engine {
        tracing::debug!(peer = %self.peer, %cause, "connection refused");
        self.as_opaque(onward.clone(), Spoken::Tcp, None).refuse(&self.io, cause);
        None
    }

    /// Counts a connection that was refused in words of its own.
    pub(crate) fn count_refusal(&self, onward: &Onward, cause: Cause) {
        self.as_opaque(onward.clone(), Spoken::Tcp, None).count_refusal(cause);
    }

    /// Finds out what it speaks.
    pub(crate) async fn find(
        &mut self,
        onward: &Onward,
        speech: Speech,
        learned: &Learned,
    ) -> Result<(Verdict, Option<Upstream>), Lost> {
        let began = Instant::now();
        let found = detect::find(
            &mut self.io,
            speech,
            learned,
            self.worker.shared.config.detect_timeout,
            onward.idle_timeout(),
            &self.ticket,
            tcp::dial(&self.worker, onward, self.peer),
        )
        .await;
        telemetry::detection(onward.direction()).count(detect::outcome(speech, &found), began.elapsed());
        found.map(|found| (found.verdict, found.upstream))
    }

    async fn into_opaque(
        self,
        onward: Onward,
        upstream: Option<Upstream>,
        spoken: Spoken,
        name: Option<String>,
    ) -> Engine {
        let opaque = self.as_opaque(onward, spoken, name);
        let upstream = opaque.connect(&self.io, upstream).await?;
        Some(Box::pin(opaque.carry(self.io, upstream, self.ticket)))
    }

    /// Reads commands and answers, so that the client keeps its connection where servers do not.
    async fn into_redis(self, target: Target, onward: Onward, upstream: Option<Upstream>) -> Engine {
        let opaque = self.as_opaque(onward, Spoken::Tcp, None);
        let upstream = match target.destination.gate() {
            // Where its commands run is found out with each.
            Some(_) => {
                opaque.begin();
                None
            }
            None => Some(opaque.connect(&self.io, upstream).await?),
        };
        Some(Box::pin(redis::serve(opaque, target, self.io, upstream, self.ticket)))
    }

    fn end(self, onward: &Onward, lost: Lost) -> Engine {
        match lost {
            Lost::Gone => None,
            Lost::Upstream(error) => {
                tracing::debug!(peer = %self.peer, %error, "no upstream for a silent connection");
                self.refuse(onward, error.cause)
            }
        }
    }

    fn as_opaque(&self, onward: Onward, spoken: Spoken, name: Option<String>) -> Opaque {
        let (worker, peer, began) = (self.worker.clone(), self.peer, Instant::now());
        Opaque { worker, onward, peer, spoken, name: name.unwrap_or_default(), began }
    }

    /// What serves its requests, all of which go to one port.
    pub(crate) fn into_fixed(self, target: Target) -> (Io, Context) {
        let upstream = match target.destination.protocol() {
            spoken @ (Protocol::Http | Protocol::Http2 | Protocol::Grpc) => Some(spoken),
            Protocol::Auto | Protocol::Tls | Protocol::Tcp | Protocol::Redis => None,
        };
        let direction = target.destination.direction;
        self.into_http(Scope::Fixed(target), direction, upstream)
    }

    fn into_http(self, scope: Scope, direction: Direction, upstream: Option<Protocol>) -> (Io, Context) {
        let Call { worker, io, peer, ticket } = self;
        (io, Context { worker, direction, scope, peer, caller: None, caller_text: None, ticket, upstream })
    }
}
