//! Files of weights and channels: the bytes are the file, in every format.
#![no_main]

#[path = "../../generators/mod.rs"]
mod generators;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(fault) = generators::Kind::Files.check_input(bytes, None) {
        panic!("{fault}");
    }
});
