//! Whether a link gets a wire beside TCP, and when it gives that up. No socket and no clock of its own.
//!
//! The side that opened the link asks ([`Offer`]), the other one answers. Both then meet at the answering side's door, and
//! whoever has proved the new wire goes over to it: that is the carrier's. What is decided here is when to ask, whom to
//! refuse, and when a ring has to go: because nobody uses it, because others need its memory, or because the policy says so.

pub mod message;
pub(crate) mod rings;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::snapshot::{LinkPolicy, WireUse};

use self::message::{Accept, Decline, Message, Nonce, Offer, Refusal};
use self::rings::{Asked, Lease, Peer, Rings};
use super::carrier::{Cause, Event};
use super::session::Side;
use super::wire::rdma::{self, Card};
use super::wire::shm;
use crate::telemetry::LinkWire;

/// What one side of a link has agreed with the other about wires.
#[derive(Debug)]
pub(crate) struct Negotiation {
    side: Side,
    peer: Peer,
    rings: Arc<Rings>,
    stage: Stage,
    /// Which kind of wire that is, or was last.
    wire: LinkWire,
    /// What this side makes its numbers of.
    nonce: fn() -> Nonce,
    /// Since when it is counted how much the link carries, and what it had carried then.
    counted: (Instant, u64),
    is_hot: bool,
    /// What it had carried when it was looked at last.
    carried: u64,
    /// When it last carried something.
    used: Instant,
    /// Nothing is asked for before.
    rests_until: Instant,
    /// What it had carried when its last wire was given up because nobody used it, or when there was no room for one.
    rested: Option<u64>,
    /// When it is asked for what should be there, even if the link carries nothing.
    asks: Option<Instant>,
    /// A wire may have carried what is not looked at yet.
    had_wire: bool,
}

/// How far it is.
#[derive(Debug)]
enum Stage {
    /// On TCP alone.
    Tcp,
    /// A wire was asked for.
    Offered { generation: u32, nonce: Nonce, ring_bytes: u32, lease: Lease },
    /// Both want it, and meet.
    Meeting { generation: u32, lease: Lease },
    /// The carrier has it.
    Wire { generation: u32, since: Instant, lease: Lease },
    /// It is given up. The memory is held until the carrier lets go of it.
    Leaving { generation: u32, _lease: Lease },
    /// The link is about to end.
    Over,
}

/// How things stand when something is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    /// The time.
    pub(crate) now: Instant,
    /// What the policy for this link says.
    pub(crate) policy: &'a LinkPolicy,
    /// The number that a wire would have now. None: there cannot be one.
    pub(crate) next: Option<u32>,
    /// How many bytes the link has carried, both ways together.
    pub(crate) carried: u64,
    /// The name of the door at which this side hands out memory, if it has one.
    pub(crate) door: Option<&'a str>,
    /// Whether it has an RDMA device that the policy allows.
    pub(crate) rdma: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The carrier is told that there is to be a wire of this number.
    Open(u32),
    /// The carrier is told that there is to be none.
    Withdraw(u32),
    /// The carrier goes back to TCP.
    Freeze(u32, Cause),
    /// The other side comes to this side's door.
    Expect(Agreed),
    /// This side goes to the other's door.
    Attach(Agreed, String),
    /// This side makes its end of an RDMA wire, and asks with it.
    Ask(Offer),
    /// It makes its end, connects it to the one that it was asked with, and answers with it. The other side has gone through
    /// all of its ends so often.
    Answer(Agreed, Accept, Card, u32),
    /// It connects the end that it asked with.
    Connect(Agreed, Card),
    /// The other side is told.
    Send(Message),
}

/// What both sides know of a wire before there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Its number.
    pub(crate) generation: u32,
    /// Its kind.
    pub(crate) wire: LinkWire,
    /// How much lies in a ring at most.
    pub(crate) ring_bytes: u32,
    /// Of the side that asked, and of the side that was asked.
    pub(crate) nonces: [Nonce; 2],
}

impl Negotiation {
    /// Of `side` of a link to `peer`, on which nothing was said yet.
    pub(crate) fn new(side: Side, peer: Peer, rings: Arc<Rings>, nonce: fn() -> Nonce, now: Instant) -> Self {
        Negotiation {
            side,
            peer,
            rings,
            stage: Stage::Tcp,
            wire: LinkWire::Shm,
            nonce,
            counted: (now, 0),
            is_hot: false,
            carried: 0,
            used: now,
            rests_until: now,
            rested: None,
            asks: None,
            had_wire: false,
        }
    }

    /// Something may have changed: it is decided whether to ask for a wire, or to give one up.
    pub(crate) fn turn(&mut self, view: &View<'_>, actions: &mut Vec<Action>) {
        let View { now, policy, carried, .. } = *view;
        if carried != self.carried {
            self.carried = carried;
            self.used = now;
        }
        let since = now.saturating_duration_since(self.counted.0);
        if since >= WINDOW {
            let bytes = carried - self.counted.1;
            self.is_hot = bytes as u128 * 1000 >= u128::from(policy.hot_bytes_per_second) * since.as_millis();
            self.counted = (now, carried);
        }
        match &self.stage {
            Stage::Tcp if self.side == Side::Opener => self.consider(view, actions),
            Stage::Offered { generation, lease, .. } | Stage::Meeting { generation, lease } => {
                if let Some(why) = lease.asked() {
                    self.make_room(*generation, why, now, actions);
                }
            }
            Stage::Wire { generation, lease, .. } => {
                lease.touch(self.used);
                let is_idle = policy.idle_timeout.is_some_and(|idle| now >= self.used + idle);
                let asked = lease.asked();
                if asked == Some(Asked::Lost) {
                    self.rings.failed(&self.peer, self.wire, policy.back_off, now);
                    let generation = *generation;
                    actions.push(Action::Freeze(generation, Cause::Fault));
                    self.leave(generation);
                } else if let Some(why) = asked {
                    self.make_room(*generation, why, now, actions);
                } else if is_idle || used(policy, self.wire) == WireUse::MustNot {
                    self.rested = is_idle.then_some(carried);
                    self.give_up(*generation, Cause::Policy, actions);
                }
            }
            _ => {}
        }
    }

    /// When [`turn`](Self::turn) is to be called, even if nothing changes.
    pub(crate) fn timeout(&self, policy: &LinkPolicy) -> Option<Instant> {
        match &self.stage {
            Stage::Wire { .. } => policy.idle_timeout.map(|idle| self.used + idle),
            Stage::Tcp => self.asks,
            _ => None,
        }
    }

    /// The other side said something.
    pub(crate) fn heard(&mut self, message: Message, view: &View<'_>, actions: &mut Vec<Action>) {
        match message {
            Message::Offer(offer) if self.side == Side::Acceptor => self.answer(&offer, view, actions),
            Message::Accept(accept) => self.accepted(accept, actions),
            Message::Decline(decline) => self.declined(decline, view, actions),
            // Only the side that opened the link asks.
            Message::Offer(_) => {}
        }
    }

    /// The new wire is proved. Returns whether it is still wanted.
    pub(crate) fn met(&mut self, generation: u32, now: Instant) -> bool {
        match self.take() {
            Stage::Meeting { generation: met, lease } if met == generation => {
                self.used = now;
                self.stage = Stage::Wire { generation, since: now, lease };
                true
            }
            other => {
                self.stage = other;
                false
            }
        }
    }

    /// The two did not meet, because of `cause`.
    pub(crate) fn missed(
        &mut self,
        generation: u32,
        cause: Cause,
        view: &View<'_>,
        actions: &mut Vec<Action>,
    ) {
        if matches!(&self.stage, Stage::Meeting { generation: met, .. } if *met == generation) {
            self.rings.failed(&self.peer, self.wire, view.policy.back_off, view.now);
            actions.push(Action::Freeze(generation, cause));
            self.leave(generation);
        }
    }

    /// This side could not make its end, and nobody was asked.
    pub(crate) fn unable(&mut self, generation: u32, view: &View<'_>, actions: &mut Vec<Action>) {
        if self.asking() == Some(generation) {
            self.rings.failed(&self.peer, self.wire, view.policy.back_off, view.now);
            actions.push(Action::Withdraw(generation));
            self.stage = Stage::Tcp;
        }
    }

    /// How often in a row a wire of this kind failed with the other side.
    pub(crate) fn times(&self, wire: LinkWire) -> u32 {
        self.rings.times(&self.peer, wire)
    }

    /// Something happened in the carrier.
    pub(crate) fn carrier(&mut self, event: Event, view: &View<'_>) {
        match event {
            Event::Frozen(generation, cause) if self.is_of(generation) => {
                let LinkPolicy { back_off, .. } = view.policy;
                if let Stage::Wire { since, .. } = &self.stage
                    && view.now >= *since + *back_off * LONG
                {
                    self.rings.lived(&self.peer, self.wire);
                }
                if cause == Cause::Room {
                    self.rest(view.now, view.carried);
                } else if !matches!(self.stage, Stage::Leaving { .. }) && cause != Cause::Policy {
                    self.rings.failed(&self.peer, self.wire, *back_off, view.now);
                }
                self.leave(generation);
            }
            Event::Closed(generation) if self.is_of(generation) => {
                // What it carried may lie before TLS, or come once more as it was stored there.
                self.had_wire = true;
                self.stage = Stage::Tcp;
            }
            Event::Lame => self.stage = Stage::Over,
            Event::SwitchedOut(_) | Event::SwitchedIn(_) | Event::Frozen(..) | Event::Closed(_) => {}
        }
    }

    /// What came was not what the other side sealed, or the other side lied on a wire. If there is or was one, it is that
    /// which did it.
    pub(crate) fn harmed(&mut self, now: Instant) {
        let has_wire = matches!(self.stage, Stage::Wire { .. } | Stage::Leaving { .. } | Stage::Over);
        if has_wire || self.had_wire {
            // Whichever it was: there is to be none with that peer.
            self.rings.bar(&self.peer, LinkWire::Shm, now);
            self.rings.bar(&self.peer, LinkWire::Rdma, now);
        }
    }

    /// What is accounted for a wire, if there is to be one.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        match &self.stage {
            Stage::Offered { lease, .. } | Stage::Meeting { lease, .. } | Stage::Wire { lease, .. } => {
                Some(lease)
            }
            Stage::Tcp | Stage::Leaving { .. } | Stage::Over => None,
        }
    }

    /// Which kind of wire there is, or was last.
    pub(crate) fn wire(&self) -> LinkWire {
        self.wire
    }

    /// The number of the wire that was asked for.
    pub(crate) fn asking(&self) -> Option<u32> {
        match self.stage {
            Stage::Offered { generation, .. } => Some(generation),
            _ => None,
        }
    }

    /// The number of the wire that the two are to meet for.
    pub(crate) fn meeting(&self) -> Option<u32> {
        match self.stage {
            Stage::Meeting { generation, .. } => Some(generation),
            _ => None,
        }
    }

    /// Asks for a wire, where that makes sense.
    fn consider(&mut self, view: &View<'_>, actions: &mut Vec<Action>) {
        let View { now, policy, next, door, carried, rdma } = *view;
        self.asks = None;
        let Some(generation) = next.filter(|_| self.rings.host.is_some()) else { return };
        let rested = self.rested.is_none_or(|before| carried - before >= QUIET);
        let (mut rests_until, mut is_asked_for) = (None::<Instant>, false);
        for (wire, can) in [(LinkWire::Shm, door.is_some()), (LinkWire::Rdma, rdma)] {
            let wants = match used(policy, wire) {
                WireUse::May => self.is_hot,
                WireUse::Should => rested,
                WireUse::MustNot => false,
            };
            if !can || !wants {
                continue;
            }
            // A hot link has a turn soon enough.
            let should = used(policy, wire) == WireUse::Should;
            if now < self.rests_until {
                self.asks = Some(self.rests_until).filter(|_| should);
                return;
            }
            if let Some(until) = self.rings.rests_until(&self.peer, wire, now) {
                rests_until = Some(rests_until.map_or(until, |before| before.min(until)));
                is_asked_for |= should;
                continue;
            }
            return self.ask(wire, generation, view, actions);
        }
        if let Some(until) = rests_until {
            // Another link with this peer may have learned more by then.
            self.rests_until = until.min(now + WINDOW);
            self.asks = Some(until).filter(|_| is_asked_for);
        }
    }

    /// Asks for a wire of this kind, if there is memory for it.
    fn ask(&mut self, wire: LinkWire, generation: u32, view: &View<'_>, actions: &mut Vec<Action>) {
        let View { now, policy, carried, .. } = *view;
        let Some(host) = self.rings.host.clone() else { return };
        let Some(lease) = self.rings.lease(memory_bytes(wire, policy.ring_bytes), now) else {
            self.rests_until = now + WINDOW;
            // A link that carries nothing does not take from others that carry nothing either, again and again.
            self.rested = Some(carried);
            return;
        };
        self.rested = None;
        let (nonce, ring_bytes) = ((self.nonce)(), policy.ring_bytes);
        let name = wire.label().to_owned();
        let offer = Offer { generation, wire: name, nonce, host, ring_bytes, rdma: None, round: 0 };
        let asks = match wire {
            LinkWire::Rdma => Action::Ask(offer),
            LinkWire::Shm | LinkWire::Tcp | LinkWire::Quic => Action::Send(Message::Offer(offer)),
        };
        actions.extend([Action::Open(generation), asks]);
        self.wire = wire;
        self.stage = Stage::Offered { generation, nonce, ring_bytes, lease };
    }

    /// Answers an offer. One of a number that cannot be any more crossed with its end, and is left alone.
    fn answer(&mut self, offer: &Offer, view: &View<'_>, actions: &mut Vec<Action>) {
        let generation = offer.generation;
        if view.next != Some(generation) || !matches!(self.stage, Stage::Tcp) {
            return;
        }
        match self.admit(offer, view) {
            Ok((wire, accept, lease)) => {
                let nonces = [offer.nonce, accept.nonce];
                let agreed = Agreed { generation, wire, ring_bytes: accept.ring_bytes, nonces };
                actions.push(Action::Open(generation));
                match offer.rdma.filter(|_| wire == LinkWire::Rdma) {
                    Some(end) => actions.push(Action::Answer(agreed, accept, end, offer.round)),
                    None => actions.extend([Action::Expect(agreed), Action::Send(Message::Accept(accept))]),
                }
                self.rests_until = view.now + view.policy.back_off;
                self.wire = wire;
                self.stage = Stage::Meeting { generation, lease };
            }
            Err(cause) => actions.push(Action::Send(Message::Decline(Decline { generation, cause }))),
        }
    }

    fn admit(&self, offer: &Offer, view: &View<'_>) -> Result<(LinkWire, Accept, Lease), Refusal> {
        let View { now, policy, door, rdma, .. } = *view;
        let wire = [LinkWire::Shm, LinkWire::Rdma].into_iter().find(|wire| wire.label() == offer.wire);
        let wire = wire.filter(|_| self.rings.is_open()).ok_or(Refusal::Unavailable)?;
        if used(policy, wire) == WireUse::MustNot {
            return Err(Refusal::Policy);
        }
        let door = match wire {
            LinkWire::Rdma if !rdma => return Err(Refusal::Unavailable),
            LinkWire::Rdma if offer.rdma.is_none() => return Err(Refusal::Malformed),
            LinkWire::Rdma => "",
            LinkWire::Shm | LinkWire::Tcp | LinkWire::Quic => door.ok_or(Refusal::Unavailable)?,
        };
        if wire == LinkWire::Shm && self.rings.host.as_ref() != Some(&offer.host) {
            return Err(Refusal::OtherHost);
        }
        if !is_ring(offer.ring_bytes) {
            return Err(Refusal::Malformed);
        }
        if self.rings.is_barred(&self.peer, wire, now) {
            return Err(Refusal::Barred);
        }
        if now < self.rests_until {
            return Err(Refusal::TooSoon);
        }
        let ring_bytes = offer.ring_bytes.min(policy.ring_bytes);
        let lease = self.rings.lease(memory_bytes(wire, ring_bytes), now).ok_or(Refusal::Budget)?;
        let (generation, nonce) = (offer.generation, (self.nonce)());
        Ok((wire, Accept { generation, nonce, door: door.into(), ring_bytes, rdma: None }, lease))
    }

    fn accepted(&mut self, accept: Accept, actions: &mut Vec<Action>) {
        let Accept { generation, nonce, door, ring_bytes, rdma } = accept;
        match self.take() {
            Stage::Offered { generation: offered, nonce: own, ring_bytes: most, lease }
                if offered == generation =>
            {
                let lacks_end = self.wire == LinkWire::Rdma && rdma.is_none();
                if !is_ring(ring_bytes) || ring_bytes > most || lacks_end {
                    // The carrier gives it up when its time is over.
                    self.stage = Stage::Offered { generation, nonce: own, ring_bytes: most, lease };
                    return;
                }
                let agreed = Agreed { generation, wire: self.wire, ring_bytes, nonces: [own, nonce] };
                actions.push(match rdma.filter(|_| self.wire == LinkWire::Rdma) {
                    Some(end) => Action::Connect(agreed, end),
                    None => Action::Attach(agreed, door),
                });
                self.stage = Stage::Meeting { generation, lease };
            }
            other => self.stage = other,
        }
    }

    fn declined(&mut self, decline: Decline, view: &View<'_>, actions: &mut Vec<Action>) {
        let Decline { generation, cause } = decline;
        if matches!(self.stage, Stage::Offered { generation: offered, .. } if offered == generation) {
            self.rings.declined(&self.peer, self.wire, cause, view.policy.back_off, view.now);
            // Nor does it take from others on the other side.
            self.rested = (cause == Refusal::Budget).then_some(view.carried);
            actions.push(Action::Withdraw(generation));
            self.stage = Stage::Tcp;
        }
    }

    /// Gives the wire up, as others want it.
    fn make_room(&mut self, generation: u32, why: Asked, now: Instant, actions: &mut Vec<Action>) {
        match why {
            Asked::Room => {
                self.rest(now, self.carried);
                self.give_up(generation, Cause::Room, actions);
            }
            Asked::Operator | Asked::Lost => {
                self.rests_until = now + 2 * WINDOW;
                self.give_up(generation, Cause::Policy, actions);
            }
        }
    }

    /// Another link needs the memory that this one did not use: it is left alone, until it carries something again.
    fn rest(&mut self, now: Instant, carried: u64) {
        // Whoever needs it asks once in a window.
        self.rests_until = now + 2 * WINDOW;
        self.rested = Some(carried);
    }

    fn give_up(&mut self, generation: u32, cause: Cause, actions: &mut Vec<Action>) {
        actions.push(Action::Freeze(generation, cause));
        self.leave(generation);
    }

    fn leave(&mut self, generation: u32) {
        self.stage = match self.take() {
            Stage::Offered { lease, .. } | Stage::Meeting { lease, .. } | Stage::Wire { lease, .. } => {
                Stage::Leaving { generation, _lease: lease }
            }
            other => other,
        };
    }

    /// Whether `generation` is the wire that this is about.
    fn is_of(&self, generation: u32) -> bool {
        match self.stage {
            Stage::Offered { generation: of, .. }
            | Stage::Meeting { generation: of, .. }
            | Stage::Wire { generation: of, .. }
            | Stage::Leaving { generation: of, .. } => of == generation,
            Stage::Tcp | Stage::Over => false,
        }
    }

    fn take(&mut self) -> Stage {
        std::mem::replace(&mut self.stage, Stage::Tcp)
    }
}

/// Whether a ring can be so large.
fn is_ring(bytes: u32) -> bool {
    bytes.is_power_of_two() && (shm::LEAST_RING_BYTES..=shm::MOST_RING_BYTES).contains(&bytes)
}

/// What the policy says of a wire.
fn used(policy: &LinkPolicy, wire: LinkWire) -> WireUse {
    match wire {
        LinkWire::Rdma => policy.rdma,
        LinkWire::Shm | LinkWire::Tcp | LinkWire::Quic => policy.shm,
    }
}

/// What this side accounts for a wire.
fn memory_bytes(wire: LinkWire, ring_bytes: u32) -> u64 {
    let bytes = match wire {
        LinkWire::Rdma => rdma::memory_bytes(ring_bytes),
        LinkWire::Shm | LinkWire::Tcp | LinkWire::Quic => shm::memory_bytes(ring_bytes),
    };
    bytes as u64
}

/// Over so long it is counted how much a link carries.
const WINDOW: Duration = Duration::from_secs(1);

/// What the two sides say to each other about wires is less than this: a link that carries no more rests.
const QUIET: u64 = 4096;

/// A ring that lived for so many pauses lived long.
const LONG: u32 = 60;
