use std::{collections::HashMap, path::PathBuf};

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{FileError, OutputFile, json::from_json, read_file};

/// A safetensors file in memory.
pub(crate) struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    names: Vec<String>,
    metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Reads a file.
    pub fn open(path: PathBuf) -> Result<Self, FileError> {
        let bytes = read_file(&path)?;
        if let Err(error) = check_header(&bytes) {
            return Err(not_safetensors(path, error));
        }
        let (names, metadata) = match (SafeTensors::deserialize(&bytes), SafeTensors::read_metadata(&bytes)) {
            (Ok(file), Ok((_, header))) => {
                let names = file.names().into_iter().map(str::to_owned).collect();
                (names, header.metadata().clone().unwrap_or_default())
            }
            (Err(error), _) | (_, Err(error)) => return Err(not_safetensors(path, error)),
        };
        Ok(Self { path, bytes, names, metadata })
    }

    /// The names of the tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The entry of a name in the file's metadata.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(String::as_str)
    }

    /// An error that says what is wrong with the file.
    pub fn unusable(&self, format: &'static str, reason: impl ToString) -> FileError {
        FileError::Format { path: self.path.clone(), format, reason: reason.to_string() }
    }

    /// A tensor of floating-point numbers, in f32.
    pub fn tensor<B: Backend, const D: usize>(
        &self,
        name: &str,
        device: &B::Device,
    ) -> Result<Tensor<B, D>, FileError> {
        let file = SafeTensors::deserialize(&self.bytes).map_err(|error| not_safetensors(self.path.clone(), error))?;
        let view = file.tensor(name).map_err(|_| self.missing(name))?;
        let shape = view.shape().to_vec();
        if shape.len() != D {
            return Err(self.shape(name, &shape, format!("of {D} dimensions")));
        }
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                let reason = format!("`{name}` holds {other:?}, but must hold floating-point numbers");
                return Err(FileError::Format { path: self.path.clone(), format: "a file of weights", reason });
            }
        };
        let data = TensorData::from_bytes_vec(view.data().to_vec(), shape, dtype).convert::<f32>();
        Ok(Tensor::from_data(data, (device, DType::F32)))
    }

    /// The error that a tensor is not in the file.
    pub fn missing(&self, name: &str) -> FileError {
        let mut names = self.names.clone();
        names.sort();
        names.truncate(12);
        FileError::Missing { path: self.path.clone(), missing: name.to_owned(), found: names.join(", ") }
    }

    /// The error that a tensor does not have the required shape.
    pub fn shape(&self, name: &str, found: &[usize], expected: String) -> FileError {
        FileError::Shape { path: self.path.clone(), name: name.to_owned(), found: found.to_vec(), expected }
    }
}

/// Writes tensors of floating-point numbers as f32.
pub(crate) fn write_tensors(file: &OutputFile, tensors: Vec<(String, TensorData)>) -> Result<(), FileError> {
    let tensors = tensors.into_iter().map(|(name, data)| (name, data.convert::<f32>())).collect::<Vec<_>>();
    let views = tensors.iter().map(|(name, data)| {
        TensorView::new(Dtype::F32, data.shape.to_vec(), data.as_bytes()).map(|view| (name.as_str(), view))
    });
    let bytes = views.collect::<Result<Vec<_>, _>>().and_then(|views| safetensors::serialize(views, None));
    file.write(&bytes.map_err(|error| not_safetensors(file.path().to_owned(), error))?)
}

/// Checks that the JSON header does not repeat a key, so that no tensor is named twice. Other faults of a file are
/// found when it is read.
fn check_header(bytes: &[u8]) -> Result<(), serde_json::Error> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(()) };
    let header = usize::try_from(u64::from_le_bytes(*length)).ok().and_then(|length| rest.get(..length));
    match header.and_then(|header| std::str::from_utf8(header).ok()) {
        Some(header) => from_json::<serde::de::IgnoredAny>(header).map(|_| ()),
        None => Ok(()),
    }
}

fn not_safetensors(path: PathBuf, error: impl ToString) -> FileError {
    FileError::Format { path, format: "a safetensors file", reason: error.to_string() }
}
