//! Fuzzes method files. The input bytes are the text of the file.
#![no_main]

#[path = "../../generators/mod.rs"]
mod generators;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(fault) = generators::Kind::Configs.check_input(bytes, None) {
        panic!("{fault}");
    }
});
