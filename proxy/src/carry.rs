//! A connection whose destination is known, from its first byte to the engine that carries it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use lighter_config::snapshot::Protocol;

use crate::detect::{self, Lost, Verdict};
use crate::drain::Ticket;
use crate::error::Cause;
use crate::http::{Context, Scope, h2, serve_http1};
use crate::io::Io;
use crate::mesh::{Speech, Target};
use crate::tcp::{self, Onward, Opaque, Upstream};
use crate::telemetry::{self, Direction, Spoken};
use crate::worker::Worker;

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
    pub(crate) async fn into_port(mut self, target: Target, said: Protocol) {
        let speech = match said {
            Protocol::Auto => target.destination.speech(),
            said => Speech::from(said),
        };
        let onward = Onward::Port(target.clone());
        // Boxed, as each engine below: what is done with must not take room while the connection lives.
        match Box::pin(self.find(&onward, &target, speech)).await {
            Ok((Verdict::Http1, _)) => {
                let (io, context) = self.into_fixed(target);
                serve_http1(io, context).await;
            }
            Ok((Verdict::Http2, _)) => {
                let (io, context) = self.into_fixed(target);
                Box::pin(h2::serve(io, context)).await;
            }
            Ok((Verdict::Tls, upstream)) => Box::pin(self.tls(&onward, upstream)).await,
            Ok((Verdict::Opaque | Verdict::Partial, upstream)) => {
                Box::pin(self.opaque(&onward, upstream, Spoken::Tcp, "")).await;
            }
            Err(lost) => self.end(&onward, lost),
        }
    }

    /// Carries it untouched to where it wanted to go.
    pub(crate) async fn into_address(self, onward: Onward) {
        Box::pin(self.opaque(&onward, None, Spoken::Tcp, "")).await;
    }

    /// Closes it with a reset, and counts why.
    pub(crate) fn refuse(self, onward: &Onward, cause: Cause) {
        tracing::debug!(peer = %self.peer, %cause, "connection refused");
        self.as_opaque(onward, Spoken::Tcp, "").refuse(&self.io, cause);
    }

    /// Passes everything on to an upstream that is connected already.
    pub(crate) async fn through(self, onward: &Onward, upstream: Upstream) {
        Box::pin(self.opaque(onward, Some(upstream), Spoken::Tcp, "")).await;
    }

    /// Serves requests that say themselves where they go.
    pub(crate) async fn requests(mut self, scope: Scope) {
        let http2 = match detect::version(&mut self.io).await {
            Ok(verdict) => verdict == Verdict::Http2,
            Err(_gone) => return,
        };
        let (io, context) = self.into_http(scope, Direction::Outbound, None);
        if http2 { Box::pin(h2::serve(io, context)).await } else { serve_http1(io, context).await }
    }

    /// Counts a connection that was refused in words of its own.
    pub(crate) fn count_refusal(&self, onward: &Onward, cause: Cause) {
        self.as_opaque(onward, Spoken::Tcp, "").count_refusal(cause);
    }

    async fn find(
        &mut self,
        onward: &Onward,
        target: &Target,
        speech: Speech,
    ) -> Result<(Verdict, Option<Upstream>), Lost> {
        let began = Instant::now();
        let found = detect::find(
            &mut self.io,
            speech,
            &target.destination.learned,
            self.worker.shared.config.detect_timeout,
            onward.idle_timeout(),
            &self.ticket,
            tcp::dial(&self.worker, onward),
        )
        .await;
        telemetry::detection(onward.direction()).count(detect::outcome(speech, &found), began.elapsed());
        found.map(|found| (found.verdict, found.upstream))
    }

    /// TLS that the application made passes through; the server name is for the log.
    async fn tls(mut self, onward: &Onward, upstream: Option<Upstream>) {
        match detect::server_name(&mut self.io, self.worker.shared.config.detect_timeout).await {
            Ok(name) => self.opaque(onward, upstream, Spoken::Tls, name.as_deref().unwrap_or_default()).await,
            Err(lost) => self.end(onward, lost),
        }
    }

    async fn opaque(self, onward: &Onward, upstream: Option<Upstream>, spoken: Spoken, name: &str) {
        let Call { worker, io, peer, ticket } = self;
        Opaque { worker: &worker, onward, peer, spoken, name }.serve(io, upstream, &ticket).await;
    }

    fn end(self, onward: &Onward, lost: Lost) {
        match lost {
            Lost::Gone => {}
            Lost::Upstream(error) => {
                tracing::debug!(peer = %self.peer, %error, "no upstream for a silent connection");
                self.refuse(onward, error.cause);
            }
        }
    }

    fn as_opaque<'a>(&'a self, onward: &'a Onward, spoken: Spoken, name: &'a str) -> Opaque<'a> {
        Opaque { worker: &self.worker, onward, peer: self.peer, spoken, name }
    }

    fn into_fixed(self, target: Target) -> (Io, Context) {
        let upstream = match target.destination.protocol() {
            spoken @ (Protocol::Http | Protocol::Http2 | Protocol::Grpc) => Some(spoken),
            Protocol::Auto | Protocol::Tls | Protocol::Tcp => None,
        };
        let direction = target.destination.direction;
        self.into_http(Scope::Fixed(target), direction, upstream)
    }

    fn into_http(self, scope: Scope, direction: Direction, upstream: Option<Protocol>) -> (Io, Context) {
        let Call { worker, io, peer, ticket } = self;
        (io, Context { worker, direction, scope, peer, ticket, upstream })
    }
}
