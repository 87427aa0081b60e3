//! Work on one row of keys at a time, on the host: selection and sampling.

use burn::tensor::{Tensor, backend::Backend};
use rayon::prelude::*;

use crate::{
    attention::AttentionInputs,
    mask::{Kept, Mask},
};

/// The scores of the keys that a selector may still choose: visible and not yet kept. Minus infinity elsewhere.
pub(crate) fn candidate_scores<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    scores: Tensor<B, 4>,
) -> Vec<f32> {
    let shape = mask.shape();
    let dims = shape.dims();
    let hidden = inputs.visibility().hidden(shape, 0..shape.queries, &[shape.all_keys()], &mask.device());
    let scores = match hidden {
        Some(hidden) => scores.mask_fill(hidden.expand(dims), f32::NEG_INFINITY),
        None => scores,
    };
    let scores = match mask.is_empty() {
        true => scores,
        false => scores.mask_fill(mask.to_dense().greater_elem(0.0), f32::NEG_INFINITY),
    };
    host(scores)
}

pub(crate) fn host<B: Backend>(tensor: Tensor<B, 4>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().iter::<f32>().collect()
}

/// What `work` makes of each row, given the row's number and its scores; rows are worked in parallel.
pub(crate) fn by_row<T: Send>(scores: &[f32], keys: usize, work: impl Fn(usize, &[f32]) -> T + Sync) -> Vec<T> {
    scores.par_chunks(keys).enumerate().map(|(row, scores)| work(row, scores)).collect()
}

/// The mask with what `choose` adds to each row, given the row's number and its scores; `choose` must not add a key
/// that the mask keeps.
pub(crate) fn add_by_row<B: Backend>(
    mask: &Mask<B>,
    scores: &[f32],
    choose: impl Fn(usize, &[f32]) -> Vec<Kept> + Sync,
) -> Mask<B> {
    mask.merge_disjoint(&by_row(scores, mask.shape().keys, choose))
}

/// The keys that can be chosen, by falling score; the lower key first among equals.
pub(crate) fn by_falling_score(scores: &[f32]) -> impl Fn(&u32, &u32) -> std::cmp::Ordering + '_ {
    |&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b))
}

/// The keys with a score above minus infinity, in ascending order. (A score that is not a number is never chosen.)
pub(crate) fn candidates(scores: &[f32]) -> Vec<u32> {
    (0..scores.len() as u32).filter(|&key| scores[key as usize] > f32::NEG_INFINITY).collect()
}
