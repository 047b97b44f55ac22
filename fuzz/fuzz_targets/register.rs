//! Decodes bytes as the value of a key. Nothing panics, and a register that can be decoded is encoded
//! and decoded again without a loss.
//!
//! `cargo +nightly fuzz run register -- -max_total_time=30`
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| lockword::cluster::__fuzz::register(value));
