//! Fuzzes files of weights and channels. The input bytes are the file, which is read in every format.
#![no_main]

#[path = "../../generators/mod.rs"]
mod generators;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(fault) = generators::Kind::Files.check_input(bytes, None) {
        panic!("{fault}");
    }
});
