use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::{super::HashAttentionTopKConfig, EfficientAttention, SinkLocalHeavy};
use crate::{
    config::{ConfigError, Size},
    masker::{MaskerConfig, TopK},
    problem::{AttentionError, AttentionInputs, AttentionOutput, Requested},
    scorer::Context,
    state::LayerState,
};

/// Configuration of [HashAttention].
///
/// ```json
/// {"sink_size": 128, "window_size": 128,
///  "top_k": {"heavy_size": 0.05, "hat_bits": 32, "hat_mlp_layers": 3, "hat_mlp_hidden_size": 128,
///            "hat_mlp_activation": "silu", "hat_weights": "hash_weights.safetensors", "share_group": true}}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashAttentionConfig {
    /// How many of the first keys every query keeps.
    pub sink_size: Size,
    /// How many keys every query keeps up to and including its own position.
    pub window_size: Size,
    /// The selector of the heavy keys.
    pub top_k: HashAttentionTopKConfig,
}

impl HashAttentionConfig {
    /// Builds the method with the weights that the configuration names.
    ///
    /// # Errors
    /// If a value is not allowed, or the file with the weights cannot be used.
    pub fn init<B: Backend>(&self, context: &Context<B>) -> Result<HashAttention<B>, ConfigError> {
        HashAttention::new(self.sink_size, self.window_size, self.top_k.init(context)?)
    }
}

/// A sink, a window, and the keys whose learned signatures agree most with the query's
/// ([HashAttention](https://arxiv.org/abs/2412.14468)).
///
/// A step reads `hat_bits / 8` bytes of each key for each query head, and the keys and values that it keeps. Should be
/// created with [HashAttentionConfig].
#[derive(Debug)]
pub struct HashAttention<B: Backend> {
    parts: SinkLocalHeavy<B>,
}

impl<B: Backend> HashAttention<B> {
    /// The method with a given selector, over [hash scores](crate::scorer::Hash).
    ///
    /// # Errors
    /// If a size is neither a count of at least 1 nor a fraction in (0, 1].
    pub fn new(sink_size: Size, window_size: Size, top_k: TopK<B>) -> Result<Self, ConfigError> {
        Ok(Self { parts: SinkLocalHeavy::new(sink_size, window_size, top_k)? })
    }
}

impl<B: Backend> EfficientAttention<B> for HashAttention<B> {
    fn forward(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        requested: Requested,
    ) -> Result<AttentionOutput<B>, AttentionError> {
        self.parts.forward(inputs, state, requested)
    }
}
