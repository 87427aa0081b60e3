use std::{collections::BTreeMap, path::PathBuf};

use burn::tensor::{Tensor, backend::Backend};

use super::{Activation, HashConfig};
use crate::{FileError, tensor_file::TensorFile};

/// A perceptron for each query head.
#[derive(Debug, Clone)]
pub struct HeadPerceptrons<B: Backend> {
    /// Matrix and bias, in order: `[heads, width_in, width_out]` and `[heads, width_out]`.
    pub layers: Vec<(Tensor<B, 3>, Tensor<B, 2>)>,
}

impl<B: Backend> HeadPerceptrons<B> {
    /// # Shapes
    /// - x: `[batch, heads, length, width_in]`
    /// - output: `[batch, heads, length, width_out]`
    pub(super) fn forward(&self, x: Tensor<B, 4>, activation: Activation) -> Tensor<B, 4> {
        self.layers.iter().enumerate().fold(x, |x, (index, (matrix, bias))| {
            let x = if index == 0 { x } else { activation.apply(x) };
            x.matmul(matrix.clone().unsqueeze::<4>()) + bias.clone().unsqueeze_dim::<3>(1).unsqueeze::<4>()
        })
    }
}

/// The weights of one layer of the model: perceptrons for its queries and its keys.
#[derive(Debug, Clone)]
pub struct LayerPerceptrons<B: Backend> {
    /// For the queries.
    pub query: HeadPerceptrons<B>,
    /// For the keys.
    pub key: HeadPerceptrons<B>,
}

/// The weights of [Hash], by layer of the model.
#[derive(Debug, Clone)]
pub struct HashWeights<B: Backend> {
    /// By layer.
    pub layers: BTreeMap<usize, LayerPerceptrons<B>>,
}

impl<B: Backend> HashWeights<B> {
    /// Weights from a file: a PyTorch checkpoint (`.pt`, `.pth`) in the layout that the paper's authors publish, with the
    /// feature `hf`, or else a safetensors file with `hat.<layer>.query_matrix.<i>` and `hat.<layer>.key_matrix.<i>`,
    /// `[heads, width_in, width_out]`, and `hat.<layer>.query_bias.<i>` and `hat.<layer>.key_bias.<i>`,
    /// `[heads, width_out]`, for `i` from 0.
    ///
    /// # Errors
    /// If the file cannot be read, lacks a tensor, or a shape is not what the configuration says.
    pub fn from_file(path: PathBuf, config: &HashConfig, device: &B::Device) -> Result<Self, FileError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("pt" | "pth" | "pkl") => Self::from_checkpoint(path, config, device),
            _ => Self::from_safetensors(path, config, device),
        }
    }

    #[cfg(not(feature = "hf"))]
    fn from_checkpoint(path: PathBuf, _: &HashConfig, _: &B::Device) -> Result<Self, FileError> {
        let reason = "PyTorch checkpoints are read by builds with `--features hf` only".to_owned();
        Err(FileError::Format { path, format: "a safetensors file", reason })
    }

    fn from_safetensors(path: PathBuf, config: &HashConfig, device: &B::Device) -> Result<Self, FileError> {
        let file = TensorFile::open(path)?;
        let layers = file.names().filter_map(|name| name.strip_prefix("hat.")?.split('.').next()?.parse().ok());
        let layers = layers.collect::<std::collections::BTreeSet<usize>>();
        if layers.is_empty() {
            return Err(file.missing("hat.0.query_matrix.0"));
        }
        let layers = layers.into_iter().map(|layer| {
            let part = |part: &str| -> Result<HeadPerceptrons<B>, FileError> {
                let mut width = None;
                let layers = (0..config.hat_mlp_layers).map(|index| {
                    let last = index + 1 == config.hat_mlp_layers;
                    let out = if last { config.hat_bits } else { config.hat_mlp_hidden_size };
                    let name = format!("hat.{layer}.{part}_matrix.{index}");
                    let matrix = file.tensor::<B, 3>(&name, device)?;
                    let [heads, width_in, width_out] = matrix.dims();
                    if width_out != out || width.is_some_and(|width| width != width_in) {
                        let width_in = width.map_or("head_dim".to_owned(), |width: usize| width.to_string());
                        return Err(file.shape(&name, &matrix.dims(), format!("[heads, {width_in}, {out}]")));
                    }
                    width = Some(width_out);
                    let name = format!("hat.{layer}.{part}_bias.{index}");
                    let bias = file.tensor::<B, 2>(&name, device)?;
                    match bias.dims() == [heads, out] {
                        true => Ok((matrix, bias)),
                        false => Err(file.shape(&name, &bias.dims(), format!("[{heads}, {out}]"))),
                    }
                });
                Ok(HeadPerceptrons { layers: layers.collect::<Result<_, _>>()? })
            };
            Ok((layer, LayerPerceptrons { query: part("query")?, key: part("key")? }))
        });
        Ok(Self { layers: layers.collect::<Result<_, FileError>>()? })
    }
}
