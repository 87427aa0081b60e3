//! Files: how they are written, and how what they hold is checked.
//!
//! A file is written whole or not at all ([OutputFile]). What is read is not trusted: sizes, names and lengths are
//! checked before memory is allocated for them.

#[cfg(feature = "hf")]
mod checkpoint;
mod file_error;
mod input_file;
mod json;
mod output_file;
#[cfg(feature = "hf")]
mod pickle;
mod tensor_file;

#[cfg(feature = "hf")]
pub(crate) use checkpoint::Checkpoint;
pub use file_error::FileError;
pub(crate) use input_file::read_file;
pub use json::from_json;
pub use output_file::OutputFile;
pub(crate) use tensor_file::{TensorFile, write_tensors};
