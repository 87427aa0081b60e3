//! Loads the tensors of a checkpoint into the parameters of a model.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Element, ElementConversion, Tensor, TensorData, backend::Backend},
};
use burn_store::TensorSnapshot;
use rayon::prelude::*;

use super::{
    Architecture, LanguageModel, LanguageModelConfig, Misshapen, ModelError, WeightMismatch, checkpoint::Checkpoint,
};
use crate::io::FileError;

/// Fills the parameters of a model with the tensors of a checkpoint.
pub(super) fn load<B: Backend>(
    model: LanguageModel<B>,
    checkpoint: Checkpoint,
    config: &LanguageModelConfig,
    dtype: DType,
) -> Result<LanguageModel<B>, ModelError> {
    let mut loader = Loader {
        checkpoint,
        architecture: config.architecture,
        dtype,
        path: Vec::new(),
        containers: Vec::new(),
        mismatch: WeightMismatch::default(),
        unreadable: None,
    };
    let model = model.map(&mut loader);
    let Loader { checkpoint, mut mismatch, unreadable, .. } = loader;
    let may_be_left = |name: &String| {
        // Old checkpoints also contain the frequencies of the rotary positions. Some contain the logits' matrix,
        // although it is tied to the embeddings.
        name.ends_with("rotary_emb.inv_freq") || (config.tied_embeddings && name == "lm_head.weight")
    };
    mismatch.extra = checkpoint.tensors.into_keys().filter(|name| !may_be_left(name)).collect();
    match (mismatch.is_empty(), unreadable) {
        (false, _) => Err(ModelError::Weights { path: checkpoint.path, mismatch }),
        (true, Some(error)) => Err(error.into()),
        (true, None) => Ok(model),
    }
}

/// Visits the parameters of a model and takes the tensor of each from the checkpoint.
struct Loader {
    checkpoint: Checkpoint,
    architecture: Architecture,
    dtype: DType,
    /// The names of the fields that lead to the current parameter.
    path: Vec<String>,
    /// The types that contain these fields.
    containers: Vec<String>,
    mismatch: WeightMismatch,
    unreadable: Option<FileError>,
}

impl Loader {
    /// Reads a tensor in the number type of the model, and transposes it on request. If it cannot be used, it is added
    /// to the mismatches and the result is `None`.
    fn read<B: Backend, const D: usize>(
        &mut self,
        name: &str,
        snapshot: &TensorSnapshot,
        transposed: bool,
        device: &B::Device,
    ) -> Option<Tensor<B, D>> {
        if !snapshot.dtype.is_float() {
            self.mismatch.mistyped.push((name.to_owned(), format!("{:?}", snapshot.dtype)));
            return None;
        }
        match snapshot.to_data() {
            Ok(data) => {
                let data = data.convert_dtype(self.dtype);
                let data = if transposed { transpose(data) } else { data };
                Some(Tensor::from_data(data, (device, self.dtype)))
            }
            Err(error) => {
                let path = self.checkpoint.path.clone();
                self.unreadable =
                    Some(FileError::Format { path, format: "a folder of weights", reason: error.to_string() });
                None
            }
        }
    }
}

impl<B: Backend> ModuleMapper<B> for Loader {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        // The learned parts of a method come from their own file.
        let Some(name) = name(&self.path, self.architecture) else { return param };
        let Some(snapshot) = self.checkpoint.tensors.remove(&name) else {
            self.mismatch.missing.push(name);
            return param;
        };
        // PyTorch stores matrices as `[out, in]`, burn as `[in, out]`.
        let is_matrix = self.containers.last().is_some_and(|container| container == "Struct:Linear") && D == 2;
        let mut expected = param.lazy_shape().to_vec();
        if is_matrix {
            expected.reverse();
        }
        if snapshot.shape.to_vec() != expected {
            self.mismatch.misshapen.push(Misshapen { name, found: snapshot.shape.to_vec(), expected });
            return param;
        }
        let Some(tensor) = self.read::<B, D>(&name, &snapshot, is_matrix, &param.lazy_device()) else { return param };
        let is_norm = self.path.last().is_some_and(|field| field == "gamma");
        let tensor = match is_norm && self.architecture == Architecture::Gemma2 {
            // Gemma stores the factors of its norms minus 1.
            true => tensor + 1.0,
            false => tensor,
        };
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

/// A transposed matrix, in a new memory layout. Some backends would copy a transposed view for every product.
fn transpose(data: TensorData) -> TensorData {
    match data.dtype {
        DType::F64 => transpose_of::<f64>(data),
        DType::F32 => transpose_of::<f32>(data),
        DType::F16 => transpose_of::<half::f16>(data),
        DType::BF16 => transpose_of::<half::bf16>(data),
        other => unreachable!("{other:?} is no type to compute with, which was asked for before"),
    }
}

/// The number of rows and columns that are moved at once, so that both sides fit in the processor's cache.
const TILE: usize = 32;

fn transpose_of<E: Element>(data: TensorData) -> TensorData {
    let (rows, columns) = (data.shape[0], data.shape[1]);
    let from = match data.as_slice::<E>() {
        Ok(from) => from,
        Err(_) => unreachable!("the type of the numbers has been looked up"),
    };
    let mut to = vec![0.elem::<E>(); rows * columns];
    to.par_chunks_mut(TILE * rows).enumerate().for_each(|(tile, to)| {
        let first = tile * TILE;
        let width = to.len() / rows;
        for rows_at in (0..rows).step_by(TILE) {
            for column in 0..width {
                for row in rows_at..(rows_at + TILE).min(rows) {
                    to[column * rows + row] = from[row * columns + first + column];
                }
            }
        }
    });
    TensorData::new(to, [columns, rows])
}

/// The name of a parameter's tensor in HuggingFace's files. `None` if the files have none.
fn name(path: &[String], architecture: Architecture) -> Option<String> {
    let gemma = architecture == Architecture::Gemma2;
    let fields = path.iter().map(String::as_str).collect::<Vec<_>>();
    let (layer, fields) = match fields[..] {
        ["embedding", "weight"] => return Some("model.embed_tokens.weight".to_owned()),
        ["norm", "gamma"] => return Some("model.norm.weight".to_owned()),
        ["head", "weight"] => return Some("lm_head.weight".to_owned()),
        ["layers", layer, ref fields @ ..] => (layer, fields),
        _ => return None,
    };
    let (module, field) = match *fields {
        ["attention", module, field] => (attention_module(module)?, field),
        ["feed_forward", "gate", field] => ("mlp.gate_proj", field),
        ["feed_forward", "up", field] => ("mlp.up_proj", field),
        ["feed_forward", "down", field] => ("mlp.down_proj", field),
        ["input_norm", field] => ("input_layernorm", field),
        ["attention_output_norm", field] => ("post_attention_layernorm", field),
        ["feed_forward_norm", field] if gemma => ("pre_feedforward_layernorm", field),
        ["feed_forward_norm", field] => ("post_attention_layernorm", field),
        ["feed_forward_output_norm", field] => ("post_feedforward_layernorm", field),
        _ => return None,
    };
    let field = if field == "gamma" { "weight" } else { field };
    Some(format!("model.layers.{layer}.{module}.{field}"))
}

fn attention_module(module: &str) -> Option<&'static str> {
    Some(match module {
        "query" => "self_attn.q_proj",
        "key" => "self_attn.k_proj",
        "value" => "self_attn.v_proj",
        "output" => "self_attn.o_proj",
        "query_norm" => "self_attn.q_norm",
        "key_norm" => "self_attn.k_norm",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_of_any_shape_are_transposed() {
        for [rows, columns] in [[1, 1], [1, 70], [70, 1], [33, 65], [64, 32]] {
            let numbers = (0..rows * columns).map(|number| number as f32).collect::<Vec<_>>();
            let data = transpose(TensorData::new(numbers, [rows, columns]));
            assert_eq!(data.shape.to_vec(), [columns, rows]);
            let found = data.as_slice::<f32>().expect("they are numbers of this type");
            for (at, number) in found.iter().enumerate() {
                assert_eq!(*number as usize, at % rows * columns + at / rows, "[{rows}, {columns}] at {at}");
            }
        }
    }
}
