//! Both ends of a link in virtual time.

mod agree;
mod rdma;

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use super::*;

/// What goes over the TCP connection of a link, in order: CONTROL frames, and RESUME of the carrier.
#[derive(Clone, Debug)]
enum Said {
    Message(Message),
    Resume(u32, Cause),
}

/// One end. Of the carrier there is what LINK.md says of generations: one exists at a time, each is closed once both
/// sides have frozen it, and none is offered before.
struct End {
    negotiation: Negotiation,
    rings: Arc<Rings>,
    policy: LinkPolicy,
    open: Option<Open>,
    closed: u32,
    carried: u64,
    /// It has an RDMA device.
    rdma: bool,
    outbox: VecDeque<Said>,
    /// What it was told to do.
    done: Vec<Action>,
}

#[derive(Clone, Copy)]
struct Open {
    generation: u32,
    said: bool,
    heard: bool,
    until: Instant,
    switched: bool,
}

impl End {
    fn new(side: Side, budget: u64, policy: LinkPolicy, now: Instant) -> Self {
        let peer = (Ipv4Addr::LOCALHOST.into(), "spiffe://mesh.lighter/ns/default/sa/peer".into());
        let rings = Rings::new(budget, Some("this host".into()), now);
        let negotiation = Negotiation::new(side, peer, rings.clone(), || [7; 16], now);
        End {
            negotiation,
            rings,
            policy,
            open: None,
            closed: 0,
            carried: 0,
            rdma: false,
            outbox: VecDeque::new(),
            done: Vec::new(),
        }
    }

    fn with<T>(
        &mut self,
        now: Instant,
        what: impl FnOnce(&mut Negotiation, &View<'_>, &mut Vec<Action>) -> T,
    ) -> T {
        let next = self.open.is_none().then_some(self.closed + 1);
        let view = View {
            now,
            policy: &self.policy,
            next,
            carried: self.carried,
            door: Some("1-1.link"),
            rdma: self.rdma,
        };
        let mut actions = Vec::new();
        let result = what(&mut self.negotiation, &view, &mut actions);
        actions.into_iter().for_each(|action| self.act(now, action));
        result
    }

    fn act(&mut self, now: Instant, action: Action) {
        match &action {
            Action::Open(generation) => {
                assert!(self.open.is_none(), "one generation at a time");
                assert_eq!(*generation, self.closed + 1);
                let until = now + Duration::from_secs(3);
                self.open =
                    Some(Open { generation: *generation, said: false, heard: false, until, switched: false });
            }
            Action::Withdraw(generation) => {
                assert_eq!(self.open.map(|open| open.generation), Some(*generation));
                self.open = None;
            }
            Action::Freeze(generation, cause) => self.freeze(now, *generation, *cause),
            Action::Send(message) => self.outbox.push_back(Said::Message(message.clone())),
            Action::Ask(offer) => {
                let offer = Offer { rdma: Some(CARD), ..offer.clone() };
                self.outbox.push_back(Said::Message(Message::Offer(offer)));
            }
            Action::Answer(_, accept, card, _) => {
                assert_eq!(*card, CARD);
                let accept = Accept { rdma: Some(CARD), ..accept.clone() };
                self.outbox.push_back(Said::Message(Message::Accept(accept)));
            }
            Action::Connect(_, card) => assert_eq!(*card, CARD),
            Action::Expect(_) | Action::Attach(..) => {}
        }
        self.done.push(action);
    }

    fn freeze(&mut self, now: Instant, generation: u32, cause: Cause) {
        let Some(open) = self.open.as_mut().filter(|open| open.generation == generation && !open.said) else {
            return;
        };
        open.said = true;
        self.outbox.push_back(Said::Resume(generation, cause));
        self.carrier(now, Event::Frozen(generation, cause));
        self.close(now);
    }

    fn close(&mut self, now: Instant) {
        if let Some(Open { generation, said: true, heard: true, .. }) = self.open {
            (self.open, self.closed) = (None, generation);
            self.carrier(now, Event::Closed(generation));
        }
    }

    fn carrier(&mut self, now: Instant, event: Event) {
        self.with(now, |negotiation, view, _| negotiation.carrier(event, view));
    }

    fn hear(&mut self, now: Instant, said: Said) {
        match said {
            Said::Message(message) => {
                // As it is read from the wire.
                let (kind, bytes) = message.write();
                let message = Message::read(kind, &bytes).unwrap();
                self.with(now, |negotiation, view, actions| negotiation.heard(message, view, actions));
            }
            Said::Resume(generation, cause) => {
                if self.open.is_none() && generation == self.closed + 1 {
                    // Not known yet here: answered, and closed.
                    self.closed = generation;
                    self.outbox.push_back(Said::Resume(generation, cause));
                } else if self.open.is_some_and(|open| open.generation == generation) {
                    self.open.as_mut().unwrap().heard = true;
                    // Of causes only this one is said on.
                    self.freeze(now, generation, if cause == Cause::Room { cause } else { Cause::Peer });
                    self.close(now);
                }
            }
        }
    }

    /// The carrier's own deadline.
    fn due(&mut self, now: Instant) {
        if let Some(open) = self.open
            && !open.switched
            && now >= open.until
        {
            self.freeze(now, open.generation, Cause::Deadline);
        }
    }

    fn turn(&mut self, now: Instant) {
        self.with(now, |negotiation, view, actions| negotiation.turn(view, actions));
    }

    fn meet(&mut self, now: Instant, works: bool) {
        let Some(generation) = self.negotiation.meeting() else { return };
        if works {
            assert!(self.negotiation.met(generation, now));
            let open = self.open.as_mut().filter(|open| open.generation == generation);
            open.into_iter().for_each(|open| open.switched = true);
        } else {
            self.with(now, |negotiation, view, actions| {
                negotiation.missed(generation, Cause::Deadline, view, actions)
            });
        }
    }

    fn is_on_wire(&self) -> bool {
        matches!(self.negotiation.stage, Stage::Wire { .. })
    }

    fn offers(&self) -> Vec<&Offer> {
        let offers = self.done.iter().filter_map(|action| match action {
            Action::Send(Message::Offer(offer)) | Action::Ask(offer) => Some(offer),
            _ => None,
        });
        offers.collect()
    }

    fn declined(&self) -> Option<Refusal> {
        match self.done.last() {
            Some(Action::Send(Message::Decline(decline))) => Some(decline.cause),
            _ => None,
        }
    }
}

struct Pair {
    now: Instant,
    opener: End,
    acceptor: End,
}

impl Pair {
    fn new(opener: LinkPolicy, acceptor: LinkPolicy) -> Self {
        let now = Instant::now();
        let budget = 1 << 22;
        Pair {
            now,
            opener: End::new(Side::Opener, budget, opener, now),
            acceptor: End::new(Side::Acceptor, budget, acceptor, now),
        }
    }

    fn both(&mut self) -> [&mut End; 2] {
        [&mut self.opener, &mut self.acceptor]
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        for end in self.both() {
            end.due(now);
            end.turn(now);
        }
    }

    fn carry(&mut self, bytes: u64) {
        self.both().into_iter().for_each(|end| end.carried += bytes);
    }

    /// Delivers all that was said, and meets where the two are to.
    fn settle(&mut self) {
        let now = self.now;
        loop {
            if let Some(said) = self.opener.outbox.pop_front() {
                self.acceptor.hear(now, said);
            } else if let Some(said) = self.acceptor.outbox.pop_front() {
                self.opener.hear(now, said);
            } else if self.both().into_iter().any(|end| end.negotiation.meeting().is_some()) {
                self.both().into_iter().for_each(|end| end.meet(now, true));
            } else {
                return;
            }
        }
    }

    /// A second with so many bytes.
    fn second(&mut self, bytes: u64) {
        for _ in 0..10 {
            self.carry(bytes / 10);
            self.wait(Duration::from_millis(100));
            self.settle();
        }
    }

    fn is_on_wire(&self) -> (bool, bool) {
        (self.opener.is_on_wire(), self.acceptor.is_on_wire())
    }
}

fn may() -> LinkPolicy {
    LinkPolicy { hot_bytes_per_second: 1000, ..LinkPolicy::default() }
}

/// An end of a device.
const CARD: Card = Card {
    gid: std::net::Ipv6Addr::LOCALHOST,
    pair: 17,
    first_packet: 4711,
    address: 0x7000_0000_0000,
    key: 99,
    mtu: 3,
};

fn should() -> LinkPolicy {
    LinkPolicy { shm: WireUse::Should, ..LinkPolicy::default() }
}

fn must_not() -> LinkPolicy {
    LinkPolicy { shm: WireUse::MustNot, ..LinkPolicy::default() }
}

#[test]
fn a_link_gets_a_ring_once_it_is_hot_and_gives_it_up_when_it_rests() {
    let mut pair = Pair::new(may(), may());
    pair.second(900);
    pair.second(900);
    assert!(pair.opener.offers().is_empty());
    pair.second(1100);
    pair.second(1100);
    assert_eq!((pair.is_on_wire(), pair.opener.offers().len()), ((true, true), 1));
    let idle = may().idle_timeout.unwrap();
    assert!(pair.opener.negotiation.timeout(&may()) <= Some(pair.now + idle));
    pair.wait(idle);
    pair.settle();
    assert_eq!(pair.is_on_wire(), (false, false));
    assert_eq!(pair.opener.negotiation.timeout(&may()), None);
    for _ in 0..3 {
        pair.second(1100);
    }
    assert_eq!(pair.is_on_wire(), (true, true), "what went well is not left alone");
    let generations: Vec<_> = pair.opener.offers().iter().map(|offer| offer.generation).collect();
    assert_eq!(generations, [1, 2]);
}

#[test]
fn what_is_declined_is_not_asked_for_again_for_a_while() {
    type Case = (fn(&mut Pair), Refusal, u64);
    let cases: [Case; 4] = [
        (|pair| pair.acceptor.policy = must_not(), Refusal::Policy, 60),
        (
            |pair| pair.opener.rings = Rings::new(1 << 22, Some("another".into()), pair.now),
            Refusal::OtherHost,
            600,
        ),
        (
            |pair| pair.acceptor.rings = Rings::new(1000, Some("this host".into()), pair.now),
            Refusal::Budget,
            1,
        ),
        (
            |pair| pair.acceptor.rings.bar(&pair.acceptor.negotiation.peer, LinkWire::Shm, pair.now),
            Refusal::Barred,
            600,
        ),
    ];
    for (with, cause, seconds) in cases {
        let mut pair = Pair::new(should(), should());
        with(&mut pair);
        let (rings, others) = (pair.opener.rings.clone(), pair.acceptor.rings.clone());
        (pair.opener.negotiation.rings, pair.acceptor.negotiation.rings) = (rings, others);
        pair.wait(Duration::ZERO);
        pair.settle();
        assert_eq!((pair.opener.offers().len(), pair.acceptor.declined()), (1, Some(cause)));
        // For want of memory, one that carries nothing does not ask again.
        pair.carry(QUIET);
        pair.wait(Duration::from_secs(seconds) - Duration::from_millis(1));
        assert_eq!(pair.opener.offers().len(), 1, "{cause:?}");
        // What was known for long is looked at again once a second.
        pair.wait(WINDOW);
        assert_eq!(pair.opener.offers().len(), 2, "{cause:?}");
        assert_eq!(pair.opener.offers()[1].generation, 1, "its number was not used");
    }
}

#[test]
fn a_policy_that_forbids_it_ends_a_ring() {
    let mut pair = Pair::new(should(), should());
    pair.second(1);
    assert_eq!(pair.is_on_wire(), (true, true));
    pair.acceptor.policy = must_not();
    pair.second(1);
    assert_eq!(pair.is_on_wire(), (false, false));
    pair.second(1);
    pair.second(1);
    pair.opener.policy = must_not();
    for _ in 0..120 {
        pair.second(1_000_000);
    }
    assert_eq!(pair.opener.offers().len(), 2, "one more, which was declined");
    assert_eq!(pair.acceptor.declined(), Some(Refusal::Policy));
}

#[test]
fn an_offer_that_nobody_answers_ends_with_its_time() {
    let mut pair = Pair::new(should(), should());
    pair.wait(Duration::ZERO);
    pair.opener.outbox.clear();
    pair.wait(Duration::from_secs(3));
    assert!(matches!(pair.opener.outbox[0], Said::Resume(1, _)));
    pair.settle();
    // An answer that comes too late is nobody's.
    let late =
        Accept { generation: 1, nonce: [0; 16], door: "1-1.link".into(), ring_bytes: 1 << 16, rdma: None };
    let now = pair.now;
    pair.opener.hear(now, Said::Message(Message::Accept(late)));
    assert_eq!(pair.opener.negotiation.meeting(), None);
    pair.wait(Duration::from_secs(1));
    pair.settle();
    assert_eq!(pair.is_on_wire(), (true, true));
    assert_eq!(pair.opener.offers()[1].generation, 2);
}

#[test]
fn what_should_be_there_is_asked_for_again_even_on_a_link_that_rests() {
    let mut pair = Pair::new(should(), should());
    pair.wait(Duration::ZERO);
    pair.settle();
    pair.opener.rings.give_up_all();
    pair.wait(Duration::ZERO);
    pair.settle();
    assert_eq!(pair.is_on_wire(), (false, false));
    pair.wait(Duration::ZERO);
    assert_eq!(pair.opener.offers().len(), 1, "who needs the room has a moment to take it");
    let alarm = pair.opener.negotiation.timeout(&should()).unwrap();
    pair.wait(alarm - pair.now);
    pair.settle();
    assert_eq!(pair.is_on_wire(), (true, true));
}

#[test]
fn links_that_carry_nothing_do_not_take_the_room_from_each_other() {
    // Room for one, and two that should have a ring.
    let mut first = Pair::new(should(), should());
    let mut second = Pair::new(should(), should());
    let one = shm::memory_bytes(should().ring_bytes) as u64;
    let rings = Rings::new(one, Some("this host".into()), first.now);
    for pair in [&mut first, &mut second] {
        pair.opener.rings = rings.clone();
        pair.opener.negotiation.rings = rings.clone();
        pair.carry(100);
    }
    for _ in 0..60 {
        first.second(0);
        second.second(0);
    }
    let offers = |pair: &Pair| pair.opener.offers().len();
    assert!(offers(&first) + offers(&second) <= 3, "{} and {}", offers(&first), offers(&second));
    let [first_has, second_has] = [first.is_on_wire(), second.is_on_wire()];
    assert_ne!(first_has, second_has, "one of them has it");
    // Whoever carries something gets it.
    let (busy, idle) = if first_has.0 { (&mut second, &mut first) } else { (&mut first, &mut second) };
    for _ in 0..6 {
        busy.second(2 * QUIET);
        idle.second(0);
    }
    assert_eq!((busy.is_on_wire(), idle.is_on_wire()), ((true, true), (false, false)));
}

#[test]
fn a_link_in_use_has_room_however_many_there_are_that_should_have_a_ring() {
    let room = 2 * shm::memory_bytes(should().ring_bytes) as u64;
    for is_opener_full in [true, false] {
        let now = Instant::now();
        let full = Rings::new(room, Some("this host".into()), now);
        let mut pairs: Vec<_> = (0..8).map(|_| Pair { now, ..Pair::new(should(), should()) }).collect();
        for pair in &mut pairs {
            let end = if is_opener_full { &mut pair.opener } else { &mut pair.acceptor };
            end.rings = full.clone();
            end.negotiation.rings = full.clone();
            pair.carry(100);
        }
        for busy in [3, 7, 0] {
            let mut had = 0;
            for _ in 0..60 {
                for (number, pair) in pairs.iter_mut().enumerate() {
                    pair.second(if number == busy { 2 * QUIET } else { 0 });
                }
                had += usize::from(pairs[busy].is_on_wire() == (true, true));
            }
            assert!(had >= 50, "{busy}: {had} of 60 seconds");
        }
        // Each asked at its beginning and when it was in use, and some once more.
        let offers: usize = pairs.iter().map(|pair| pair.opener.offers().len()).sum();
        assert!(offers <= 2 * pairs.len(), "{offers}");
    }
}

#[test]
fn a_ring_that_nobody_uses_stays_given_up_until_somebody_does() {
    let mut pair = Pair::new(should(), should());
    pair.second(QUIET);
    pair.wait(should().idle_timeout.unwrap());
    pair.settle();
    for _ in 0..10 {
        pair.second(QUIET / 10 - 1);
    }
    assert_eq!((pair.is_on_wire(), pair.opener.offers().len()), ((false, false), 1));
    pair.second(QUIET);
    assert_eq!(pair.is_on_wire(), (true, true));
}

#[test]
fn what_nobody_sealed_bars_the_wire_also_once_that_is_over() {
    let barred = |end: &End, after: u64, now: Instant| {
        end.rings.is_barred(&end.negotiation.peer, LinkWire::Shm, now + Duration::from_secs(after))
    };
    let mut pair = Pair::new(should(), should());
    let now = pair.now;
    pair.acceptor.negotiation.harmed(now);
    assert!(!barred(&pair.acceptor, 0, now), "no wire did that");
    pair.second(1);
    assert_eq!(pair.is_on_wire(), (true, true));
    pair.opener.rings.give_up_all();
    pair.wait(Duration::ZERO);
    pair.settle();
    assert!(matches!(pair.acceptor.negotiation.stage, Stage::Tcp), "both sides are done with it");
    // What lay on it was held before TLS, or was replayed.
    let now = pair.now;
    pair.acceptor.negotiation.harmed(now);
    assert!(barred(&pair.acceptor, 599, now) && !barred(&pair.acceptor, 600, now));
    for _ in 0..10 {
        pair.second(2 * QUIET);
    }
    assert_eq!((pair.is_on_wire(), pair.acceptor.declined()), ((false, false), Some(Refusal::Barred)));
}

#[test]
fn a_link_that_has_lost_tcp_bars_a_wire_that_does_harm() {
    let mut pair = Pair::new(should(), should());
    pair.second(1);
    let now = pair.now;
    pair.opener.carrier(now, Event::Lame);
    pair.opener.negotiation.harmed(now);
    assert!(pair.opener.rings.is_barred(&pair.opener.negotiation.peer, LinkWire::Shm, now));
}

#[test]
fn a_ring_is_no_larger_than_either_side_wants() {
    let small = LinkPolicy { ring_bytes: 1 << 16, ..should() };
    for (opener, acceptor) in [(small.clone(), should()), (should(), small)] {
        let mut pair = Pair::new(opener, acceptor);
        pair.wait(Duration::ZERO);
        pair.settle();
        let expects = pair.acceptor.done.iter().any(
            |action| matches!(action, Action::Expect(Agreed { ring_bytes, .. }) if *ring_bytes == 1 << 16),
        );
        assert!(expects && pair.is_on_wire() == (true, true));
    }
}

#[test]
fn a_peer_that_opened_nothing_and_one_that_asks_too_often_are_not_heard() {
    let offer = |generation| {
        let (wire, host) = ("shm".to_owned(), "this host".to_owned());
        Said::Message(Message::Offer(Offer {
            generation,
            wire,
            nonce: [1; 16],
            host,
            ring_bytes: 1 << 16,
            rdma: None,
            round: 0,
        }))
    };
    let mut pair = Pair::new(should(), should());
    let now = pair.now;
    pair.opener.hear(now, offer(1));
    assert!(pair.opener.done.is_empty(), "only the side that opened the link asks");
    pair.acceptor.hear(now, offer(2));
    assert!(pair.acceptor.done.is_empty(), "not the next number");
    pair.acceptor.hear(now, offer(1));
    pair.acceptor.hear(now, Said::Resume(1, Cause::Peer));
    pair.acceptor.hear(now, offer(2));
    assert_eq!(pair.acceptor.declined(), Some(Refusal::TooSoon));
    pair.acceptor.hear(now + should().back_off, offer(2));
    assert_eq!(pair.acceptor.negotiation.meeting(), Some(2));
}
