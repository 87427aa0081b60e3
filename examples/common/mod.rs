//! What the examples share: arguments, files, a table on a pipe that may close, and how they end.
#![allow(dead_code, unused_imports, unused_macros)] // Each example uses its part.

mod arguments;
mod ending;
mod files;
#[cfg(feature = "hf")]
mod language_model;

pub use arguments::{BackendArguments, count, count_or_none, seed_count};
pub use ending::{Usage, end};
pub use files::{files, find, fits_in_memory, given_or};
#[cfg(feature = "hf")]
pub use language_model::{ModelArguments, read};

/// `println!` which returns an error where that panics, such as when `head` has seen enough and closes the pipe.
macro_rules! say {
    ($($text:tt)*) => {
        ::std::io::Write::write_fmt(&mut ::std::io::stdout(), ::std::format_args!("{}\n", ::std::format_args!($($text)*)))
    };
}
pub(crate) use say;
