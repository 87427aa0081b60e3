//! Fuzzes attention calls. The input bytes replace the first random numbers of a case.
#![no_main]

#[path = "../../generators/mod.rs"]
mod generators;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(fault) = generators::Kind::Attention.check_input(bytes, None) {
        panic!("{fault}");
    }
});
