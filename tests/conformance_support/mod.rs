//! The parts of the conformance test.

pub mod attention;
pub mod bridge;
pub mod chains;
pub mod kinds;
pub mod masks;
pub mod own;
pub mod report;
pub mod sampling;
pub mod tables;
pub mod vectors;
