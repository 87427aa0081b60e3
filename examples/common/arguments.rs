use std::{error::Error, str::FromStr};

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

/// A part of some work, for one of several machines: `2/8` is the second of eight.
#[derive(Debug, Clone, Copy)]
pub struct Shard {
    /// The number of the part, from 1.
    pub part: u64,
    /// The number of parts.
    pub of: u64,
}

impl Shard {
    /// Whether the part contains the case with this number.
    pub fn has(self, number: u64) -> bool {
        number % self.of == self.part % self.of
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((part, of)) if part >= 1 && part <= of => Ok(Self { part, of }),
            _ => Err(format!("{text} must be two numbers such as 2/8, the first from 1 to the second")),
        }
    }
}
