//! All test files in one program: `cargo test --release --features ndarray,wgpu,tch,hf,train --test matrix`.
//!
//! `cargo test` alone runs the same tests, a program for each file. A program holds a copy of every backend that it tests,
//! which for a device takes minutes to compile: with several backends enabled, one program is much the sooner way.
#![allow(clippy::duplicate_mod)] // Each file has what it shares with the others as a module of its own.

#[path = "../common/mod.rs"]
mod common;

#[path = "../attention.rs"]
mod attention;
#[path = "../conformance.rs"]
mod conformance;
#[path = "../coverage.rs"]
mod coverage;
#[path = "../devices.rs"]
mod devices;
#[path = "../efficient.rs"]
mod efficient;
#[path = "../kernels.rs"]
mod kernels;
#[path = "../maskers.rs"]
mod maskers;
#[path = "../masks.rs"]
mod masks;
#[path = "../weight_files.rs"]
mod weight_files;

// What the parts of the conformance test name from the root.
use conformance::{DIFFERENCES, UNNAMED, conformance_support};
