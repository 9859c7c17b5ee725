//! Rings of one process: how much memory they may take, which is given up first, and with whom there is to be none for a
//! while. Shared by all workers, and asked only when a ring comes, goes or was used in a second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::message::Refusal;
use crate::telemetry::{self, LinkWire};

/// All rings of this process.
#[derive(Debug)]
pub(crate) struct Rings {
    /// On which host this is, if that is known: the boot id of its kernel.
    pub(crate) host: Option<String>,
    /// Most memory of all of them together, in bytes.
    most: u64,
    began: Instant,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    used: u64,
    held: Vec<Weak<Entry>>,
    peers: HashMap<(Peer, LinkWire), Record>,
}

/// Who is at the other end of a link, and on which host.
pub(crate) type Peer = (IpAddr, Arc<str>);

/// What went wrong with a peer over one kind of wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    /// So often in a row.
    times: u32,
    /// Nothing is tried before.
    until: Instant,
    /// Nor let in.
    barred: bool,
}

/// Memory of a ring, accounted for until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    rings: Arc<Rings>,
    entry: Arc<Entry>,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    /// When it was used, in milliseconds since the rings' beginning.
    used: AtomicU64,
    /// Why it is to be given up, if it is.
    asked: OnceLock<Asked>,
    /// The device that reaches it, if one does.
    device: OnceLock<Box<str>>,
    waker: Mutex<Option<Waker>>,
}

/// Why a ring is to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It rests, and another link needs its memory.
    Room,
    /// An operator wants it so.
    Operator,
    /// Its device is gone.
    Lost,
}

impl Rings {
    /// No ring yet. `most`: bytes of all together.
    pub(crate) fn new(most: u64, host: Option<String>, now: Instant) -> Arc<Self> {
        Arc::new(Rings { host, most, began: now, all: Mutex::default() })
    }

    /// Whether there can be any.
    pub(crate) fn is_open(&self) -> bool {
        self.most > 0 && self.host.is_some()
    }

    /// When a wire may be asked of `peer` again, if it may not now.
    pub(crate) fn rests_until(&self, peer: &Peer, wire: LinkWire, now: Instant) -> Option<Instant> {
        let until = self.lock().peers.get(&(peer.clone(), wire))?.until;
        (now < until).then_some(until)
    }

    /// Whether the wire did harm with `peer` lately.
    pub(crate) fn is_barred(&self, peer: &Peer, wire: LinkWire, now: Instant) -> bool {
        let key = (peer.clone(), wire);
        self.lock().peers.get(&key).is_some_and(|record| record.barred && now < record.until)
    }

    /// Memory for a ring. None: there is no room, and the ring that was not used for longest, if it rests, is asked to go.
    pub(crate) fn lease(self: &Arc<Self>, bytes: u64, now: Instant) -> Option<Lease> {
        let mut all = self.lock();
        if all.used.saturating_add(bytes) > self.most {
            let stale = self.millis(now).saturating_sub(RESTS.as_millis() as u64);
            let held = all.held.iter().filter_map(Weak::upgrade);
            let resting = held.filter(|entry| entry.used.load(Relaxed) < stale);
            let oldest = resting.min_by_key(|entry| entry.used.load(Relaxed));
            drop(all);
            if let Some(entry) = oldest.filter(|entry| entry.asked.get().is_none()) {
                telemetry::links().evicted();
                entry.ask(Asked::Room);
            }
            return None;
        }
        all.used += bytes;
        let used = AtomicU64::new(self.millis(now));
        let entry = Arc::new(Entry {
            bytes,
            used,
            asked: OnceLock::new(),
            device: OnceLock::new(),
            waker: Mutex::default(),
        });
        all.held.retain(|entry| entry.strong_count() > 0);
        all.held.push(Arc::downgrade(&entry));
        telemetry::links().ring_memory(bytes as i64);
        Some(Lease { rings: self.clone(), entry })
    }

    /// Asks every ring to go.
    pub(crate) fn give_up_all(&self) {
        let held: Vec<_> = self.lock().held.iter().filter_map(Weak::upgrade).collect();
        held.iter().for_each(|entry| entry.ask(Asked::Operator));
    }

    /// How often in a row a wire with `peer` failed.
    pub(crate) fn times(&self, peer: &Peer, wire: LinkWire) -> u32 {
        self.lock().peers.get(&(peer.clone(), wire)).map_or(0, |record| record.times)
    }

    /// A device is gone: every ring that it reaches has failed.
    pub(crate) fn lost(&self, device: &str) {
        let held: Vec<_> = self.lock().held.iter().filter_map(Weak::upgrade).collect();
        for entry in held.iter().filter(|entry| entry.device.get().is_some_and(|of| **of == *device)) {
            entry.ask(Asked::Lost);
        }
    }

    /// A wire with `peer` did not come about, or failed. It is left alone for `first`, and twice as long each time in a row.
    pub(crate) fn failed(&self, peer: &Peer, wire: LinkWire, first: Duration, now: Instant) {
        let mut all = self.lock();
        let record = all.record(peer, wire, now);
        let pause = first.saturating_mul(1 << record.times.min(MOST_DOUBLED)).min(first * LONGEST);
        record.times += 1;
        record.until = record.until.max(now + pause);
    }

    /// `peer` said that there will be none for a while.
    pub(crate) fn declined(
        &self,
        peer: &Peer,
        wire: LinkWire,
        cause: Refusal,
        first: Duration,
        now: Instant,
    ) {
        let pause = match cause {
            Refusal::OtherHost | Refusal::Unavailable | Refusal::Barred | Refusal::Malformed => BARRED,
            Refusal::Policy => FORBIDDEN,
            // It makes room meanwhile, if some ring there rests.
            Refusal::Budget => first,
            Refusal::TooSoon => return self.failed(peer, wire, first, now),
        };
        let mut all = self.lock();
        let record = all.record(peer, wire, now);
        record.until = record.until.max(now + pause);
    }

    /// A wire with `peer` carried what nobody sealed, or lied.
    pub(crate) fn bar(&self, peer: &Peer, wire: LinkWire, now: Instant) {
        let mut all = self.lock();
        let record = all.record(peer, wire, now);
        record.until = record.until.max(now + BARRED);
        record.barred = true;
    }

    /// A ring with `peer` lived long: what went wrong before is forgotten.
    pub(crate) fn lived(&self, peer: &Peer, wire: LinkWire) {
        if let Some(record) = self.lock().peers.get_mut(&(peer.clone(), wire)) {
            record.times = 0;
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn record(&mut self, peer: &Peer, wire: LinkWire, now: Instant) -> &mut Record {
        if self.peers.len() >= MOST_PEERS {
            // Their pauses are over; what is forgotten of them is how often it went wrong.
            self.peers.retain(|_, record| now < record.until);
        }
        if self.peers.len() >= MOST_PEERS {
            let soonest = self.peers.iter().min_by_key(|(_, record)| record.until);
            let soonest = soonest.map(|(peer, _)| peer.clone());
            soonest.map(|peer| self.peers.remove(&peer));
        }
        let fresh = Record { times: 0, until: now, barred: false };
        let record = self.peers.entry((peer.clone(), wire)).or_insert(fresh);
        record.barred &= now < record.until;
        record
    }
}

impl Lease {
    /// The ring was used.
    pub(crate) fn touch(&self, now: Instant) {
        self.entry.used.store(self.rings.millis(now), Relaxed);
    }

    /// Why it is to be given up, if it is.
    pub(crate) fn asked(&self) -> Option<Asked> {
        self.entry.asked.get().copied()
    }

    /// The ring is reached by this device.
    pub(crate) fn is_of(&self, device: &str) {
        self.entry.device.get_or_init(|| device.into());
    }

    /// Whom to wake when it is to be given up.
    pub(crate) fn wakes(&self, waker: &Waker) {
        self.entry.waker().clone_from(&Some(waker.clone()));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.rings.lock().used -= self.entry.bytes;
        telemetry::links().ring_memory(-(self.entry.bytes as i64));
    }
}

impl Entry {
    fn ask(&self, why: Asked) {
        // Whoever was first is obeyed.
        self.asked.get_or_init(|| why);
        if let Some(waker) = &*self.waker() {
            waker.wake_by_ref();
        }
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A ring that was not used for so long rests, and makes room for others.
const RESTS: Duration = Duration::from_secs(2);

/// A pause is at most so many times as long as the first.
const LONGEST: u32 = 60;

/// After so many doublings it is as long as it gets.
const MOST_DOUBLED: u32 = 6;

/// How long a wire is not used that did harm, and how long one is not asked for that cannot be.
const BARRED: Duration = Duration::from_secs(600);

/// How long a wire is not asked for that the policy there forbids. Policies change.
const FORBIDDEN: Duration = Duration::from_secs(60);

/// Of so many peers it is known what went wrong.
const MOST_PEERS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const SHM: LinkWire = LinkWire::Shm;

    fn peer(last: u8) -> Peer {
        (IpAddr::from([192, 0, 2, last]), "spiffe://mesh.lighter/ns/default/sa/web".into())
    }

    fn rings(most: u64, now: Instant) -> Arc<Rings> {
        Rings::new(most, Some("host".into()), now)
    }

    #[test]
    fn what_fails_is_left_alone_for_longer_each_time() {
        let mut now = Instant::now();
        let rings = rings(1, now);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            rings.failed(&peer(1), SHM, Duration::from_secs(1), now);
            let until = rings.rests_until(&peer(1), SHM, now).unwrap();
            pauses.push((until - now).as_secs());
            now = until;
            assert_eq!(rings.rests_until(&peer(1), SHM, now), None);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(rings.rests_until(&peer(2), SHM, now), None, "another peer");
        assert_eq!(rings.rests_until(&peer(1), LinkWire::Rdma, now), None, "another wire");
        rings.lived(&peer(1), SHM);
        rings.failed(&peer(1), SHM, Duration::from_secs(1), now);
        assert_eq!(rings.rests_until(&peer(1), SHM, now), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_wire_that_did_harm_is_barred_for_ten_minutes() {
        let now = Instant::now();
        let rings = rings(1, now);
        rings.declined(&peer(1), SHM, Refusal::OtherHost, Duration::from_secs(1), now);
        assert!(!rings.is_barred(&peer(1), SHM, now));
        assert_eq!(rings.rests_until(&peer(1), SHM, now), Some(now + BARRED));
        rings.bar(&peer(1), SHM, now);
        assert!(rings.is_barred(&peer(1), SHM, now + BARRED - Duration::from_millis(1)));
        assert!(!rings.is_barred(&peer(1), SHM, now + BARRED));
    }

    #[test]
    fn the_ring_that_rests_longest_makes_room() {
        let now = Instant::now();
        let rings = rings(200, now);
        let (old, young) = (rings.lease(100, now).unwrap(), rings.lease(100, now).unwrap());
        let now = now + RESTS;
        young.touch(now);
        assert!(rings.lease(100, now).is_none());
        assert_eq!(old.asked(), None, "it was used not long enough ago");
        let now = now + Duration::from_millis(1);
        assert!(rings.lease(100, now).is_none());
        assert_eq!((old.asked(), young.asked()), (Some(Asked::Room), None));
        drop(old);
        let next = rings.lease(100, now).unwrap();
        assert!(rings.lease(1, now).is_none());
        drop((young, next));
        assert_eq!(rings.lock().used, 0);
        assert!(rings.lease(201, now).is_none());
    }

    #[test]
    fn a_device_that_is_gone_takes_its_rings_with_it() {
        let now = Instant::now();
        let rings = rings(300, now);
        let leases = [(); 3].map(|()| rings.lease(100, now).unwrap());
        leases[0].is_of("mlx5_0");
        leases[1].is_of("mlx5_1");
        rings.lost("mlx5_1");
        assert_eq!(leases.each_ref().map(Lease::asked), [None, Some(Asked::Lost), None]);
    }

    #[test]
    fn of_so_many_peers_at_most_something_is_known() {
        let now = Instant::now();
        let rings = rings(1, now);
        for number in 0..2 * MOST_PEERS as u32 {
            let peer = (IpAddr::from(number.to_be_bytes()), Arc::from("a"));
            rings.failed(&peer, SHM, Duration::from_secs(1), now);
        }
        assert!(rings.lock().peers.len() <= MOST_PEERS);
    }
}
