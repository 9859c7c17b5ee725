//! Whatever comes as the memory of a function is refused, or is the one form of what it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lighter_functions::Memory;
use lighter_functions::memory::{BLOCK, PAGE, is_zero};

fuzz_target!(|bytes: &[u8]| {
    let Ok(memory) = Memory::parse(bytes) else { return };
    assert_eq!(memory.write(), bytes);
    assert!(memory.blocks.is_sorted_by(|(one, _), (other, _)| one < other));
    let end = |number: u32| (u64::from(number) + 1) * BLOCK as u64;
    assert!(memory.blocks.iter().all(|(number, _)| end(*number) <= u64::from(memory.pages) * PAGE as u64));
    for (_, block) in &memory.blocks {
        assert!(block.map_or(memory.are_changes, |block| block.len() == BLOCK && !is_zero(block)));
    }
    assert_eq!((memory.keys.are_changes, memory.keys.digest), (memory.are_changes, memory.digest));
});
