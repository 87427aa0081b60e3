//! Keys on the host for scorers: the vectors of a head, and a memory to which only new keys are added.

use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use rayon::prelude::*;

use super::RowScorer;
use crate::{
    kernels::{Heads, HostTensor, host_tensor, reference::scores::check_scores},
    problem::{AttentionError, AttentionInputs},
};

/// A tensor `[batch, heads, length, width]` on the host, in f32.
pub(crate) struct Host {
    values: Vec<f32>,
    pub dims: [usize; 4],
}

impl Host {
    /// Copies the numbers of a tensor.
    pub fn of<B: Backend>(tensor: &Tensor<B, 4>) -> Self {
        let [_, _, length, _] = tensor.dims();
        Self::of_range(tensor, 0..length)
    }

    /// A tensor from its numbers in order.
    pub fn new(values: Vec<f32>, dims: [usize; 4]) -> Self {
        Self { values, dims }
    }

    /// Copies some positions of a tensor. If the tensor is in host memory, only these positions are read.
    pub fn of_range<B: Backend>(tensor: &Tensor<B, 4>, positions: Range<usize>) -> Self {
        let [batch, heads, _, width] = tensor.dims();
        let dims = [batch, heads, positions.len(), width];
        if positions.is_empty() {
            // CUDA refuses to start a kernel without elements.
            return Self { values: Vec::new(), dims };
        }
        let on_host = host_tensor(tensor);
        let values = match on_host.as_ref().map(|host| host.heads()) {
            Some(Heads::F32(heads)) => {
                let some = heads.iter().map(|head| &head[positions.start * width..positions.end * width]);
                some.collect::<Vec<_>>().concat()
            }
            _ => {
                let some = tensor.clone().slice_dim(2, positions);
                some.into_data().convert::<f32>().iter::<f32>().collect()
            }
        };
        Self { values, dims }
    }

    /// Copies the tensor to a device.
    pub fn to_tensor<B: Backend>(&self, device: &B::Device) -> Tensor<B, 4> {
        Tensor::from_data(TensorData::new(self.values.clone(), self.dims), (device, DType::F32))
    }

    /// The vectors of a head, one after the other. `head` counts the heads of all sequences in the batch.
    pub fn head(&self, head: usize) -> &[f32] {
        let size = self.dims[2] * self.dims[3];
        &self.values[head * size..][..size]
    }

    /// The vector of a head at a position.
    pub fn vector(&self, head: usize, position: usize) -> &[f32] {
        let width = self.dims[3];
        &self.values[(head * self.dims[2] + position) * width..][..width]
    }

    /// The number of heads, over all sequences in the batch.
    pub fn heads(&self) -> usize {
        self.dims[0] * self.dims[1]
    }
}

impl HostTensor for Host {
    fn dims(&self) -> [usize; 4] {
        self.dims
    }

    fn heads(&self) -> Heads<'_> {
        Heads::F32((0..self.heads()).map(|head| self.head(head)).collect())
    }
}

/// How many keys a memory has. Keys are only ever appended, or removed from the end.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct KeyCursor {
    heads: usize,
    keys: usize,
}

impl KeyCursor {
    /// Moves on to `keys` keys. Returns the range of new keys, and whether the memory must be made anew.
    pub fn advance(&mut self, heads: usize, keys: usize) -> (Range<usize>, bool) {
        let anew = self.heads != heads || keys < self.keys;
        let known = if anew { 0 } else { self.keys };
        *self = Self { heads, keys };
        (known..keys, anew)
    }

    /// The number of keys.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Follows a [reorder] of the sequences of a batch.
    pub fn reorder(&mut self, indices: &[usize], batch: usize) {
        self.heads = self.heads / batch * indices.len();
    }

    /// Goes back to a number of keys.
    pub fn truncate(&mut self, keys: usize) {
        self.keys = self.keys.min(keys);
    }
}

/// Cuts a list back to the entries of the first `keys` keys. Each of the `count` keys has the same number of entries.
pub(crate) fn truncate<T>(list: &mut Vec<T>, count: usize, keys: usize) {
    if keys < count {
        list.truncate(list.len() / count * keys);
    }
}

/// Makes sequence `i` of a batch what sequence `indices[i]` was, in a list by head of all sequences.
pub(crate) fn reorder<T: Clone>(by_head: &mut Vec<T>, indices: &[usize], batch: usize) {
    let heads = by_head.len() / batch;
    *by_head = indices.iter().flat_map(|&index| &by_head[index * heads..][..heads]).cloned().collect();
}

/// Makes the scores of all pairs from the scores of each query, and adds the bias of the visibility.
///
/// # Shapes
/// - output: `[batch, heads, queries, keys]`, f32.
///
/// # Errors
/// If the device cannot hold the scores.
pub(crate) fn all_scores<B: Backend>(
    inputs: &AttentionInputs<B>,
    rows: &dyn RowScorer,
) -> Result<Tensor<B, 4>, AttentionError> {
    check_scores(inputs)?;
    let shape = inputs.mask_shape();
    let group = shape.heads / inputs.kv_heads();
    let mut scores = vec![0f32; shape.pairs()];
    scores.par_chunks_mut(group * shape.queries * shape.keys).enumerate().for_each(|(kv_head, scores)| {
        let mut of_group = vec![0f32; group * shape.keys];
        for query in 0..shape.queries {
            rows.score_group(kv_head, query, &mut of_group);
            for (head, from) in of_group.chunks_exact(shape.keys).enumerate() {
                let at = (head * shape.queries + query) * shape.keys;
                scores[at..at + shape.keys].copy_from_slice(from);
            }
        }
    });
    let scores = Tensor::from_data(TensorData::new(scores, shape.dims()), (&inputs.device(), DType::F32));
    Ok(with_bias(inputs, scores))
}

/// Adds the bias of the visibility to scores, if there is one.
fn with_bias<B: Backend>(inputs: &AttentionInputs<B>, scores: Tensor<B, 4>) -> Tensor<B, 4> {
    let shape = inputs.mask_shape();
    match inputs.visibility().bias(0..shape.queries, &[shape.all_keys()], scores.dtype()) {
        Some(bias) => scores + bias,
        None => scores,
    }
}

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Packs one bit for each number, 64 to a word. The bit is set if the number is above 0.
pub(crate) fn pack(numbers: &[f32]) -> impl Iterator<Item = u64> + '_ {
    let word = |numbers: &[f32]| (0..).zip(numbers).fold(0u64, |word, (bit, &x)| word | (u64::from(x > 0.0) << bit));
    numbers.chunks(64).map(word)
}
