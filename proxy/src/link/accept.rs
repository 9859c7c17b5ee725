//! Callers of this workload, where it has an identity: those that prove who they are, and those that do not.
//!
//! Both come in by the same ports. A TLS ClientHello that means this sidecar is taken by it; one that means the
//! application, which may speak TLS itself, is passed through as if nobody were here.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::HeaderValue;
use lighter_config::identity::{Spiffe, Usage};
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::{Mtls, Protocol};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::authorize;
use crate::carry::{Call, Engine};
use crate::detect::{self, Verdict};
use crate::error::Cause;
use crate::http::local::ErrorAnswer;
use crate::http::{LINGER, h2, linger, serve_http1};
use crate::identity::{ALPN_H2, ALPN_HTTP1, Identity};
use crate::io::{Carrier, Io, Stream};
use crate::mesh::{Learned, Speech, Target};
use crate::sni::{self, Hello};
use crate::tcp::Onward;
use crate::telemetry::{CallerMetrics, Welcome};

/// A caller that has proved who it is.
pub struct Caller {
    /// Who.
    pub id: Spiffe,
    /// What the application is told of it: `x-forwarded-client-cert` in Envoy's form.
    pub(crate) field: HeaderValue,
}

impl Caller {
    /// Who proved to be `id`.
    pub(crate) fn new(id: Spiffe) -> Option<Rc<Self>> {
        let field = HeaderValue::try_from(format!("URI={id}")).ok()?;
        Some(Rc::new(Caller { id, field }))
    }
}

impl Call {
    /// Carries it to a port of this workload. A caller that proves who it is is served within TLS; `mtls` says whether
    /// one that does not is served at all. `said`: what the listener's configuration says is spoken there.
    pub(crate) async fn into_workload(mut self, target: Target, said: Protocol, mtls: Mtls) -> Engine {
        let Some(identity) = self.worker.shared.identity.get().cloned() else {
            // Nobody can prove anything to a sidecar that knows no roots; strict stays strict.
            return match mtls {
                Mtls::Strict => self.refuse(&Onward::Port(target), Cause::NoIdentity),
                Mtls::Permissive => self.into_port(target, said).await,
            };
        };
        let speech = self.speech(&target, said);
        let onward = Onward::Port(target.clone());
        // Whoever calls within TLS speaks first. Only where somebody may call without it can the server be first.
        let barred = target.guard.as_ref().is_some_and(|guard| !guard.admits(self.peer, None));
        // Its clients speak first.
        let is_redis = target.destination.protocol() == Protocol::Redis;
        let heard_as = match (mtls, speech) {
            (Mtls::Strict, _) => Speech::Tls,
            // Nothing is dialled for whom no policy lets in.
            (Mtls::Permissive, Speech::Opaque) if barred || is_redis => Speech::Tls,
            (Mtls::Permissive, Speech::Opaque) => Speech::Unknown,
            (Mtls::Permissive, speech) => speech,
        };
        // What was learned of callers in plain text says nothing of those within TLS.
        let found = self.find(&onward, heard_as, &Learned::default()).await;
        if self.io.early.first() == Some(&TLS_HANDSHAKE) {
            match self.is_for_us(speech).await {
                Some(true) => return self.into_tls(target, &identity).await,
                Some(false) => {}
                None => return None,
            }
        }
        let strict = mtls == Mtls::Strict;
        if found.is_ok() {
            let welcome = if strict { Welcome::Refused } else { Welcome::Served };
            CallerMetrics::of(&target.destination.port.key, None).count(welcome);
        }
        if strict {
            if found.is_ok() {
                self.refuse_in_plain(&onward).await;
            }
            return None;
        }
        let found = found.map(|(verdict, upstream)| match speech {
            // Found out only for the sake of those within TLS.
            Speech::Opaque => (Verdict::Opaque, upstream),
            _ => (verdict, upstream),
        });
        self.into_found(target, onward, found).await
    }

    /// Carries it untouched to a port that is in no Service, unless callers have to prove who they are: of such a port
    /// it is not known what could be said within TLS.
    pub(crate) async fn into_undeclared(self, onward: Onward) -> Engine {
        let strict = self.worker.shared.mesh.load().config.mtls == Mtls::Strict;
        if self.worker.shared.identity.get().is_none() {
            return match strict {
                true => self.refuse(&onward, Cause::NoIdentity),
                false => self.into_address(onward).await,
            };
        }
        let nobody = ServicePort { service: ServiceName::nobody(), port: 0 };
        let welcome = if strict { Welcome::Refused } else { Welcome::Served };
        CallerMetrics::of(&nobody, None).count(welcome);
        if strict { self.refuse(&onward, Cause::PlaintextRefused) } else { self.into_address(onward).await }
    }

    /// Whether the TLS that begins here is meant for this sidecar. `None`: the caller is gone.
    async fn is_for_us(&mut self, speech: Speech) -> Option<bool> {
        let patience = self.worker.shared.config.detect_timeout.max(HELLO);
        let mut heard = BytesMut::from(&*std::mem::take(&mut self.io.early));
        let end = Instant::now() + patience;
        let hello = loop {
            match sni::parse(&heard) {
                Hello::Partial => {}
                whole => break whole,
            }
            match timeout_at(end, detect::read(&self.io, &mut heard, sni::MOST_BYTES)).await {
                Ok(Ok(bytes)) if bytes > 0 => {}
                Ok(Err(_)) => return None,
                // Half a hello and no more: what there is goes on as it is.
                _ => break Hello::Not,
            }
        };
        let protocols = sni::protocols(&heard);
        self.io.early = heard.freeze();
        let Hello::Whole(name) = hello else { return Some(false) };
        Some(match speech {
            // The application speaks HTTP without TLS, or this would not be said of it.
            Speech::Http => true,
            // It may speak TLS itself. Those who call it so say by what name; those who call its sidecar have none.
            Speech::Unknown => (protocols.http1 || protocols.http2) && name.is_none(),
            Speech::Tls | Speech::Opaque => false,
        })
    }

    /// Serves what a caller says within TLS.
    async fn into_tls(mut self, target: Target, identity: &Arc<Identity>) -> Engine {
        let Stream::Plain(tcp) = self.io.stream else { return None };
        let own = identity.current();
        let acceptor = TlsAcceptor::from(own.server_config());
        let carrier = Carrier::new(tcp, std::mem::take(&mut self.io.early));
        let accepted = timeout(HANDSHAKE, Box::pin(acceptor.accept(carrier))).await;
        let key = &target.destination.port.key;
        let tls = match accepted {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                tracing::debug!(%error, peer = %self.peer, "a caller's TLS handshake failed");
                CallerMetrics::of(key, None).count(Welcome::HandshakeFailed);
                return None;
            }
            Err(_elapsed) => {
                CallerMetrics::of(key, None).count(Welcome::HandshakeFailed);
                return None;
            }
        };
        let connection = tls.get_ref().1;
        let http2 = match connection.alpn_protocol() {
            Some(ALPN_H2) => true,
            Some(ALPN_HTTP1) | None => false,
            Some(_) => {
                CallerMetrics::of(key, None).count(Welcome::HandshakeFailed);
                return None;
            }
        };
        // What is wrong with it is counted and logged there.
        let (id, hold) = identity.hold(connection, Usage::Client, &own).ok()?;
        let caller = Caller::new(id)?;
        CallerMetrics::of(key, Some(&caller.id)).count(Welcome::Served);
        self.ticket.bind(hold.clone());
        self.io = Io::held(tls, hold);
        let (io, mut context) = self.into_fixed(target);
        context.caller = Some(caller);
        Some(if http2 { Box::pin(h2::serve(io, context)) } else { serve_http1(io, context) })
    }

    /// Tells a caller that did not prove who it is that it has to: in HTTP where it speaks that, otherwise by a reset.
    async fn refuse_in_plain(mut self, onward: &Onward) {
        const CAUSE: Cause = Cause::PlaintextRefused;
        tracing::debug!(peer = %self.peer, "a caller in plain text was refused");
        if detect::recognise(&self.io.early) != Verdict::Http1 {
            self.refuse(onward, CAUSE);
            return;
        }
        self.count_refusal(onward, CAUSE);
        let detail = authorize::UNPROVEN;
        let answer = ErrorAnswer { cause: CAUSE, detail, grpc: false }.http1(false, true);
        if let Ok(Ok(())) = timeout(LINGER.0, self.io.write_all(&answer)).await {
            linger(&mut self.io).await;
        }
    }
}

/// The first byte of a TLS connection: a record of the handshake.
const TLS_HANDSHAKE: u8 = 22;

/// How long a ClientHello may take.
const HELLO: Duration = Duration::from_secs(2);

/// How long a caller may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
