//! The shared parts of the examples: arguments, files, printing to a pipe that may close, and the end of a program.
#![allow(dead_code, unused_imports, unused_macros)] // Each example uses its part.

mod arguments;
mod ending;
mod files;
#[cfg(feature = "hf")]
mod language_model;

pub use arguments::{BackendArguments, Shard, count, count_or_none, seed_count};
pub use ending::{Usage, end};
pub use files::{files, find, fits_in_memory, given_or};
#[cfg(feature = "hf")]
pub use language_model::{ModelArguments, read};

/// Like `println!`, but returns an error instead of a panic, for example when `head` closes the pipe.
macro_rules! say {
    ($($text:tt)*) => {
        ::std::io::Write::write_fmt(&mut ::std::io::stdout(), ::std::format_args!("{}\n", ::std::format_args!($($text)*)))
    };
}
pub(crate) use say;
