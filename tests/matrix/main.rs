//! The test files in one program, because a program holds a copy of every backend that it tests, which takes minutes to
//! compile. `cargo test --release --test matrix gradients::` runs one file.
#![allow(clippy::duplicate_mod)] // Each file has what it shares with the others as a module of its own.

#[path = "../common/mod.rs"]
mod common;

#[path = "../attention.rs"]
mod attention;
#[path = "../cached_layers.rs"]
mod cached_layers;
#[path = "../conformance.rs"]
mod conformance;
#[path = "../coverage.rs"]
mod coverage;
#[path = "../devices.rs"]
mod devices;
#[path = "../efficient.rs"]
mod efficient;
#[path = "../gradients.rs"]
mod gradients;
#[path = "../kernels.rs"]
mod kernels;
#[path = "../layers/mod.rs"]
mod layers;
#[path = "../maskers.rs"]
mod maskers;
#[path = "../masks.rs"]
mod masks;
#[cfg(feature = "hf")]
#[path = "../models.rs"]
mod models;
#[path = "../plots.rs"]
mod plots;
#[path = "../rotary.rs"]
mod rotary;
#[path = "../softcap_and_sinks.rs"]
mod softcap_and_sinks;
#[path = "../training.rs"]
mod training;
#[path = "../weight_files.rs"]
mod weight_files;

// What the parts of the conformance test name from the root.
use conformance::{DIFFERENCES, UNNAMED, conformance_support};
