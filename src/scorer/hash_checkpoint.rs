//! HashAttention weights in the format of the paper's authors, a PyTorch state dictionary.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use burn::tensor::{DType, Tensor, backend::Backend};

use super::{HashConfig, HashWeights, HeadPerceptrons, LayerPerceptrons};
use crate::io::{Checkpoint, FileError};

impl<B: Backend> HashWeights<B> {
    /// Reads `<layer>.learning_to_hash_transformation_<q|k>.<head>.<2 i>.<weight|bias>`, where `i` counts the matrices.
    /// The odd numbers are the activations between the matrices. A matrix is `[width_out, width_in]`.
    pub(super) fn from_checkpoint(path: PathBuf, config: &HashConfig, device: &B::Device) -> Result<Self, FileError> {
        let checkpoint = Checkpoint::open(path)?;
        let mut heads = BTreeMap::<usize, BTreeSet<usize>>::new();
        for name in checkpoint.names() {
            let mut parts = name.split('.');
            let layer = parts.next().and_then(|layer| layer.parse().ok());
            let part = parts.next().unwrap_or_default();
            let head = parts.next().and_then(|head| head.parse().ok());
            if let (Some(layer), "learning_to_hash_transformation_q", Some(head)) = (layer, part, head) {
                heads.entry(layer).or_default().insert(head);
            }
        }
        if heads.is_empty() {
            return Err(checkpoint.missing("0.learning_to_hash_transformation_q.0.0.weight".to_owned()));
        }
        let layers = heads.into_iter().map(|(layer, heads)| {
            // The heads must be numbered without a gap. The largest number alone could be anything.
            if let Some((head, _)) = (0..).zip(&heads).find(|(wanted, found)| wanted != *found) {
                return Err(checkpoint.missing(name(layer, 'q', head, 0, "weight")));
            }
            let part = |part| perceptrons(&checkpoint, layer, part, heads.len(), config, device);
            Ok((layer, LayerPerceptrons { query: part('q')?, key: part('k')? }))
        });
        Ok(Self::new(layers.collect::<Result<Vec<_>, FileError>>()?))
    }
}

fn name(layer: usize, part: char, head: usize, index: usize, kind: &str) -> String {
    format!("{layer}.learning_to_hash_transformation_{part}.{head}.{}.{kind}", 2 * index)
}

fn perceptrons<B: Backend>(
    checkpoint: &Checkpoint,
    layer: usize,
    part: char,
    heads: usize,
    config: &HashConfig,
    device: &B::Device,
) -> Result<HeadPerceptrons<B>, FileError> {
    // The last matrix is checked first. If the configuration has too many layers, the error then says so, and not that
    // the last shape is wrong.
    checkpoint.shape(&name(layer, part, 0, config.hat_mlp_layers - 1, "weight"))?;
    let mut width_in = None::<usize>;
    let layers = (0..config.hat_mlp_layers).map(|index| {
        let last = index + 1 == config.hat_mlp_layers;
        let width_out = if last { config.hat_bits } else { config.hat_mlp_hidden_size };
        let mut matrices = Vec::with_capacity(heads);
        let mut biases = Vec::with_capacity(heads);
        for head in 0..heads {
            let matrix = name(layer, part, head, index, "weight");
            let found = match *checkpoint.shape(&matrix)? {
                [out, found] if out == width_out && found > 0 && width_in.is_none_or(|width| width == found) => found,
                _ => {
                    let width = width_in.map_or("head_dim".to_owned(), |width| width.to_string());
                    return Err(checkpoint.misshapen(&matrix, format!("[{width_out}, {width}]")));
                }
            };
            width_in = Some(found);
            let bias = name(layer, part, head, index, "bias");
            if *checkpoint.shape(&bias)? != [width_out] {
                return Err(checkpoint.misshapen(&bias, format!("[{width_out}]")));
            }
            matrices.push(tensor::<B, 2>(checkpoint, &matrix, device)?.transpose());
            biases.push(tensor::<B, 1>(checkpoint, &bias, device)?);
        }
        width_in = Some(width_out);
        Ok((Tensor::stack(matrices, 0), Tensor::stack(biases, 0)))
    });
    Ok(HeadPerceptrons::new(layers.collect::<Result<Vec<_>, FileError>>()?))
}

/// A tensor of the checkpoint in f32, the type that safetensors files are read in.
fn tensor<B: Backend, const D: usize>(
    checkpoint: &Checkpoint,
    name: &str,
    device: &B::Device,
) -> Result<Tensor<B, D>, FileError> {
    Ok(Tensor::from_data(checkpoint.tensor(name)?.convert::<f32>(), (device, DType::F32)))
}
