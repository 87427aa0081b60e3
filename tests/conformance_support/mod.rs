//! The parts of the conformance test.

pub mod attention;
pub mod chains;
pub mod decode;
#[cfg(feature = "hf")]
pub mod documented;
pub mod fixtures;
pub mod kinds;
pub mod masks;
#[cfg(feature = "hf")]
pub mod models;
pub mod own;
pub mod products;
pub mod report;
pub mod sampling;
pub mod selectors;
pub mod tables;
#[cfg(feature = "hf")]
pub mod texts;
pub mod vectors;
