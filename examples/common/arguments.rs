use std::error::Error;

use clap::{Args, builder::RangedU64ValueParser};
use sparse_attention_hub::backend::{self, Work};

/// The backend and device of an example.
#[derive(Debug, Clone, Args)]
pub struct BackendArguments {
    /// One of the compiled-in backends [default: the first of cuda, tch, wgpu, flex, ndarray]
    #[arg(long)]
    pub backend: Option<String>,
    /// A device of the backend, such as cpu, cuda:0 or discrete:0
    #[arg(long)]
    pub device: Option<String>,
}

impl BackendArguments {
    /// Runs the work on the backend and device.
    pub fn run<W: Work<Output = Result<(), Box<dyn Error>>>>(&self, work: W) -> Result<(), Box<dyn Error>> {
        backend::run_on(self.backend.as_deref(), self.device.as_deref(), work)?
    }
}

/// The largest value of a count. Larger values are mistakes: they would not fit in memory, or would not finish.
const MOST: u64 = 1_000_000_000;

/// A parser for a count of at least 1.
pub fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=MOST)
}

/// A parser for a count that may be 0.
pub fn count_or_none() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(0..=MOST)
}

/// A parser for a number of seeds, at least 1.
pub fn seed_count() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1..=MOST)
}
