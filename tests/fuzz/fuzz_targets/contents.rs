//! Whatever comes as what a function remembers is refused, or is the one form of what it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lighter_functions::Entries;

fuzz_target!(|bytes: &[u8]| {
    let Ok(entries) = Entries::parse(bytes) else { return };
    assert_eq!(entries.write(), bytes);
    assert!(entries.entries.is_sorted_by(|(one, _), (other, _)| one < other));
    assert!(entries.are_changes || entries.entries.iter().all(|(_, value)| value.is_some()));
});
