//! Rings: both sides of one in any order, and one side against a peer that writes anything into the words they share.
//!
//! Half of the runs are in memory that is a plain vector, whose rings hold next to nothing, so that all that can be happens soon.
//! The other half are in the memory of production, which both sides have mapped: it lies between pages that nobody may touch, so
//! that one byte that is read or written before or behind it ends the fuzzer. Slices of this process are checked by the language.

use std::collections::VecDeque;

use crate::link::wire::WireFault;
use crate::link::wire::ring::local::Local;
use crate::link::wire::ring::{BYTES, Memory, ROOM, Ring, Side, Word};
use crate::link::wire::shm::{self, LEAST_RING_BYTES};

/// Both sides do what `choices` say: every byte comes out once, in order, a ring never holds more than it can, what is stored
/// can be had again, and nobody sleeps while there is something for it.
pub(super) fn agreement(choices: &[u8]) {
    match choices.split_first() {
        Some((kind @ 0..128, choices)) => agree(local(*kind), choices),
        Some((_, choices)) => agree(mapped(), choices),
        None => {}
    }
}

/// A ring of up to 128 bytes, as both sides see it.
fn local(kind: u8) -> [Local; 2] {
    let memory = Local::new(1 << (kind % 8));
    [memory.clone(), memory]
}

/// Memory as two processes share it.
fn mapped() -> [impl Memory; 2] {
    match shm::mapped_twice(LEAST_RING_BYTES) {
        Ok(memory) => memory,
        Err(fault) => panic!("the system gives no memory: {fault}"),
    }
}

/// What is meant by a number in a choice: that of 128 is all that a large ring holds.
fn scale(size: usize) -> usize {
    (size / 128).max(1)
}

fn agree<M: Memory>([maker, taker]: [M; 2], choices: &[u8]) {
    let size = maker.size();
    let mut ends = [End::new(maker, Side::Maker), End::new(taker, Side::Taker)];
    for choice in choices.chunks_exact(2) {
        let [me, peer] = from(&mut ends, choice[0]);
        me.step(peer, size, choice[0] >> 1, usize::from(choice[1]) * scale(size));
    }
    // Whatever came before: all of it comes out when both go on, and both know it once they rest.
    for who in [0, 1, 0, 1, 0, 1] {
        let [me, peer] = from(&mut ends, who);
        for (what, many) in [(READ, 255), (CONSUME, 255), (SLEEP, 0)] {
            me.step(peer, size, what, many * scale(size));
        }
    }
    for end in &ends {
        assert!(end.out.is_empty() && end.kept.is_empty());
        assert_eq!(end.ring.memory().load(end.side.other(), Word::Consumed), end.written);
    }
}

/// The ends as one of them sees them: itself, and its peer.
fn from<M>(ends: &mut [End<M>; 2], who: u8) -> [&mut End<M>; 2] {
    let [one, other] = ends;
    if who & 1 == 0 { [one, other] } else { [other, one] }
}

/// One side, and what a plain queue says of it.
struct End<M> {
    side: Side,
    ring: Ring<M>,
    /// Bytes of the way out that the other has not read yet.
    out: VecDeque<u8>,
    /// Bytes of the way out that it has not consumed yet: what can be had again.
    kept: VecDeque<u8>,
    written: u64,
    read: u64,
    consumed: u64,
    /// The last write was short.
    blocked: bool,
    /// It did nothing since it went to sleep, and was not woken.
    asleep: bool,
    awaits: bool,
    /// Bytes that had come, and were consumed over there, when this side last looked.
    known: (u64, u64),
}

impl<M: Memory> End<M> {
    fn new(memory: M, side: Side) -> Self {
        End {
            side,
            ring: Ring::new(memory, side),
            out: VecDeque::new(),
            kept: VecDeque::new(),
            written: 0,
            read: 0,
            consumed: 0,
            blocked: false,
            asleep: false,
            awaits: false,
            known: (0, 0),
        }
    }

    fn step(&mut self, peer: &mut Self, size: usize, what: u8, many: usize) {
        let flagged = self.ring.memory().load(peer.side, Word::Asleep) != 0;
        self.asleep = false;
        match what % 8 {
            WRITE | 1 => {
                let bytes: Vec<u8> = (0..many).map(|at| byte(self.written as usize + at)).collect();
                let took = sound(self.ring.write(&bytes));
                assert!(took == many || self.kept.len() + took <= size && took <= many);
                self.blocked = took < many;
                self.written += took as u64;
                self.out.extend(&bytes[..took]);
                self.kept.extend(&bytes[..took]);
            }
            READ | 3 => {
                let mut room = vec![0; many];
                let got = sound(self.ring.read(&mut room));
                assert_eq!(got, many.min(peer.out.len()), "what was written is there");
                assert!(peer.out.drain(..got).eq(room[..got].iter().copied()), "in order, and unchanged");
                self.read += got as u64;
                self.known.0 = peer.written;
            }
            CONSUME => {
                let count = self.consumed + (self.read - self.consumed).min(many as u64);
                peer.kept.drain(..(count - self.consumed) as usize);
                self.consumed = count;
                self.ring.consume(count);
            }
            SLEEP => {
                self.asleep = !sound(self.ring.sleep());
                self.known = (peer.written, self.ring.memory().load(peer.side, Word::Consumed));
                if self.asleep {
                    let told = self.ring.memory().load(self.side, Word::Consumed);
                    assert_eq!(told, self.consumed, "a sleeper has told what it consumed");
                } else {
                    self.blocked &= self.known.1 + size as u64 == self.written;
                }
            }
            6 => {
                self.known.1 = sound(self.ring.consumed());
                assert!(self.known.1 <= peer.consumed);
                let mut again = Vec::new();
                let from = peer.consumed.max(self.known.1);
                let to = from + (self.written - from).min(many as u64);
                self.ring.stored(from, to, &mut again);
                assert!(
                    again.iter().eq(self.kept.range(..(to - from) as usize)),
                    "what is stored comes again"
                );
            }
            _ => {
                self.ring.await_consumed();
                self.awaits = true;
            }
        }
        assert!(self.kept.len() <= size && peer.kept.len() <= size);
        if self.ring.take_bell() {
            assert!(flagged, "the bell rings only for one who sleeps");
            peer.asleep = false;
        }
        if peer.asleep {
            assert_eq!(peer.known.0, self.written, "a sleeper is woken for bytes");
            let told = self.ring.memory().load(self.side, Word::Consumed);
            // While little is free, whoever is awake need not say so.
            let quiet = !self.asleep && size as u64 + told - self.known.0 < size as u64 / 2;
            assert!(quiet || !peer.awaits || told == peer.known.1, "a sleeper is woken for each step");
            assert!(
                quiet || !peer.blocked || told + size as u64 == peer.written,
                "a sleeper is woken for room"
            );
        }
    }
}

/// A side whose peer's words are anything: it finds every count that cannot be, before it uses it, and for good.
pub(super) fn hostile(choices: &[u8]) {
    let Some((kind, choices)) = choices.split_first() else { return };
    let side = if kind % 2 == 0 { Side::Taker } else { Side::Maker };
    if *kind < 128 { suffer(local(kind >> 1), side, choices) } else { suffer(mapped(), side, choices) }
}

/// The first of the two is of `side`, the other its peer's.
fn suffer<M: Memory>([own, memory]: [M; 2], side: Side, mut choices: &[u8]) {
    let (size, peer) = (own.size() as u64, side.other());
    let mut ring = Ring::new(own, side);
    let (mut came, mut gone, mut read, mut written, mut consumed, mut blocked) = (0, 0, 0, 0, 0, false);
    while let [what, many, behind @ ..] = choices {
        choices = behind;
        let many = u64::from(*many) * scale(size as usize) as u64;
        let claim = |word| memory.load(peer, word);
        let published = memory.load(side, Word::Consumed);
        let fits_in = claim(Word::Written) >= came && claim(Word::Written) - published <= size;
        let fits_out = claim(Word::Consumed) >= gone && claim(Word::Consumed) <= written;
        let fault = match what % 8 {
            0 => {
                let mut room = vec![0; many as usize];
                let got = ring.read(&mut room);
                assert_eq!(got.is_ok(), fits_in, "what cannot be is found, and nothing else is");
                if let Ok(got) = got {
                    came = claim(Word::Written);
                    assert_eq!(got as u64, many.min(came - read));
                    read += got as u64;
                }
                got.err()
            }
            1 => {
                // It looks only when it has to.
                let looks = size - (written - gone) < many;
                let took = ring.write(&vec![7; many as usize]);
                assert_eq!(took.is_ok(), fits_out || !looks, "what cannot be is found, and nothing else is");
                if let Ok(took) = took {
                    gone = if looks { claim(Word::Consumed) } else { gone };
                    written += took as u64;
                    blocked = many > took as u64;
                    assert!(written - gone <= size, "written over what is not consumed");
                }
                took.err()
            }
            2 => {
                consumed += many.min(read - consumed);
                ring.consume(consumed);
                None
            }
            3 => {
                let told = ring.consumed();
                assert_eq!(told.is_ok(), fits_out, "what cannot be is found, and nothing else is");
                if let Ok(told) = told {
                    gone = told;
                    let mut stored = Vec::new();
                    ring.stored(gone, written, &mut stored);
                    assert!(stored.len() as u64 == written - gone && stored.iter().all(|byte| *byte == 7));
                }
                told.err()
            }
            4 => {
                let awake = ring.sleep();
                assert_eq!(awake.is_ok(), fits_in && (fits_out || !blocked));
                if awake.is_ok() {
                    came = claim(Word::Written);
                    gone = if blocked { claim(Word::Consumed) } else { gone };
                    blocked &= written - gone == size;
                }
                awake.err()
            }
            5 => {
                let claim = came.wrapping_add(many).wrapping_sub(u64::from(what >> 3));
                memory.store(peer, Word::Written, claim);
                None
            }
            6 => {
                let claim = gone.wrapping_add(many).wrapping_sub(u64::from(what >> 3));
                memory.store(peer, Word::Consumed, claim);
                None
            }
            _ => {
                let word = [Word::Written, Word::Consumed, Word::Asleep][usize::from(what >> 3) % 3];
                memory.store(peer, word, many << (what >> 3));
                None
            }
        };
        assert!(memory.load(side, Word::Consumed) <= read);
        assert!(memory.load(side, Word::Asleep) <= BYTES | ROOM);
        ring.take_bell();
        if let Some(fault) = fault {
            assert_eq!(fault, WireFault::Hostile);
            assert_eq!(ring.read(&mut [0; 8]), Err(WireFault::Hostile));
            assert_eq!(ring.write(&[0; 8]), Err(WireFault::Hostile));
            assert_eq!(ring.consumed(), Err(WireFault::Hostile));
            assert_eq!(ring.sleep(), Err(WireFault::Hostile));
            return;
        }
    }
}

/// What two honest sides do never ends in a fault.
fn sound<T>(outcome: Result<T, WireFault>) -> T {
    match outcome {
        Ok(value) => value,
        Err(fault) => panic!("honest sides, and yet: {fault}"),
    }
}

/// Byte `at` of what a side writes. No lap of a ring looks like the one before.
fn byte(at: usize) -> u8 {
    (at + at / 251) as u8 ^ 0x5a
}

const WRITE: u8 = 0;
const READ: u8 = 2;
const CONSUME: u8 = 4;
const SLEEP: u8 = 5;
