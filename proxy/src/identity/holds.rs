//! Open connections within TLS, other than links, and what was proved on them.
//!
//! A proof is made when a connection is. The connection is left in good order, as in a drain, before either side's certificate
//! ends, and when the peer is trusted no more: HTTP says that it is the last exchange, nothing new begins on it, and what still
//! runs at the end is cut. Connections that one certificate vouches for are looked after together.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use lighter_config::identity::{Peer, Refusal, Usage};
use rustls::pki_types::CertificateDer;
use tokio::sync::Notify;

use super::Identity;
use crate::drain::{Machine, Phase};
use crate::telemetry;

/// How far one connection is on its way to its end.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    phase: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

/// Every connection of a sidecar that something was proved on.
#[derive(Default)]
pub(super) struct Holds {
    groups: Mutex<HashMap<Key, Group>>,
    /// One has come that may be due before the others.
    come: Notify,
}

/// What connections have in common: the peer's certificate, for which side it was shown, and the end of the own one.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key(CertificateDer<'static>, bool, SystemTime);

/// Whether a peer is trusted.
type Trusts<'a> = &'a dyn Fn(&Peer, Usage) -> Result<(), Refusal>;

struct Group {
    peer: Peer,
    usage: Usage,
    /// When the certificate of either side ends.
    end: SystemTime,
    /// How long before that they begin to leave.
    ahead: Duration,
    leaving: Option<Machine>,
    connections: Vec<Weak<Hold>>,
}

impl Hold {
    /// How far it is.
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Acquire))
    }

    /// Whether nothing begins on its connection any more.
    pub(crate) fn is_leaving(&self) -> bool {
        self.phase() > Phase::Serving
    }

    /// An error once its connection is cut. Whoever asks and waits is woken by `waker` when this may be so.
    pub(crate) fn check(&self, waker: Option<&Waker>) -> io::Result<()> {
        if let Some(waker) = waker {
            self.watch(waker);
        }
        match self.phase() {
            Phase::Closed => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "what was proved on it holds no more"))
            }
            _ => Ok(()),
        }
    }

    /// Which task to wake when it gets further.
    pub(crate) fn watch(&self, waker: &Waker) {
        match &mut *self.waker() {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn advance(&self, phase: Phase) {
        if self.phase.swap(phase as u8, Ordering::AcqRel) != phase as u8 {
            // Cloned out first: what a wake does must not find the lock held.
            let waker = self.waker().clone();
            waker.iter().for_each(Waker::wake_by_ref);
        }
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holds {
    /// A connection on which `peer` proved who it is, while the own certificate ended at `own_end`.
    pub(super) fn add(&self, peer: Peer, usage: Usage, own_end: SystemTime, now: SystemTime) -> Arc<Hold> {
        let hold = Arc::new(Hold::default());
        let Some(leaf) = peer.chain.first().cloned() else { return hold };
        let mut groups = self.groups();
        let group = groups.entry(Key(leaf, usage == Usage::Client, own_end)).or_insert_with(|| {
            self.come.notify_one();
            Group::new(peer, usage, own_end, now)
        });
        if let Some(leaving) = &group.leaving {
            hold.advance(leaving.phase());
        }
        if group.connections.len() == group.connections.capacity() {
            group.connections.retain(|one| one.strong_count() > 0);
        }
        group.connections.push(Arc::downgrade(&hold));
        hold
    }

    /// Moves every connection as far as it is to be. `trusted`: asked where other roots may be trusted than before. Connections
    /// that are to leave for that have `patience`. Returns when to look again.
    fn look(
        &self,
        now: SystemTime,
        at: Instant,
        patience: Duration,
        trusted: Option<Trusts<'_>>,
    ) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        self.groups().retain(|_, group| {
            group.connections.retain(|one| one.strong_count() > 0);
            if group.connections.is_empty() {
                return false;
            }
            let wait = group.look(now, at, patience, trusted);
            next = next.into_iter().chain(wait).min();
            true
        });
        next
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<Key, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    fn new(peer: Peer, usage: Usage, own_end: SystemTime, now: SystemTime) -> Self {
        let end = peer.not_after.min(own_end);
        let ahead = LEAVE.min(end.duration_since(now).unwrap_or_default() / 5);
        Group { peer, usage, end, ahead, leaving: None, connections: Vec::new() }
    }

    fn look(
        &mut self,
        now: SystemTime,
        at: Instant,
        patience: Duration,
        trusted: Option<Trusts<'_>>,
    ) -> Option<Duration> {
        let left = self.end.duration_since(now).unwrap_or_default();
        let leaves = || match trusted.map(|trusted| trusted(&self.peer, self.usage)) {
            Some(Err(refusal)) => Some((refusal, patience.min(left))),
            _ if left <= self.ahead => Some((Refusal::Expired, left)),
            _ => None,
        };
        if self.leaving.is_none()
            && let Some((refusal, deadline)) = leaves()
        {
            let count = self.connections.len();
            telemetry::identity().left(&refusal, count as u64);
            tracing::info!(peer = %self.peer.id, count, reason = refusal.label(), "connections are left");
            let mut machine = Machine::new(deadline);
            machine.stop(at);
            self.leaving = Some(machine);
        }
        let Some(machine) = &mut self.leaving else { return Some(left - self.ahead) };
        let phase = machine.advance(at, self.connections.len());
        for connection in self.connections.iter().filter_map(Weak::upgrade) {
            connection.advance(phase);
        }
        machine.wakes_at().map(|wake| wake.saturating_duration_since(at))
    }
}

/// Looks after the connections of `identity` until it is dropped. Those whose peer is trusted no more have `patience`.
pub(crate) async fn keep(identity: Arc<Identity>, patience: Duration) {
    let mut changes = identity.changes();
    let mut changed = false;
    loop {
        let svid = identity.current();
        let now = SystemTime::now();
        let trusted = |peer: &Peer, usage| svid.trusts(peer, usage, now);
        let trusted: Trusts<'_> = &trusted;
        let next = identity.holds.look(now, Instant::now(), patience, changed.then_some(trusted));
        // Not all of it at once: the clock may be set meanwhile.
        let wait = next.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
        tokio::select! {
            () = tokio::time::sleep(wait) => changed = false,
            () = identity.holds.come.notified() => changed = false,
            heard = changes.changed() => changed = heard.is_ok(),
        }
    }
}

/// How long the other side has to leave, if the certificates live long enough.
const LEAVE: Duration = Duration::from_secs(30);

/// How long it rests at most before it looks at the clock again.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use lighter_config::identity::Spiffe;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn peer(not_after: SystemTime) -> Peer {
        let id = Spiffe::parse("spiffe://mesh.lighter/ns/shop/sa/web").unwrap();
        Peer { id, not_after, chain: vec![CertificateDer::from(b"leaf".to_vec())] }
    }

    /// Two clocks that go alike.
    struct World {
        holds: Holds,
        now: SystemTime,
        at: Instant,
    }

    impl World {
        fn new() -> Self {
            World { holds: Holds::default(), now: SystemTime::UNIX_EPOCH + DAY * 20_000, at: Instant::now() }
        }

        fn look_after(&mut self, time: Duration) -> Option<Duration> {
            self.now += time;
            self.at += time;
            self.holds.look(self.now, self.at, PATIENCE, None)
        }
    }

    #[test]
    fn connections_leave_before_the_first_certificate_ends_and_are_cut_at_its_end() {
        for (peer_lives, own_lives) in [(DAY, DAY * 2), (DAY * 2, DAY)] {
            let mut world = World::new();
            let hold = world.holds.add(
                peer(world.now + peer_lives),
                Usage::Client,
                world.now + own_lives,
                world.now,
            );
            assert_eq!(world.look_after(Duration::ZERO), Some(DAY - LEAVE));
            assert_eq!(hold.phase(), Phase::Serving);
            assert_eq!(world.look_after(DAY - LEAVE), Some(Duration::from_secs(1)));
            assert_eq!(hold.phase(), Phase::Lame);
            assert_eq!(world.look_after(Duration::from_secs(1)), Some(LEAVE - Duration::from_secs(1)));
            assert_eq!(hold.phase(), Phase::Draining);
            assert!(hold.check(None).is_ok());
            assert_eq!(world.look_after(LEAVE - Duration::from_secs(1)), None);
            assert!(hold.check(None).is_err(), "at the end, it is cut");
        }
    }

    #[test]
    fn a_short_life_is_left_in_its_last_fifth() {
        let mut world = World::new();
        let hold = world.holds.add(
            peer(world.now + Duration::from_secs(10)),
            Usage::Server,
            world.now + DAY,
            world.now,
        );
        assert_eq!(world.look_after(Duration::ZERO), Some(Duration::from_secs(8)));
        world.look_after(Duration::from_secs(8));
        assert!(hold.is_leaving());
    }

    #[test]
    fn a_peer_that_is_trusted_no_more_is_left_within_patience() {
        let mut world = World::new();
        let hold = world.holds.add(peer(world.now + DAY), Usage::Client, world.now + DAY, world.now);
        let trusts = |_: &Peer, _| Ok(());
        world.holds.look(world.now, world.at, PATIENCE, Some(&trusts));
        assert_eq!(hold.phase(), Phase::Serving);
        let refuses = |_: &Peer, _| Err(Refusal::Foreign);
        world.holds.look(world.now, world.at, PATIENCE, Some(&refuses));
        assert_eq!(hold.phase(), Phase::Lame);
        let late = world.holds.add(peer(world.now + DAY), Usage::Client, world.now + DAY, world.now);
        assert_eq!(late.phase(), Phase::Lame, "as are those that the same certificate vouches for");
        world.look_after(PATIENCE);
        assert_eq!((hold.phase(), late.phase()), (Phase::Closed, Phase::Closed));
    }

    #[test]
    fn connections_that_ended_are_forgotten() {
        let mut world = World::new();
        for _ in 0..100 {
            drop(world.holds.add(peer(world.now + DAY), Usage::Client, world.now + DAY, world.now));
        }
        let kept: usize = world.holds.groups().values().map(|group| group.connections.len()).sum();
        assert!(kept <= 4, "{kept}");
        assert_eq!(world.look_after(Duration::ZERO), None);
        assert!(world.holds.groups().is_empty());
    }
}
