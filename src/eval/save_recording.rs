use std::{collections::HashMap, path::PathBuf};

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use safetensors::{Dtype, tensor::TensorView};

use super::Recording;
use crate::{
    attention::dense_attention,
    io::{FileError, OutputFile},
    problem::{AttentionInputs, Requested, Visibility},
};

const FORMAT: &str = "a recording of attention";

impl<B: Backend> Recording<B> {
    /// The same recording with the output of dense attention.
    ///
    /// # Panics
    /// As [dense_attention].
    pub fn with_dense_output(self) -> Self {
        let output = dense_attention(&self.inputs, Requested::default()).output;
        Self { output: Some(output), ..self }
    }

    /// Writes a file that [open](Self::open) reads. Queries, keys and values are written in f16, the precision in which
    /// they are compared. The output is written in f32.
    ///
    /// # Errors
    /// If the file cannot be written, or the recording has something that the format cannot hold: a window, a softcap,
    /// sinks, or queries that are not at the last positions of the keys.
    pub fn save(&self, path: impl Into<PathBuf>) -> Result<(), FileError> {
        let path = path.into();
        if let Some(reason) = no_place_for(&self.inputs) {
            return Err(FileError::Format { path, format: FORMAT, reason: reason.to_owned() });
        }
        let inputs = &self.inputs;
        let data = |tensor: &Tensor<B, 4>, dtype: DType| tensor.to_data().convert_dtype(dtype);
        let mut tensors = vec![
            ("q", data(inputs.queries(), DType::F16)),
            ("k", data(inputs.keys(), DType::F16)),
            ("v", data(inputs.values(), DType::F16)),
        ];
        tensors.extend(self.output.as_ref().map(|output| ("out", data(output, DType::F32))));
        let metadata = HashMap::from([
            ("layer".to_owned(), inputs.layer().to_string()),
            ("scaling".to_owned(), inputs.scale().to_string()),
            ("visibility".to_owned(), "causal".to_owned()),
        ]);
        let view = |(name, data): &'_ (&'static str, TensorData)| {
            let dtype = if data.dtype == DType::F16 { Dtype::F16 } else { Dtype::F32 };
            (*name, dtype, data.shape.to_vec())
        };
        let described = tensors.iter().map(view).collect::<Vec<_>>();
        let views = described.into_iter().zip(&tensors).map(|((name, dtype, shape), (_, data))| {
            TensorView::new(dtype, shape, data.as_bytes()).map(|view| (name, view))
        });
        let bytes =
            views.collect::<Result<Vec<_>, _>>().and_then(|views| safetensors::serialize(views, Some(metadata)));
        match bytes {
            Ok(bytes) => OutputFile::new(path)?.write(&bytes),
            Err(error) => Err(FileError::Format { path, format: FORMAT, reason: error.to_string() }),
        }
    }
}

/// The property of the inputs that the file format cannot hold, if there is one.
fn no_place_for<B: Backend>(inputs: &AttentionInputs<B>) -> Option<&'static str> {
    let shape = inputs.mask_shape();
    match inputs.visibility() {
        _ if inputs.softcap().is_some() => Some("it has no place for a softcap"),
        _ if inputs.sink_logits().is_some() => Some("it has no place for sinks"),
        Visibility::Causal { offset } if offset + shape.queries == shape.keys => None,
        Visibility::Causal { .. } => Some("its queries must be the last of the keys"),
        _ => Some("it has no place for another visibility than causal"),
    }
}
