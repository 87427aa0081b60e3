//! What scorers do with keys on the host: rows of a head, and memory that grows by the new ones only.

use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use rayon::prelude::*;

use crate::attention::AttentionInputs;

/// A tensor `[batch, heads, length, width]` on the host, in f32.
pub(crate) struct Host {
    values: Vec<f32>,
    pub dims: [usize; 4],
}

impl Host {
    pub fn of<B: Backend>(tensor: &Tensor<B, 4>) -> Self {
        let dims = tensor.dims();
        Self { values: tensor.to_data().convert::<f32>().iter::<f32>().collect(), dims }
    }

    /// Some positions of a tensor.
    pub fn of_range<B: Backend>(tensor: &Tensor<B, 4>, positions: Range<usize>) -> Self {
        Self::of(&tensor.clone().slice_dim(2, positions))
    }

    /// The vectors of a head, counted over batch and heads, one after the other.
    pub fn head(&self, head: usize) -> &[f32] {
        let size = self.dims[2] * self.dims[3];
        &self.values[head * size..][..size]
    }

    /// One vector.
    pub fn vector(&self, head: usize, position: usize) -> &[f32] {
        let width = self.dims[3];
        &self.values[(head * self.dims[2] + position) * width..][..width]
    }

    /// Heads over the whole batch.
    pub fn heads(&self) -> usize {
        self.dims[0] * self.dims[1]
    }
}

/// How far a memory of keys has come. Keys are only ever appended; a memory that meets fewer keys than it has seen, or
/// another number of heads, belongs to another sequence and starts anew.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    heads: usize,
    keys: usize,
}

impl Seen {
    /// The keys that are new, and whether what was remembered is to be forgotten first.
    pub fn advance(&mut self, heads: usize, keys: usize) -> (Range<usize>, bool) {
        let anew = self.heads != heads || keys < self.keys;
        let first = if anew { 0 } else { self.keys };
        *self = Self { heads, keys };
        (first..keys, anew)
    }
}

/// Scores made row by row on the host, in parallel: `score` is given the row's query head (over batch and heads), its
/// key-value head (likewise), its query, and the row to fill.
///
/// # Shapes
/// - output: `[batch, heads, queries, keys]`, f32.
pub(crate) fn scores_by_row<B: Backend>(
    inputs: &AttentionInputs<B>,
    score: impl Fn(usize, usize, usize, &mut [f32]) + Sync,
) -> Tensor<B, 4> {
    let shape = inputs.mask_shape();
    let group = shape.heads / inputs.kv_heads();
    let mut scores = vec![0f32; shape.pairs()];
    scores.par_chunks_mut(shape.keys).enumerate().for_each(|(row, scores)| {
        let head = row / shape.queries;
        score(head, head / group, row % shape.queries, scores);
    });
    Tensor::from_data(TensorData::new(scores, shape.dims()), (&inputs.device(), DType::F32))
}

/// Scores plus the additive bias of the visibility, if it has one.
pub(crate) fn with_bias<B: Backend>(inputs: &AttentionInputs<B>, scores: Tensor<B, 4>) -> Tensor<B, 4> {
    let shape = inputs.mask_shape();
    match inputs.visibility().bias(0..shape.queries, &[shape.all_keys()], scores.dtype()) {
        Some(bias) => scores + bias,
        None => scores,
    }
}

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
