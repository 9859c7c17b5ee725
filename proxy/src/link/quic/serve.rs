//! Links over QUIC that callers' sidecars open.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lighter_config::snapshot::{Congestion, WireUse};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Incoming, ServerConfig};
use tokio::time::{MissedTickBehavior, timeout};

use super::{Bound, TRY_AGAIN, endpoint, proved, transport};
use crate::carry::Engine;
use crate::drain::{Kind, Phase, Ticket};
use crate::guard::Shed;
use crate::link;
use crate::link::session::{Leave, Side};
use crate::telemetry::{self, QuicHandshake};
use crate::worker::{Counted, Worker};

/// Accepts links over QUIC for as long as `worker` lives.
pub(crate) async fn serve(worker: Rc<Worker>) {
    let mut open = worker.shared.quic.open.subscribe();
    let Ok(bound) = open.wait_for(Option::is_some).await.map(|bound| bound.clone()) else { return };
    let Some(bound) = bound else { return };
    let mut told = false;
    loop {
        match accept(&worker, &bound).await {
            Ok(()) => {
                tracing::warn!(
                    worker = worker.index,
                    "the endpoint of links over QUIC ended: it is made anew"
                );
                telemetry::quic().endpoint_ended(Side::Acceptor);
            }
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(%error, worker = worker.index, "this worker accepts no links over QUIC for now");
            }
            Err(_) => {}
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// What handshakes of one worker need.
struct Door {
    worker: Rc<Worker>,
    /// All but who this side is: with it goes the key of Retry tokens.
    base: ServerConfig,
    /// The same with who it is.
    current: RefCell<Option<(Arc<rustls::ServerConfig>, ServerConfig)>>,
    /// Handshakes that have begun and not ended.
    open: Cell<usize>,
}

/// Accepts for as long as the endpoint stands.
async fn accept(worker: &Rc<Worker>, bound: &Bound) -> std::io::Result<()> {
    // Without an identity the link port would not be open.
    let identity = worker.shared.identity.get().ok_or(std::io::ErrorKind::NotFound)?;
    let tls = QuicServerConfig::try_from(identity.current().quic_config()).map_err(std::io::Error::other)?;
    let base = ServerConfig::with_crypto(Arc::new(tls));
    let endpoint = endpoint(worker, bound, base.clone())?;
    let door =
        Rc::new(Door { worker: worker.clone(), base, current: RefCell::default(), open: Cell::new(0) });
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => door.came(incoming, endpoint.local_addr()?),
                None => return Ok(()),
            },
            // Each one that stands, or is about to, holds the door.
            _ = looks.tick(), if Rc::strong_count(&door) > 1 => door.look(),
        }
    }
}

impl Door {
    /// Somebody begins a handshake, or says so.
    fn came(self: &Rc<Self>, incoming: Incoming, own: SocketAddr) {
        let ticket = self.worker.connections.enter_inbound();
        let refused = |incoming: Incoming| {
            telemetry::quic().handshake(Side::Acceptor, QuicHandshake::Refused);
            incoming.refuse();
        };
        if ticket.phase() != Phase::Serving {
            // Who is to leave has TCP.
            return refused(incoming);
        }
        let Some(congestion) = self.congestion() else { return refused(incoming) };
        if self.open.get() >= RETRY_FROM && !incoming.remote_address_validated() {
            telemetry::quic().retried();
            // It is one that may be asked: it was not asked yet.
            let _ = incoming.retry();
            return;
        }
        if self.open.get() >= MOST {
            return refused(incoming);
        }
        let room = self.worker.shared.guard.has_memory();
        let admitted = match room.and_then(|()| self.worker.shared.admit().ok_or(Shed::Connections)) {
            Ok(admitted) => admitted,
            Err(why) => {
                self.worker.metrics.shed(why);
                return refused(incoming);
            }
        };
        let Some(mut config) = self.config() else { return refused(incoming) };
        config.transport_config(transport(Side::Acceptor, congestion));
        let own = SocketAddr::new(incoming.local_ip().unwrap_or(own.ip()), own.port());
        let (door, counted) = (self.clone(), (admitted, Counted::new(&self.worker)));
        let handshake = handshake(Begun::at(self), incoming, config, own, ticket);
        tokio::task::spawn_local(Box::pin(async move {
            if let Some(served) = handshake.await {
                served.await;
            }
            drop((door, counted));
        }));
    }

    /// Links that stand are left where policy forbids them by now.
    fn look(&self) {
        if self.congestion().is_none() {
            self.worker.links.each(|link| {
                if link.quic.is_some() && link.side() == Side::Acceptor && !link.is_over() {
                    link.leave(Leave::Soon, "policy");
                }
            });
        }
    }

    /// How links are to be, if policy lets them be.
    fn congestion(&self) -> Option<Congestion> {
        let shared = &self.worker.shared;
        let mesh = shared.mesh.load();
        let service = shared.service().and_then(|name| mesh.config.services.get(name));
        let links = service.map_or(&mesh.config.links, |service| &service.links);
        (links.quic != WireUse::MustNot).then_some(links.congestion)
    }

    /// What a handshake that begins now goes by.
    fn config(&self) -> Option<ServerConfig> {
        let tls = self.worker.shared.identity.get()?.current().quic_config();
        let mut current = self.current.borrow_mut();
        match &*current {
            Some((known, config)) if Arc::ptr_eq(known, &tls) => Some(config.clone()),
            _ => {
                let mut config = self.base.clone();
                config.crypto = Arc::new(QuicServerConfig::try_from(tls.clone()).ok()?);
                *current = Some((tls, config.clone()));
                Some(config)
            }
        }
    }
}

/// Ends a handshake. What serves the link, if it ends well.
async fn handshake(
    begun: Begun,
    incoming: Incoming,
    config: ServerConfig,
    own: SocketAddr,
    ticket: Ticket,
) -> Engine {
    let peer = incoming.remote_address();
    let ended = match incoming.accept_with(Arc::new(config)) {
        Ok(connecting) => timeout(HANDSHAKE, connecting).await,
        Err(error) => Ok(Err(error)),
    };
    let worker = begun.0.worker.clone();
    drop(begun);
    let connection = match ended {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%error, %peer, "the QUIC handshake of a link failed");
            count(QuicHandshake::Failed);
            return None;
        }
        Err(_elapsed) => {
            count(QuicHandshake::Late);
            return None;
        }
    };
    let Some(who) = proved(&connection) else {
        count(QuicHandshake::Failed);
        return None;
    };
    count(QuicHandshake::Done);
    ticket.carries(Kind::Link);
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (peer, own) = (canonical(peer), canonical(own));
    link::serve::over_quic(worker, who, connection, peer, own, ticket)
}

fn count(how: QuicHandshake) {
    telemetry::quic().handshake(Side::Acceptor, how);
    if how != QuicHandshake::Done {
        telemetry::links().refused();
    }
}

/// A handshake that has begun, and counts until this is dropped.
struct Begun(Rc<Door>);

impl Begun {
    fn at(door: &Rc<Door>) -> Self {
        door.open.set(door.open.get() + 1);
        Begun(door.clone())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// How long a caller may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How soon a policy that changed is followed.
const LOOK: Duration = Duration::from_secs(1);

/// From so many open handshakes of a worker on, who begins one has to prove its address first.
const RETRY_FROM: usize = 32;

/// So many are open at most.
const MOST: usize = 1024;
