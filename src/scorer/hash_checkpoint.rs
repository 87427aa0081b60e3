//! HashAttention weights as the paper's authors publish them: a PyTorch state dictionary.

use std::{collections::BTreeMap, path::PathBuf};

use burn::tensor::{Tensor, backend::Backend};
use burn_store::pytorch::PytorchReader;

use super::{HashConfig, HashWeights, HeadPerceptrons, LayerPerceptrons};
use crate::FileError;

const FORMAT: &str = "a PyTorch checkpoint of HashAttention";

/// A checkpoint, and how far its tensors are known.
struct Checkpoint {
    path: PathBuf,
    tensors: PytorchReader,
}

impl<B: Backend> HashWeights<B> {
    /// Reads `<layer>.learning_to_hash_transformation_<q|k>.<head>.<2 i>.<weight|bias>`: `i` counts the matrices, the
    /// odd numbers are the activations between them, and a matrix is `[width_out, width_in]`.
    pub(super) fn from_checkpoint(path: PathBuf, config: &HashConfig, device: &B::Device) -> Result<Self, FileError> {
        if let Err(source) = std::fs::File::open(&path) {
            return Err(FileError::Open { path, source });
        }
        let tensors = match PytorchReader::new(&path) {
            Ok(tensors) => tensors,
            Err(error) => return Err(FileError::Format { path, format: FORMAT, reason: error.to_string() }),
        };
        let checkpoint = Checkpoint { path, tensors };
        // Heads by layer of the model.
        let mut heads = BTreeMap::<usize, usize>::new();
        for name in checkpoint.tensors.keys() {
            let mut parts = name.split('.');
            let layer = parts.next().and_then(|layer| layer.parse().ok());
            let part = parts.next().unwrap_or_default();
            let head = parts.next().and_then(|head| head.parse::<usize>().ok());
            if let (Some(layer), "learning_to_hash_transformation_q", Some(head)) = (layer, part, head) {
                let heads = heads.entry(layer).or_default();
                *heads = (*heads).max(head + 1);
            }
        }
        if heads.is_empty() {
            return Err(checkpoint.missing("0.learning_to_hash_transformation_q.0.0.weight".to_owned()));
        }
        let layers = heads.into_iter().map(|(layer, heads)| {
            let part = |part: char| checkpoint.perceptrons(layer, part, heads, config, device);
            Ok((layer, LayerPerceptrons { query: part('q')?, key: part('k')? }))
        });
        Ok(Self::new(layers.collect::<Result<Vec<_>, FileError>>()?))
    }
}

impl Checkpoint {
    fn perceptrons<B: Backend>(
        &self,
        layer: usize,
        part: char,
        heads: usize,
        config: &HashConfig,
        device: &B::Device,
    ) -> Result<HeadPerceptrons<B>, FileError> {
        // Asked for first: with too many layers in the configuration, the shape of the last one would be blamed.
        let last =
            format!("{layer}.learning_to_hash_transformation_{part}.0.{}.weight", 2 * (config.hat_mlp_layers - 1));
        if self.tensors.get(&last).is_none() {
            return Err(self.missing(last));
        }
        let mut width_in = None;
        let layers = (0..config.hat_mlp_layers).map(|index| {
            let last = index + 1 == config.hat_mlp_layers;
            let width_out = if last { config.hat_bits } else { config.hat_mlp_hidden_size };
            let name = |head: usize, kind: &str| {
                format!("{layer}.learning_to_hash_transformation_{part}.{head}.{}.{kind}", 2 * index)
            };
            let mut matrices = Vec::with_capacity(heads);
            let mut biases = Vec::with_capacity(heads);
            for head in 0..heads {
                let width = width_in.map_or("head_dim".to_owned(), |width: usize| width.to_string());
                let matrix =
                    self.tensor::<B, 2>(&name(head, "weight"), device, format!("[{width_out}, {width}]"), |dims| {
                        dims[0] == width_out && width_in.is_none_or(|width| width == dims[1])
                    })?;
                width_in = Some(matrix.dims()[1]);
                matrices.push(matrix.transpose());
                let expected = format!("[{width_out}]");
                biases.push(self.tensor::<B, 1>(&name(head, "bias"), device, expected, |dims| dims[0] == width_out)?);
            }
            width_in = Some(width_out);
            Ok((Tensor::stack(matrices, 0), Tensor::stack(biases, 0)))
        });
        Ok(HeadPerceptrons::new(layers.collect::<Result<Vec<_>, FileError>>()?))
    }

    /// A tensor whose shape fits.
    fn tensor<B: Backend, const D: usize>(
        &self,
        name: &str,
        device: &B::Device,
        expected: String,
        fits: impl Fn(&[usize]) -> bool,
    ) -> Result<Tensor<B, D>, FileError> {
        let data = self.tensors.get(name).ok_or_else(|| self.missing(name.to_owned()))?.to_data();
        let data = data.map_err(|error| FileError::Format {
            path: self.path.clone(),
            format: FORMAT,
            reason: format!("`{name}`: {error:?}"),
        })?;
        let found = data.shape.to_vec();
        if found.len() != D || !fits(&found) {
            return Err(FileError::Shape { path: self.path.clone(), name: name.to_owned(), found, expected });
        }
        Ok(Tensor::from_data(data.convert::<f32>(), device))
    }

    fn missing(&self, missing: String) -> FileError {
        let mut names = self.tensors.keys();
        names.sort();
        names.truncate(12);
        FileError::Missing { path: self.path.clone(), missing, found: names.join(", ") }
    }
}
