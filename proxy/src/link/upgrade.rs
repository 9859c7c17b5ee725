//! How a link comes to its wires: joins what is decided about them with the carrier, with the doors at which memory is
//! handed out, and with what the policy says.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use lighter_config::name::ServiceName;
use lighter_config::snapshot::{LinkPolicy, Secure, Service, Wires};
use rustls::crypto::aws_lc_rs;

use super::carrier::{Beneath, Cause, Counts, Event, Out};
use super::negotiate::message::{Accept, Decline, Message, Nonce, Offer};
use super::negotiate::{Action, Agreed, Negotiation, View};
use super::session::{Session, Side};
use super::standing::Standing;
use super::wire::Wire;
use super::wire::rdma::{Connected, End, Way};
use super::wire::shm::{AttachFault, Token, Tokens};
use crate::io::Io;
use crate::telemetry::{self, LinkOpen, LinkWire};
use crate::worker::Shared;

/// The wires of one link.
pub(super) struct Upgrade {
    side: Side,
    negotiation: Negotiation,
    shared: Arc<Shared>,
    standing: Arc<Standing>,
    /// Whose workload is called.
    service: Option<ServiceName>,
    policy: LinkPolicy,
    /// When the policy is looked up again.
    looks: Instant,
    /// What the other side said, and nobody answered yet.
    heard: Option<Message>,
    meeting: Option<(u32, Meeting)>,
    /// An end of an RDMA wire is being made.
    making: Option<(u32, Making)>,
    /// It waits for the other one.
    end: Option<(u32, End)>,
    /// Whether there is an RDMA device that the policy allows, and the other side may have one.
    rdma: bool,
    /// What the other side may have, as was last known.
    theirs: Wires,
    peer: SocketAddr,
    identity: Arc<str>,
    /// What was counted so far.
    counted: Counts,
    actions: Vec<Action>,
}

/// The other end of a link.
pub(crate) struct Far {
    /// Where it is.
    pub(crate) address: SocketAddr,
    /// Who it proved to be.
    pub(crate) identity: Arc<str>,
    /// Whose workload is called on the link.
    pub(crate) service: Option<ServiceName>,
}

/// The two sides meet: at a door, or over their devices.
type Meeting = Pin<Box<dyn Future<Output = Result<Box<dyn Wire>, AttachFault>>>>;

/// This side makes its end, and then says what it was made for.
enum Making {
    /// To ask with it.
    Asks(Offer, Made<End>),
    /// To answer with it: it is connected already.
    Answers(Agreed, Accept, Made<Connected>),
}

type Made<T> = Pin<Box<dyn Future<Output = Result<T, AttachFault>>>>;

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There was nothing to do.
    Idle,
    /// Something was said, or the carrier is to say something.
    Acted,
    /// The TCP connection is lost: the link is to be left.
    Lame,
}

impl Upgrade {
    /// Of `side` of a link to `peer`.
    pub(super) fn new(shared: &Arc<Shared>, side: Side, peer: Far) -> Self {
        let now = Instant::now();
        let Far { address, identity, service } = peer;
        Upgrade {
            side,
            standing: shared.links.enter(side, identity.clone(), address),
            negotiation: Negotiation::new(
                side,
                (address.ip(), identity.clone()),
                shared.rings.clone(),
                fresh,
                now,
            ),
            shared: shared.clone(),
            service,
            policy: LinkPolicy::default(),
            looks: now,
            heard: None,
            meeting: None,
            making: None,
            end: None,
            rdma: false,
            theirs: Wires::default(),
            peer: address,
            identity,
            counted: Counts::default(),
            actions: Vec::new(),
        }
    }

    /// The other side said something in a CONTROL frame. It waits for an answer before it says more.
    pub(super) fn heard(&mut self, kind: u16, bytes: &[u8]) {
        self.heard = Message::read(kind, bytes).or(self.heard.take());
    }

    /// When [`poll`](Self::poll) is to be called, even if nothing happens.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.negotiation.timeout(&self.policy)
    }

    /// What came on the link was not what the other side sealed.
    pub(super) fn harmed(&mut self) {
        self.negotiation.harmed(Instant::now());
    }

    /// So many bytes were carried both ways over QUIC until now, where so many streams are open.
    pub(super) fn carried_over_quic(&self, sent: u64, received: u64, streams: usize) {
        self.standing.over_quic(sent, received, streams);
    }

    /// Counts what the link carried since it was counted last.
    pub(super) fn count(&mut self, io: &mut Io) {
        if let Some(carrier) = io.carrier() {
            self.count_to(carrier.counts());
        }
    }

    /// Does what is due. Called at the end of each turn of the link's task. `open` counts which wire the link goes over.
    pub(super) fn poll(
        &mut self,
        io: &mut Io,
        session: &mut Session,
        open: &LinkOpen,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Turn {
        let mut turn = Turn::Idle;
        if (self.making.is_some() || self.end.is_some()) && self.poll_making(io, session, now, cx) {
            turn = Turn::Acted;
        }
        let Some(carrier) = io.carrier() else { return turn };
        if now >= self.looks {
            self.look(now);
        }
        let counts = carrier.counts();
        self.count_to(counts);
        self.standing.carried(counts, self.negotiation.wire(), session.open_streams());
        let Upgrade { negotiation, shared, policy, actions, rdma, theirs, .. } = self;
        let door = shared.door.get().filter(|_| theirs.shm).map(|door| door.name());
        let rdma = *rdma;
        let view = |carrier: &Beneath| View {
            now,
            policy,
            next: carrier.next(),
            carried: carried(counts),
            door,
            rdma,
        };
        while let Some(event) = carrier.event() {
            note(event, negotiation.wire());
            if event == Event::Lame {
                turn = Turn::Lame;
            }
            negotiation.carrier(event, &view(carrier));
            self.standing.goes(carrier, negotiation.wire());
            open.goes_over(if carrier.ways().0 == Out::Ring { negotiation.wire() } else { LinkWire::Tcp });
        }
        if let Some(message) = self.heard.take() {
            note_message(&message, true);
            negotiation.heard(message, &view(carrier), actions);
        }
        if let Some((generation, meeting)) = &mut self.meeting {
            let generation = *generation;
            if negotiation.meeting() != Some(generation) {
                // It was given up meanwhile.
                self.meeting = None;
            } else if let Poll::Ready(met) = meeting.as_mut().poll(cx) {
                self.meeting = None;
                turn = turn.or_acted();
                match met {
                    Ok(wire) => {
                        negotiation.met(generation, now);
                        carrier.switch(generation, wire);
                    }
                    Err(fault) => {
                        tracing::debug!(%fault, generation, "the two ends of a link did not meet for a wire");
                        telemetry::links().missed(&fault);
                        negotiation.missed(generation, cause_of(&fault), &view(carrier), actions);
                    }
                }
            }
        }
        negotiation.turn(&view(carrier), actions);
        if actions.is_empty() {
            return turn;
        }
        for action in std::mem::take(actions) {
            self.act(action, io, session);
        }
        if let Some(lease) = self.negotiation.lease() {
            lease.wakes(cx.waker());
        }
        turn.or_acted()
    }

    fn act(&mut self, action: Action, io: &mut Io, session: &mut Session) {
        let Some(carrier) = io.carrier() else { return };
        match action {
            Action::Open(generation) => {
                // It is the next one: it was looked at just now.
                let opened = carrier.open(generation);
                self.standing.agreed(generation);
                debug_assert!(opened);
            }
            Action::Withdraw(generation) => carrier.withdraw(generation),
            Action::Freeze(generation, cause) => carrier.freeze(generation, cause),
            Action::Send(message) => {
                note_message(&message, false);
                let (kind, bytes) = message.write();
                session.send_control(kind, &bytes);
            }
            Action::Expect(agreed) => {
                let (Some(tokens), Some(door)) = (self.tokens(io, &agreed), self.shared.door.get()) else {
                    return;
                };
                let meeting = door.expect(&tokens, agreed.ring_bytes);
                let meeting = async { meeting.await.map(boxed) };
                self.meeting = Some((agreed.generation, Box::pin(meeting)));
            }
            Action::Attach(agreed, name) => {
                let (Some(tokens), Some(door)) = (self.tokens(io, &agreed), self.shared.door.get()) else {
                    return;
                };
                let door = door.clone();
                let meeting = async move { door.attach(&name, &tokens, agreed.ring_bytes).await.map(boxed) };
                self.meeting = Some((agreed.generation, Box::pin(meeting)));
            }
            Action::Ask(offer) => {
                let times = self.negotiation.times(LinkWire::Rdma);
                let way = self.shared.devices.choose(&self.policy.devices, self.peer.ip(), times);
                let round = way.as_ref().map_or(0, |way| way.round);
                let made = self.make(offer.ring_bytes, way);
                self.making =
                    Some((offer.generation, Making::Asks(Offer { round, ..offer }, Box::pin(made))));
            }
            Action::Answer(agreed, accept, card, round) => {
                let way = self.shared.devices.choose(&self.policy.devices, card.gid.into(), round);
                let made = self.make(agreed.ring_bytes, way);
                let made = async move { made.await?.connect(card).await };
                self.making = Some((agreed.generation, Making::Answers(agreed, accept, Box::pin(made))));
            }
            Action::Connect(agreed, card) => {
                let end = self.end.take().filter(|(generation, _)| *generation == agreed.generation);
                let (Some((generation, end)), Some(tokens)) = (end, self.tokens(io, &agreed)) else { return };
                let meeting = async move { end.connect(card).await?.prove(tokens, true).await.map(boxed) };
                self.meeting = Some((generation, Box::pin(meeting)));
            }
        }
    }

    /// Makes an end of a device, if there is one.
    fn make(
        &self,
        ring_bytes: u32,
        way: Option<Way>,
    ) -> impl Future<Output = Result<End, AttachFault>> + use<> {
        if let (Some(way), Some(lease)) = (&way, self.negotiation.lease()) {
            lease.is_of(way.device.name());
        }
        async move {
            let Way { device, from, .. } = way.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            let [a, b, c, ..] = fresh();
            End::make(device, from, ring_bytes, u32::from_be_bytes([0, a, b, c])).await
        }
    }

    /// Goes on with an end that is being made: asks or answers with it. Returns whether something was said.
    fn poll_making(
        &mut self,
        io: &mut Io,
        session: &mut Session,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> bool {
        if self.end.as_ref().is_some_and(|(generation, _)| self.negotiation.asking() != Some(*generation)) {
            // It was given up meanwhile.
            self.end = None;
        }
        let Some((generation, making)) = &mut self.making else { return false };
        let generation = *generation;
        let is_wanted = match making {
            Making::Asks(..) => self.negotiation.asking() == Some(generation),
            Making::Answers(..) => self.negotiation.meeting() == Some(generation),
        };
        let made = match making {
            _ if !is_wanted => Poll::Ready(Ok(None)),
            Making::Asks(offer, made) => made.as_mut().poll(cx).map_ok(|end| {
                let offer = Offer { rdma: Some(end.card()), ..offer.clone() };
                self.end = Some((generation, end));
                Some((Message::Offer(offer), None))
            }),
            Making::Answers(agreed, accept, made) => made.as_mut().poll(cx).map_ok(|connected| {
                let accept = Accept { rdma: Some(connected.card()), ..accept.clone() };
                Some((Message::Accept(accept), Some((agreed.clone(), connected))))
            }),
        };
        let Poll::Ready(made) = made else { return false };
        self.making = None;
        match made {
            Ok(None) => false,
            Ok(Some((message, answers))) => {
                if let Some((agreed, connected)) = answers {
                    let Some(tokens) = self.tokens(io, &agreed) else { return false };
                    let meeting = async move { connected.prove(tokens, false).await.map(boxed) };
                    self.meeting = Some((generation, Box::pin(meeting)));
                }
                note_message(&message, false);
                let (kind, bytes) = message.write();
                session.send_control(kind, &bytes);
                true
            }
            Err(fault) => {
                tracing::warn!(%fault, generation, "this end of an RDMA wire cannot be made");
                telemetry::links().missed(&fault);
                let Some(carrier) = io.carrier() else { return false };
                let view = View {
                    now,
                    policy: &self.policy,
                    next: carrier.next(),
                    carried: 0,
                    door: None,
                    rdma: self.rdma,
                };
                self.negotiation.unable(generation, &view, &mut self.actions);
                self.negotiation.missed(generation, cause_of(&fault), &view, &mut self.actions);
                false
            }
        }
    }

    /// What each side shows the other when they meet.
    fn tokens(&self, io: &Io, agreed: &Agreed) -> Option<Tokens> {
        let opener = token(io, Side::Opener, agreed)?;
        let acceptor = token(io, Side::Acceptor, agreed)?;
        Some(match self.side {
            Side::Opener => Tokens { ours: opener, theirs: acceptor },
            Side::Acceptor => Tokens { ours: acceptor, theirs: opener },
        })
    }

    /// Looks up what the policy says by now.
    fn look(&mut self, now: Instant) {
        let mesh = self.shared.mesh.load();
        let service = self.service.as_ref().and_then(|name| mesh.config.services.get(name));
        self.policy = service.map_or(&mesh.config.links, |service| &service.links).clone();
        // Only who opened the link asks, and only of a Service it is known. An endpoint that has left has what it had: who
        // opens a link to one that is gone already asks it for nothing.
        self.theirs = match service.filter(|_| self.side == Side::Opener) {
            Some(service) => wires_at(service, self.peer, &self.identity).unwrap_or(self.theirs),
            None => Wires::ALL,
        };
        self.rdma = self.theirs.rdma && self.shared.devices.has(&self.policy.devices);
        self.looks = now + LOOK;
    }

    fn count_to(&mut self, counts: Counts) {
        let before = std::mem::replace(&mut self.counted, counts);
        let metrics = telemetry::links();
        for (wire, sent, received) in [
            (LinkWire::Tcp, counts.tcp_out - before.tcp_out, counts.tcp_in - before.tcp_in),
            (self.negotiation.wire(), counts.ring_out - before.ring_out, counts.ring_in - before.ring_in),
        ] {
            if sent > 0 {
                metrics.sent(wire, sent);
            }
            if received > 0 {
                metrics.received(wire, received);
            }
        }
        if counts.replayed > before.replayed {
            metrics.replayed(counts.replayed - before.replayed);
        }
    }
}

/// What holds now for links to the sidecar of `identity` at `address`, one of `service`: the policy, and what that sidecar
/// may have.
pub(super) fn said_of(
    shared: &Shared,
    service: Option<&ServiceName>,
    address: SocketAddr,
    identity: &str,
) -> (LinkPolicy, Wires) {
    let mesh = shared.mesh.load();
    let service = service.and_then(|name| mesh.config.services.get(name));
    let policy = service.map_or(&mesh.config.links, |service| &service.links).clone();
    let wires = service.map_or(Some(Wires::ALL), |service| wires_at(service, address, identity));
    (policy, wires.unwrap_or_default())
}

/// What the sidecar of `identity` that accepts links at `address` may have; none if no endpoint is there.
fn wires_at(service: &Service, address: SocketAddr, identity: &str) -> Option<Wires> {
    let is_there = |secure: &Secure| secure.link == Some(address) && *secure.identity == *identity;
    let mut endpoints = service.ports.iter().flat_map(|port| &port.endpoints);
    let endpoint = endpoints.find(|endpoint| endpoint.secure.as_ref().is_some_and(is_there))?;
    Some(endpoint.wires.unwrap_or(Wires::ALL))
}

impl Turn {
    fn or_acted(self) -> Self {
        if self == Turn::Idle { Turn::Acted } else { self }
    }
}

/// A secret of the TLS session within `io` that `side` shows, for one wire of it only.
fn token(io: &Io, side: Side, agreed: &Agreed) -> Option<Token> {
    let mut context = vec![side as u8];
    context.extend_from_slice(agreed.wire.label().as_bytes());
    context.extend_from_slice(&agreed.generation.to_be_bytes());
    context.extend_from_slice(agreed.nonces.as_flattened());
    io.stream.export(Token::default(), LABEL, &context)
}

/// What the carrier gives a wire up for.
fn cause_of(fault: &AttachFault) -> Cause {
    if matches!(fault, AttachFault::TimedOut) { Cause::Deadline } else { Cause::Fault }
}

fn boxed(wire: impl Wire + 'static) -> Box<dyn Wire> {
    Box::new(wire)
}

fn carried(counts: Counts) -> u64 {
    counts.tcp_in + counts.tcp_out + counts.ring_in + counts.ring_out
}

/// A number that was never used before.
fn fresh() -> Nonce {
    let mut nonce = Nonce::default();
    // Without randomness there was no TLS; and the token that it goes into is a secret without it.
    let _ = aws_lc_rs::default_provider().secure_random.fill(&mut nonce);
    nonce
}

fn note(event: Event, wire: LinkWire) {
    match event {
        Event::SwitchedOut(generation) | Event::SwitchedIn(generation) => {
            tracing::debug!(generation, ?event, wire = wire.label(), "a link goes over to another wire");
            telemetry::links().switched();
        }
        Event::Frozen(generation, cause) => {
            tracing::debug!(generation, cause = cause.label(), "a link goes back to TCP");
            telemetry::links().fell_back(cause);
        }
        Event::Closed(generation) => tracing::trace!(generation, "a wire of a link is over"),
        Event::Lame => {
            tracing::warn!("a link lost its TCP connection and is left");
            telemetry::links().lame();
        }
    }
}

fn note_message(message: &Message, by_peer: bool) {
    match message {
        Message::Offer(_) => telemetry::links().offered(by_peer),
        Message::Decline(Decline { cause, .. }) => telemetry::links().declined(by_peer, *cause),
        Message::Accept(_) => {}
    }
}

const LABEL: &[u8] = b"EXPERIMENTAL lighter wire 1";

/// How long a policy is believed.
const LOOK: Duration = Duration::from_secs(1);
