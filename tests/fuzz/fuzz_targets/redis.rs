//! See `lighter_proxy::fuzz::redis`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| lighter_proxy::fuzz::redis(data));
