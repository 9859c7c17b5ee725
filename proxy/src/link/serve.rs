//! Links that callers' sidecars open: what they may reach, and what carries it.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context as Task;
use std::time::{Duration, Instant};

use lighter_config::identity::Peer;
use lighter_config::name::ServicePort;
use lighter_config::snapshot::Protocol as Spoken;
use quinn::Connection;
use tokio::time::{Sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::accept::Caller;
use super::carrier::Keys;
use super::connection::{Link, Opened, Takes};
use super::exchange::{self, Exchange};
use super::frame::{Code, Cut};
use super::halves;
use super::head::Protocol;
use super::life::Life;
use super::quic;
use super::records::keys::catch;
use super::session::Side;
use super::stream::End;
use super::upgrade::Far;
use crate::carry::{Call, Engine};
use crate::drain::{Kind, Phase, Ticket};
use crate::error::Cause;
use crate::http::h2::deadline::Deadlines;
use crate::http::h2::exchange::Arrived;
use crate::http::h2::{self, Downstream};
use crate::http::stream;
use crate::http::{Context, Scope, address_text, serve_http1};
use crate::identity::{self, ALPN_LINK, ALPN_STATE, Identity};
use crate::inbound;
use crate::io::{Carrier, Io, Stream};
use crate::mesh::{Speech, Target};
use crate::redis;
use crate::tcp::{Onward, Opaque};
use crate::telemetry::{self, CallerMetrics, Direction, Welcome};
use crate::worker::Worker;

/// Serves a connection to the link port.
pub(crate) async fn accepted(call: Call) -> Engine {
    let Some(identity) = call.worker.shared.identity.get().cloned() else {
        // There is nobody yet to prove anything.
        call.io.reset_on_close();
        return None;
    };
    let Call { worker, io, peer, ticket } = call;
    let Stream::Plain(tcp) = io.stream else { return None };
    let own = tcp.local_addr().ok()?;
    let acceptor = TlsAcceptor::from(identity.link_config());
    let accepting = Box::pin(catch(acceptor.accept(Carrier::of_link(tcp, io.early, Side::Acceptor))));
    let (mut tls, ways) = match timeout(HANDSHAKE, accepting).await {
        Ok((Ok(tls), ways)) if tls.get_ref().1.alpn_protocol() == Some(ALPN_LINK) => (tls, ways),
        Ok((Ok(tls), _)) if tls.get_ref().1.alpn_protocol() == Some(ALPN_STATE) => {
            return in_copies(worker, &identity, Io::secure(tls), ticket);
        }
        Ok((Ok(_), _)) | Err(_) => {
            telemetry::links().refused();
            return None;
        }
        Ok((Err(error), _)) => {
            tracing::debug!(%error, %peer, "the TLS handshake of a link failed");
            telemetry::links().refused();
            return None;
        }
    };
    let caller = identity::peer(tls.get_ref().1).ok().and_then(|peer| Caller::new(peer.id))?;
    let (carrier, connection) = tls.get_mut();
    carrier.establish(Keys::of(connection)?);
    let io = Io::linked(tls, ways);
    let life = Life::of(&io, &identity)?;
    ticket.carries(Kind::Link);
    let link = Link::new(Side::Acceptor, life, &worker.shared, far(&worker, &caller, peer));
    worker.links.follow(&worker, &link);
    let taking = Taking::of(worker, caller, peer, own);
    Some(Box::pin(link.drive(io, Some(ticket), None, taking)))
}

/// Serves a connection on which another place of this Service fetches copies of its state.
fn in_copies(worker: Rc<Worker>, identity: &Identity, io: Io, ticket: Ticket) -> Engine {
    let peer = identity::peer(io.stream.tls()?).ok()?;
    let own = identity.current();
    ticket.carries(Kind::Link);
    Some(Box::pin(async move {
        // Who has got everything rests on it, and may forget to leave.
        let leaves = ticket.reached(Phase::Draining);
        let hosted = || worker.shared.hosted.load_full();
        worker.shared.copies.serve(io, (&peer.id, own.id()), hosted, leaves).await;
        drop(ticket);
    }))
}

/// Serves a link over QUIC, on whose `connection` the caller proved to be `who`.
pub(super) fn over_quic(
    worker: Rc<Worker>,
    who: Peer,
    connection: Connection,
    peer: SocketAddr,
    own: SocketAddr,
    ticket: Ticket,
) -> Engine {
    let identity = worker.shared.identity.get()?;
    let caller = Caller::new(who.id.clone())?;
    let life = Life::of_peer(who, identity);
    let link = Link::over_quic(Side::Acceptor, life, &worker.shared, far(&worker, &caller, peer));
    worker.links.follow(&worker, &link);
    let taking = Taking::of(worker, caller, peer, own);
    Some(Box::pin(quic::drive(link, connection, Some(ticket), None, taking)))
}

/// The caller's end of a link.
fn far(worker: &Worker, caller: &Caller, peer: SocketAddr) -> Far {
    let service = worker.shared.service().cloned();
    Far { address: peer, identity: caller.id.as_str().into(), service }
}

/// Takes what the caller opens.
struct Taking {
    from: Rc<From>,
    /// Of the deadlines of `from`.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Taking {
    fn of(worker: Rc<Worker>, caller: Rc<Caller>, peer: SocketAddr, own: SocketAddr) -> Self {
        let from = Rc::new(From {
            worker,
            caller,
            peer,
            peer_text: address_text(peer),
            own,
            counted: RefCell::default(),
            asked: RefCell::default(),
            deadlines: Rc::default(),
        });
        Taking { from, timer: None }
    }
}

impl Takes for Taking {
    fn take(&mut self, opened: Opened) {
        if let Some(engine) = self.from.serve(opened) {
            tokio::task::spawn_local(engine);
        }
    }

    fn poll(&mut self, cx: &mut Task<'_>) {
        self.from.deadlines.poll(&mut self.timer, cx);
    }
}

/// Whose link it is.
struct From {
    worker: Rc<Worker>,
    caller: Rc<Caller>,
    peer: SocketAddr,
    /// Its address, as each request tells it.
    peer_text: Rc<[u8]>,
    /// Where it came in.
    own: SocketAddr,
    /// The ports of which it is counted that this caller was served.
    counted: RefCell<Vec<ServicePort>>,
    /// What was asked for in HTTP/2, as a caller's connection of its own would see it.
    asked: RefCell<Vec<Rc<Downstream>>>,
    deadlines: Rc<Deadlines>,
}

impl From {
    /// Serves what the caller opened.
    fn serve(self: &Rc<Self>, opened: Opened) -> Engine {
        if inbound::is_barred(&self.worker.shared) {
            exchange::refuse(opened.stream, Cause::NoConfig);
            return None;
        }
        if opened.head.held() > self.worker.shared.config.max_head_bytes {
            opened.stream.reset(Cut::new(Code::Protocol, Cause::HeadTooLarge));
            return None;
        }
        let target = exchange::endpoint_of(&opened.head)
            .and_then(|meant| inbound::over_link(&self.worker, meant, self.own.ip()));
        let Some(target) = target else {
            exchange::refuse(opened.stream, Cause::NotInRegistry);
            return None;
        };
        let protocol = opened.head.protocol;
        let tunnel = protocol == Protocol::Tunnel;
        let fits = match target.destination.speech() {
            // What is looked into is not carried past its reader.
            Speech::Http => !tunnel,
            Speech::Tls | Speech::Opaque => tunnel,
            Speech::Unknown => true,
        };
        if !fits {
            exchange::refuse(opened.stream, Cause::Unsupported);
            return None;
        }
        self.count(&target);
        match protocol {
            Protocol::Tunnel => {
                let (from, stream) = (self.clone(), opened.stream);
                Some(Box::pin(async move { from.tunnel(target, stream).await }))
            }
            Protocol::Http1 => {
                let Opened { head, end, stream } = opened;
                let io = Io::over_link(Exchange::called(stream, &head, end));
                Some(serve_http1(io, self.context(target)))
            }
            Protocol::Http2 => self.in_http2(target, opened),
        }
    }

    /// Serves a request whose caller speaks HTTP/2.
    fn in_http2(&self, target: Target, opened: Opened) -> Engine {
        let left = opened.head.deadline;
        match halves::taken(opened) {
            (half, Ok(head)) => {
                let arrived = Arrived { head: Ok(head), stream: stream::Stream::Link(half), left };
                Some(Box::pin(h2::exchange::serve(self.downstream(target), arrived)))
            }
            (half, Err(cause)) => {
                half.reset(Cut::new(Code::Protocol, cause));
                None
            }
        }
    }

    /// The caller's connection, as requests to `target` see it.
    fn downstream(&self, target: Target) -> Rc<Downstream> {
        let mut asked = self.asked.borrow_mut();
        if let Some(known) = asked.iter().find(|known| known.leads_to(&target.destination)) {
            return known.clone();
        }
        if asked.len() >= MOST_COUNTED {
            asked.clear();
        }
        let downstream = Downstream::new(self.context(target), self.deadlines.clone());
        asked.push(Rc::new(downstream));
        asked[asked.len() - 1].clone()
    }

    /// What serves requests to `target`.
    fn context(&self, target: Target) -> Context {
        let upstream = match target.destination.protocol() {
            spoken @ (Spoken::Http | Spoken::Http2 | Spoken::Grpc) => Some(spoken),
            Spoken::Auto | Spoken::Tls | Spoken::Tcp | Spoken::Redis => None,
        };
        Context {
            worker: self.worker.clone(),
            direction: Direction::Inbound,
            scope: Scope::Fixed(target),
            peer: self.peer,
            caller: Some(self.caller.clone()),
            caller_text: Some(self.peer_text.clone()),
            ticket: self.worker.connections.enter_inbound(),
            upstream,
        }
    }

    /// Carries bytes both ways to the application.
    async fn tunnel(&self, target: Target, stream: End) {
        let identity = Some(&self.caller.id);
        let denied =
            target.guard.as_ref().is_some_and(|guard| guard.connection(self.peer, identity).is_err());
        let opaque = Opaque {
            worker: self.worker.clone(),
            onward: Onward::Port(target.clone()),
            peer: self.peer,
            spoken: telemetry::Spoken::Tcp,
            name: String::new(),
            began: Instant::now(),
        };
        if denied {
            opaque.count_refusal(Cause::Denied);
            return exchange::refuse(stream, Cause::Denied);
        }
        let is_redis = target.destination.protocol() == Spoken::Redis;
        let upstream = match is_redis && target.destination.gate().is_some() {
            // Where its commands run is found out with each.
            true => {
                opaque.begin();
                None
            }
            false => match opaque.reach().await {
                Ok(upstream) => Some(upstream),
                Err(cause) => return exchange::refuse(stream, cause),
            },
        };
        // A caller that is gone is found out, and accounted for, when it is read from.
        let _ = stream.send_head(200, [], false);
        let ticket = self.worker.connections.enter_inbound();
        let io = Io::over_link(Exchange::tunnel(stream));
        match upstream {
            Some(upstream) if !is_redis => opaque.carry(io, upstream, ticket).await,
            upstream => Box::pin(redis::serve(opaque, target, io, upstream, ticket)).await,
        }
    }

    /// Counts the caller, once for each port that it calls on this link.
    fn count(&self, target: &Target) {
        let key = &target.destination.port.key;
        let mut counted = self.counted.borrow_mut();
        if !counted.contains(key) && counted.len() < MOST_COUNTED {
            counted.push(key.clone());
            CallerMetrics::of(key, Some(&self.caller.id)).count(Welcome::Served);
        }
    }
}

/// How long a caller may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A workload has few ports.
const MOST_COUNTED: usize = 64;
