use std::sync::atomic::AtomicBool;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::sync::{Arc, Notify};
use loom::thread;
use proptest::collection::vec;
use proptest::prelude::*;

use super::local::Local;
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn two_sides_agree_with_a_plain_queue(small in 0..128u8, choices in vec(any::<u8>(), 1..600)) {
        crate::fuzz::ring(&[&[0, small], &choices[..]].concat());
    }

    #[test]
    fn hostile_cursors_are_found(small in 0..128u8, choices in vec(any::<u8>(), 1..200)) {
        crate::fuzz::ring(&[&[255, small], &choices[..]].concat());
    }
}

fn both(size: usize) -> (Ring<Local>, Ring<Local>) {
    let memory = Local::new(size);
    (Ring::new(memory.clone(), Side::Maker), Ring::new(memory, Side::Taker))
}

#[test]
fn a_cursor_that_falls_or_passes_what_it_cannot_is_hostile_for_good() {
    for (word, claims) in
        [(Word::Written, [3, 0, 4 + 8 + 1, u64::MAX]), (Word::Consumed, [1, 0, 6 + 1, u64::MAX])]
    {
        for claim in claims {
            let (mut own, mut peer) = both(8);
            assert_eq!(own.write(b"abcdef"), Ok(6));
            assert_eq!(peer.read(&mut [0; 2]), Ok(2));
            peer.consume(2);
            assert_eq!(peer.write(b"abcd"), Ok(4));
            assert_eq!((own.consumed(), own.read(&mut [0; 4])), (Ok(2), Ok(4)));
            own.consume(4);

            own.memory().store(Side::Taker, word, claim);
            assert_eq!(own.sleep().and(own.consumed()), Err(WireFault::Hostile), "{word:?} {claim}");
            assert_eq!(own.write(b"more"), Err(WireFault::Hostile));
            assert_eq!(own.read(&mut [0; 4]), Err(WireFault::Hostile));
            own.silence();
            assert_eq!(own.consumed(), Err(WireFault::Hostile), "and stays so");
        }
    }
}

#[test]
fn what_is_stored_comes_again_after_silence_and_nothing_else_moves() {
    let (mut own, mut peer) = both(8);
    assert_eq!(own.write(b"abcdefgh"), Ok(8));
    assert_eq!(peer.read(&mut [0; 5]), Ok(5));
    peer.consume(5);
    assert_eq!(own.consumed(), Ok(5));
    assert_eq!(own.write(b"ijk"), Ok(3));
    own.silence();
    peer.consume(5);
    let mut again = b"> ".to_vec();
    own.stored(6, 11, &mut again);
    assert_eq!(again, b"> ghijk");
    assert_eq!(own.consumed(), Ok(5));
    assert_eq!(own.write(b"x"), Err(WireFault::Silent));
    assert_eq!(own.read(&mut [0; 1]), Err(WireFault::Silent));
    assert_eq!(own.sleep(), Err(WireFault::Silent));
}

#[test]
fn the_bell_rings_once_for_a_sleeper_and_never_for_one_who_is_awake() {
    let (mut own, mut peer) = both(8);
    assert_eq!(own.write(b"a"), Ok(1));
    assert!(!own.take_bell());
    assert_eq!(peer.sleep(), Ok(true), "something is there");
    assert_eq!(peer.sleep(), Ok(false), "which it was told");
    assert_eq!(own.write(b"b"), Ok(1));
    assert!(own.take_bell());
    assert_eq!(own.write(b"c"), Ok(1));
    assert!(!own.take_bell(), "it is awake already");
    // Room is told of only to those who wait for it.
    assert_eq!(own.sleep(), Ok(false));
    assert_eq!(peer.read(&mut [0; 8]), Ok(3));
    peer.consume(3);
    assert!(!peer.take_bell());
    assert_eq!(own.write(b"defghijkl"), Ok(8));
    assert_eq!(own.sleep(), Ok(false));
    assert_eq!(peer.read(&mut [0; 1]), Ok(1));
    peer.consume(4);
    assert!(!peer.take_bell(), "less than a quarter since");
    peer.consume(4);
    assert_eq!(peer.read(&mut [0; 1]), Ok(1));
    peer.consume(5);
    assert!(!peer.take_bell(), "it could look, and less than half is free");
    assert_eq!(own.consumed(), Ok(5));
    assert_eq!(peer.read(&mut [0; 2]), Ok(2));
    peer.consume(7);
    assert!(peer.take_bell());
}

#[test]
fn who_waits_for_room_is_told_of_what_little_there_is_before_its_peer_sleeps() {
    let (mut own, mut peer) = both(8);
    assert_eq!(own.write(b"abcdefghi"), Ok(8));
    assert_eq!(own.sleep(), Ok(false));
    assert_eq!(peer.read(&mut [0; 2]), Ok(2));
    peer.consume(2);
    assert!(!peer.take_bell());
    let _ = peer.sleep();
    assert!(peer.take_bell());
    assert_eq!(own.sleep(), Ok(true));
    assert_eq!(own.write(b"i"), Ok(1));
}

#[test]
fn who_waits_for_the_end_hears_of_each_step() {
    let (mut own, mut peer) = both(64);
    assert_eq!(own.write(b"the end"), Ok(7));
    own.await_consumed();
    assert_eq!(own.sleep(), Ok(false));
    assert_eq!(peer.read(&mut [0; 64]), Ok(7));
    peer.consume(7);
    assert!(!peer.take_bell(), "far less than a quarter");
    assert_eq!(peer.sleep(), Ok(false));
    assert!(peer.take_bell(), "told when it went to sleep");
    assert_eq!(own.sleep(), Ok(true));
    assert_eq!(own.consumed(), Ok(7));
    assert_eq!(own.sleep(), Ok(false));
}

/// Memory whose every order of events loom tries. `FENCED`: as it has to be.
struct Loom<const FENCED: bool> {
    words: [[AtomicU64; 3]; 2],
    rings: [[UnsafeCell<u8>; 2]; 2],
}

impl<const FENCED: bool> Loom<FENCED> {
    fn new() -> Self {
        Loom {
            words: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            rings: std::array::from_fn(|_| std::array::from_fn(|_| UnsafeCell::new(0))),
        }
    }
}

// SAFETY: loom itself finds two threads that touch a cell at once.
unsafe impl<const FENCED: bool> Sync for Loom<FENCED> {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl<const FENCED: bool> Send for Loom<FENCED> {}

impl<const FENCED: bool> Memory for Arc<Loom<FENCED>> {
    fn load(&self, of: Side, word: Word) -> u64 {
        self.words[of as usize][word as usize].load(Ordering::Acquire)
    }

    fn store(&self, of: Side, word: Word, value: u64) {
        self.words[of as usize][word as usize].store(value, Ordering::Release);
    }

    fn swap(&self, of: Side, word: Word, value: u64) -> u64 {
        self.words[of as usize][word as usize].swap(value, Ordering::AcqRel)
    }

    fn fence(&self) {
        if FENCED {
            fence(Ordering::SeqCst);
        }
    }

    fn size(&self) -> usize {
        2
    }

    fn put(&self, of: Side, at: usize, from: &[u8]) {
        for (cell, byte) in self.rings[of as usize][at..].iter().zip(from) {
            // SAFETY: loom hands out a pointer that is valid here, and fails if another thread uses it now.
            cell.with_mut(|cell| unsafe { *cell = *byte });
        }
    }

    fn get(&self, of: Side, at: usize, to: &mut [u8]) {
        for (cell, byte) in self.rings[of as usize][at..].iter().zip(to) {
            // SAFETY: as above.
            *byte = cell.with(|cell| unsafe { *cell });
        }
    }
}

/// One side writes `count` bytes, the other reads them; each sleeps when it cannot go on, until the other rings its bell.
/// loom ends with an error if both sleep for good, or if one reads a byte while the other may be writing it.
fn transfer(count: u8) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let memory = Arc::new(Loom::<true>::new());
        let bells = Arc::new([Notify::new(), Notify::new()]);
        let mut sender = Ring::new(memory.clone(), Side::Maker);
        let mut receiver = Ring::new(memory, Side::Taker);
        let bells_too = bells.clone();
        let sending = thread::spawn(move || {
            let mut sent = 0;
            while sent < count {
                let left: Vec<u8> = (sent..count).collect();
                sent += sender.write(&left).unwrap() as u8;
                ring_bell(&mut sender, &bells_too[1]);
                if sent < count {
                    sleep(&mut sender, &bells_too);
                }
            }
        });
        let mut got = 0;
        while got < count {
            let mut room = [0; 2];
            let more = receiver.read(&mut room).unwrap() as u8;
            assert!(room.iter().take(more.into()).copied().eq(got..got + more));
            got += more;
            receiver.consume(got.into());
            ring_bell(&mut receiver, &bells[0]);
            if got < count && more == 0 {
                sleep(&mut receiver, &bells);
            }
        }
        sending.join().unwrap();
    });
}

fn sleep<M: Memory>(ring: &mut Ring<M>, bells: &[Notify; 2]) {
    let asleep = !ring.sleep().unwrap();
    ring_bell(ring, &bells[ring.side.other() as usize]);
    if asleep {
        bells[ring.side as usize].wait();
    }
}

fn ring_bell<M: Memory>(ring: &mut Ring<M>, peer: &Notify) {
    if ring.take_bell() {
        peer.notify();
    }
}

#[test]
fn in_every_order_of_events_all_bytes_arrive_and_nobody_sleeps_for_good() {
    transfer(3);
}

/// Whether in some order of events a side that sleeps is not woken for the bytes that the other writes.
fn loses_a_wake<const FENCED: bool>() -> bool {
    let lost = std::sync::Arc::new(AtomicBool::new(false));
    let seen = lost.clone();
    loom::model(move || {
        let memory = Arc::new(Loom::<FENCED>::new());
        let mut sender = Ring::new(memory.clone(), Side::Maker);
        let mut receiver = Ring::new(memory, Side::Taker);
        let sleeping = thread::spawn(move || !receiver.sleep().unwrap());
        assert_eq!(sender.write(&[1]), Ok(1));
        let rang = sender.take_bell();
        if sleeping.join().unwrap() && !rang {
            seen.store(true, Ordering::Relaxed);
        }
    });
    lost.load(Ordering::Relaxed)
}

#[test]
fn a_wake_is_never_lost_and_would_be_without_the_fences() {
    assert!(!loses_a_wake::<true>());
    assert!(loses_a_wake::<false>());
}
