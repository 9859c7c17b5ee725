//! How a link comes to its wires: joins what is decided about them with the carrier, with the doors at which memory is
//! handed out, and with what the policy says.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use lighter_config::name::ServiceName;
use lighter_config::snapshot::LinkPolicy;
use rustls::crypto::aws_lc_rs;
use tokio_rustls::TlsStream;

use super::carrier::{Beneath, Counts, Event, Out};
use super::negotiate::message::{Decline, Message, Nonce};
use super::negotiate::{Action, Agreed, Negotiation, View};
use super::session::{Session, Side};
use super::standing::Standing;
use super::wire::shm::{AttachFault, ShmWire, Token, Tokens};
use crate::io::{Io, Stream};
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

/// The two sides meet at a door.
type Meeting = Pin<Box<dyn Future<Output = Result<ShmWire, AttachFault>>>>;

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
            negotiation: Negotiation::new(side, (address.ip(), identity), shared.rings.clone(), fresh, now),
            shared: shared.clone(),
            service,
            policy: LinkPolicy::default(),
            looks: now,
            heard: None,
            meeting: None,
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
        let Some(carrier) = io.carrier() else { return Turn::Idle };
        if now >= self.looks {
            self.look(now);
        }
        let counts = carrier.counts();
        self.count_to(counts);
        self.standing.carried(counts, session.open_streams());
        let Upgrade { negotiation, shared, policy, actions, .. } = self;
        let carried = counts.tcp_in + counts.tcp_out + counts.ring_in + counts.ring_out;
        let door = shared.door.get().map(|door| door.name());
        let view = |carrier: &Beneath| View { now, policy, next: carrier.next(), carried, door };
        let mut turn = Turn::Idle;
        while let Some(event) = carrier.event() {
            note(event);
            if event == Event::Lame {
                turn = Turn::Lame;
            }
            negotiation.carrier(event, &view(carrier));
            self.standing.goes(carrier);
            open.goes_over(if carrier.ways().0 == Out::Ring { LinkWire::Shm } else { LinkWire::Tcp });
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
                        carrier.switch(generation, Box::new(wire));
                    }
                    Err(fault) => {
                        tracing::debug!(%fault, generation, "the two ends of a link did not meet for a wire");
                        telemetry::links().missed(&fault);
                        negotiation.missed(generation, &view(carrier), actions);
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
                self.meeting = Some((agreed.generation, Box::pin(meeting)));
            }
            Action::Attach(agreed, name) => {
                let (Some(tokens), Some(door)) = (self.tokens(io, &agreed), self.shared.door.get()) else {
                    return;
                };
                let door = door.clone();
                let meeting = async move { door.attach(&name, &tokens, agreed.ring_bytes).await };
                self.meeting = Some((agreed.generation, Box::pin(meeting)));
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
        self.policy = service.map(|service| service.links).unwrap_or_default();
        self.looks = now + LOOK;
    }

    fn count_to(&mut self, counts: Counts) {
        let before = std::mem::replace(&mut self.counted, counts);
        let metrics = telemetry::links();
        for (wire, sent, received) in [
            (LinkWire::Tcp, counts.tcp_out - before.tcp_out, counts.tcp_in - before.tcp_in),
            (LinkWire::Shm, counts.ring_out - before.ring_out, counts.ring_in - before.ring_in),
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

impl Turn {
    fn or_acted(self) -> Self {
        if self == Turn::Idle { Turn::Acted } else { self }
    }
}

/// A secret of the TLS session within `io` that `side` shows, for one wire of it only.
fn token(io: &Io, side: Side, agreed: &Agreed) -> Option<Token> {
    let Stream::Tls(tls) = &io.stream else { return None };
    let mut context = vec![side as u8];
    context.extend_from_slice(b"shm");
    context.extend_from_slice(&agreed.generation.to_be_bytes());
    context.extend_from_slice(agreed.nonces.as_flattened());
    let exported = match &**tls {
        TlsStream::Client(tls) => {
            tls.get_ref().1.export_keying_material(Token::default(), LABEL, Some(&context))
        }
        TlsStream::Server(tls) => {
            tls.get_ref().1.export_keying_material(Token::default(), LABEL, Some(&context))
        }
    };
    exported.ok()
}

/// A number that was never used before.
fn fresh() -> Nonce {
    let mut nonce = Nonce::default();
    // Without randomness there was no TLS; and the token that it goes into is a secret without it.
    let _ = aws_lc_rs::default_provider().secure_random.fill(&mut nonce);
    nonce
}

fn note(event: Event) {
    match event {
        Event::SwitchedOut(generation) | Event::SwitchedIn(generation) => {
            tracing::debug!(generation, ?event, "a link goes over to shared memory");
            telemetry::links().switched();
        }
        Event::Frozen(generation, cause) => {
            tracing::debug!(generation, cause = cause.label(), "a link goes back to TCP");
            telemetry::links().fell_back(cause);
        }
        Event::Closed(generation) => tracing::trace!(generation, "a wire of a link is over"),
        Event::Lame => tracing::warn!("a link lost its TCP connection and is left"),
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
