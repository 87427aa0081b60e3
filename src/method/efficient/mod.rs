//! Attention that reads only the kept keys and values. The output is the same as that of `ResearchAttention` with the
//! same maskers. No tensor of the size of all query-key pairs is computed, unless the visibility is such a tensor.

mod double_sparsity;
mod hash_attention;

use burn::tensor::backend::Backend;

pub use double_sparsity::{DoubleSparsity, DoubleSparsityConfig};
pub use hash_attention::{HashAttention, HashAttentionConfig};

use crate::{
    attention::masked_attention,
    config::{ConfigError, Size},
    mask::{Mask, Pattern},
    masker::TopK,
    problem::{AttentionError, AttentionInputs, AttentionOutput, Requested},
    state::LayerState,
};

/// A sparse method made for decoding: a sink, a window, and the heavy keys that a scorer finds.
///
/// Scores are computed for one GQA group at a time, and attention reads the kept keys and values only. The scorer's
/// memory of the keys is in the state. Each step adds the new keys to it.
pub trait EfficientAttention<B: Backend> {
    /// Attention over the kept keys.
    ///
    /// If the visibility is a tensor over all pairs, the scores of all pairs are computed too.
    ///
    /// # Errors
    /// If the scorer cannot work with the inputs.
    fn forward(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        requested: Requested,
    ) -> Result<AttentionOutput<B>, AttentionError>;
}

/// The parts that the methods have in common.
#[derive(Debug)]
struct SinkLocalHeavy<B: Backend> {
    sink: Size,
    window: Size,
    heavy: TopK<B>,
}

impl<B: Backend> SinkLocalHeavy<B> {
    fn new(sink: Size, window: Size, heavy: TopK<B>) -> Result<Self, ConfigError> {
        sink.validate_positive("sink_size")?;
        window.validate_positive("window_size")?;
        Ok(Self { sink, window, heavy })
    }

    fn forward(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        requested: Requested,
    ) -> Result<AttentionOutput<B>, AttentionError> {
        let (shape, device) = (inputs.mask_shape(), inputs.device());
        let (sink, window) = (self.sink.of(shape.keys), self.window.of(shape.keys));
        if sink.max(window) >= shape.keys {
            return masked_attention(inputs, &Mask::full(shape, &device), requested);
        }
        let pattern = Pattern { sink, window, offset: inputs.offset() };
        let kept = Mask::pattern(shape, pattern, &device);
        let mask = match self.heavy.choose(inputs, state, &kept)? {
            None => Mask::full(shape, &device),
            Some(chosen) => Mask::from_chosen(shape, Some(pattern), &chosen, &device),
        };
        masked_attention(inputs, &mask, requested)
    }
}
