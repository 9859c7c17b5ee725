//! What lies around the memory cannot be touched, and nothing that a peer writes leads there.

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use proptest::collection::vec;
use proptest::prelude::*;
use rustix::process::{Resource, Rlimit, Signal, setrlimit};

use super::*;
use crate::link::wire::shm::mapped_twice;

const RING: usize = LEAST_RING_BYTES as usize;

const SIDES: [Side; 2] = [Side::Maker, Side::Taker];

fn make() -> Shared {
    Shared::make(LEAST_RING_BYTES).unwrap().0
}

/// Where a process of this test is to look, so many bytes from where the memory begins.
const LOOKS_AT: &str = "LIGHTER_TEST_LOOKS_AT";

#[test]
fn one_byte_outside_of_the_memory_ends_the_process() {
    if let Some(at) = std::env::var_os(LOOKS_AT) {
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        setrlimit(Resource::Core, none).unwrap();
        let at: isize = at.to_str().unwrap().parse().unwrap();
        let memory = make();
        let from = memory.mapping.base.as_ptr().wrapping_offset(at);
        // SAFETY: none where it is outside: that is what is tested, and this process is there for nothing else.
        let found = unsafe { from.read_volatile() };
        assert_eq!(found, 0);
        return;
    }
    let behind = memory_bytes(LEAST_RING_BYTES) as isize;
    let (_, path) = module_path!().split_once("::").unwrap();
    let name = format!("{path}::one_byte_outside_of_the_memory_ends_the_process");
    for (at, is_within) in [(-1, false), (0, true), (behind - 1, true), (behind, false)] {
        let mut looker = Command::new(std::env::current_exe().unwrap());
        looker.args(["--exact", &name]).env(LOOKS_AT, at.to_string());
        let looked = looker.output().unwrap();
        let expected = (!is_within).then_some(Signal::SEGV.as_raw());
        assert_eq!(looked.status.signal(), expected, "{at}: {looked:?}");
        assert_eq!(looked.status.success(), is_within, "{at}: {looked:?}");
        assert!(!is_within || String::from_utf8_lossy(&looked.stdout).contains("1 passed"), "{looked:?}");
    }
}

#[test]
fn each_byte_and_each_word_has_a_place_of_its_own_within_the_memory() {
    let memory = make();
    let bytes = |of: Side| move |at: usize| (at * 31 + at / 253) as u8 ^ (of as u8 + 1);
    let memory = &memory;
    let words: Vec<&AtomicU64> = SIDES
        .into_iter()
        .flat_map(|of| {
            let words = [Word::Written, Word::Consumed, Word::Asleep].map(|word| memory.word(of, word));
            words.into_iter().chain((0..SLOT_WORDS).map(move |at| memory.slot(of, at)))
        })
        .collect();
    words.iter().zip(1..).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
    for of in SIDES {
        memory.put(of, 0, &(0..RING).map(bytes(of)).collect::<Vec<_>>());
    }
    for of in SIDES {
        for (at, len) in [(0, RING), (0, 1), (RING - 1, 1), (1, RING - 1), (RING, 0), (7, 100)] {
            let mut there = vec![0; len];
            memory.get(of, at, &mut there);
            assert!((at..at + len).map(bytes(of)).eq(there), "{of:?} {at} {len}");
        }
    }
    assert!(words.iter().zip(1..).all(|(word, value)| word.load(Ordering::Relaxed) == value));
}

#[test]
fn nothing_is_copied_from_or_to_outside_of_a_ring() {
    let memory = make();
    for of in SIDES {
        for (at, len) in [(0, RING + 1), (1, RING), (RING - 1, 2), (RING, 1), (RING + 1, 0), (usize::MAX, 2)]
        {
            let mut bytes = vec![0; len];
            let put = catch_unwind(AssertUnwindSafe(|| memory.put(of, at, &bytes)));
            let got = catch_unwind(AssertUnwindSafe(|| memory.get(of, at, &mut bytes)));
            assert!(put.is_err() && got.is_err(), "{of:?} {at} {len}");
        }
        assert!(catch_unwind(AssertUnwindSafe(|| memory.slot(of, SLOT_WORDS))).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn two_sides_agree_with_a_plain_queue_over_memory_that_both_have_mapped(choices in vec(any::<u8>(), 1..600)) {
        crate::fuzz::ring(&[&[0, MAPPED], &choices[..]].concat());
    }

    #[test]
    fn hostile_cursors_lead_nowhere_outside_of_the_memory(choices in vec(any::<u8>(), 1..200), side in 0..2u8) {
        crate::fuzz::ring(&[&[255, MAPPED | side], &choices[..]].concat());
    }
}

/// The rings are in memory of this kind.
const MAPPED: u8 = 128;

#[test]
fn what_one_side_stores_the_other_loads() {
    let [maker, taker] = mapped_twice(LEAST_RING_BYTES).unwrap();
    maker.store(Side::Maker, Word::Written, 7);
    maker.put(Side::Maker, RING - 3, b"end");
    let mut there = [0; 3];
    taker.get(Side::Maker, RING - 3, &mut there);
    assert_eq!((taker.swap(Side::Maker, Word::Written, 8), &there), (7, b"end"));
    assert_eq!(maker.load(Side::Maker, Word::Written), 8);
}
