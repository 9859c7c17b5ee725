//! See `lighter_proxy::fuzz::records`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| lighter_proxy::fuzz::records(data));
