//! Runs the fuzzers for some seconds, and runs again the inputs that failed in the past.
//!
//! If a case fails, run it again with `cargo run --release --example fuzz` and the arguments in the message.

#[path = "../fuzz/generators/mod.rs"]
mod generators;

use std::{fs, path::Path};

use generators::{Kind, caught};

const SEED: u64 = 1;

/// Runs the first cases of a kind.
fn run(kind: Kind, count: u64) {
    let name = kind.name();
    for case in 0..count {
        if let Err(fault) = caught(|| kind.check(SEED, case)) {
            fail(format!("{fault}\nagain: --kind {name} --seed {SEED} --first {case} --count 1"));
        }
    }
}

/// Fails with a message. The panic hook is silent while panics are caught, so the message is printed as well.
fn fail(message: String) -> ! {
    eprintln!("{message}");
    panic!("{message}");
}

/// Runs the inputs that failed in the past.
fn replay(kind: Kind) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(kind.name());
    let entries = fs::read_dir(&folder).expect("the corpus is part of the repository");
    let mut paths = entries.map(|entry| entry.expect("the corpus can be read").path()).collect::<Vec<_>>();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    for path in paths {
        let bytes = fs::read(&path).expect("the corpus can be read");
        let name = path.file_name().and_then(|name| name.to_str());
        if let Err(fault) = caught(|| kind.check_input(&bytes, name)) {
            fail(format!("{}: {fault}", path.display()));
        }
    }
}

#[test]
fn configs() {
    run(Kind::Configs, 20_000);
}

#[test]
fn masks() {
    run(Kind::Masks, 20_000);
}

#[test]
fn attention() {
    run(Kind::Attention, 4_000);
}

#[test]
fn files() {
    run(Kind::Files, 10_000);
}

#[test]
fn caches() {
    run(Kind::Caches, 2_000);
}

#[test]
fn earlier_failures() {
    for kind in Kind::ALL {
        replay(kind);
    }
}
