//! The test files in one program, because a program holds a copy of every backend that it tests, which takes minutes to
//! compile. `cargo test --release --test matrix gradients::` runs one file.
#![allow(clippy::duplicate_mod)] // Each file has what it shares with the others as a module of its own.

#[path = "../common/mod.rs"]
mod common;

#[path = "../attention.rs"]
mod attention;
#[path = "../attention_log.rs"]
mod attention_log;
#[path = "../cached_layers.rs"]
mod cached_layers;
#[path = "../cached_methods.rs"]
mod cached_methods;
#[path = "../checkpoints.rs"]
mod checkpoints;
#[path = "../conformance.rs"]
mod conformance;
#[path = "../coverage.rs"]
mod coverage;
#[path = "../devices.rs"]
mod devices;
#[path = "../efficient.rs"]
mod efficient;
#[path = "../examples.rs"]
mod examples;
#[path = "../forked_caches.rs"]
mod forked_caches;
#[path = "../gradients.rs"]
mod gradients;
#[path = "../hidden/mod.rs"]
mod hidden;
#[path = "../kernels.rs"]
mod kernels;
#[path = "../layering.rs"]
mod layering;
#[path = "../layers/mod.rs"]
mod layers;
#[path = "../maskers.rs"]
mod maskers;
#[path = "../masks.rs"]
mod masks;
#[path = "../metrics.rs"]
mod metrics;
#[cfg(feature = "hf")]
#[path = "../models.rs"]
mod models;
#[path = "../padded_layers.rs"]
mod padded_layers;
#[path = "../phases.rs"]
mod phases;
#[path = "../plots.rs"]
mod plots;
#[path = "../reports.rs"]
mod reports;
#[path = "../rotary.rs"]
mod rotary;
#[path = "../softcap_and_sinks.rs"]
mod softcap_and_sinks;
#[path = "../sparse_attention_function.rs"]
mod sparse_attention_function;
#[path = "../tables.rs"]
mod tables;
#[path = "../training.rs"]
mod training;
#[path = "../visible_only.rs"]
mod visible_only;
#[path = "../weight_files.rs"]
mod weight_files;
#[path = "../windowed_layers.rs"]
mod windowed_layers;

// What the parts of the conformance test name from the root.
use conformance::{DIFFERENCES, UNNAMED, conformance_support};
