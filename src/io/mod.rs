//! Writes files safely, and reads files with checks of their content.
//!
//! A file is written completely or not at all ([OutputFile]). The content of a file is not trusted: sizes, names and
//! lengths are checked before memory is allocated for them.

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
