use burn::tensor::{Tensor, backend::Backend};

use super::Scorer;
use crate::{
    attention::{AttentionError, AttentionInputs, scores::logits},
    masker::LayerState,
};

/// The exact logits: scaled products of queries and keys, plus the bias. It costs as much as dense attention, and shows
/// how good a selector is when nothing is guessed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Oracle;

impl<B: Backend> Scorer<B> for Oracle {
    fn score(&self, inputs: &AttentionInputs<B>, _state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        let shape = inputs.mask_shape();
        let all = 0..shape.keys;
        Ok(logits(inputs, 0..shape.queries, &[all]))
    }
}
