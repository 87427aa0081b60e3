use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::{super::DoubleSparsityTopKConfig, EfficientAttention, SinkLocalHeavy};
use crate::{
    config::{ConfigError, Size},
    masker::{MaskerConfig, TopK},
    problem::{AttentionError, AttentionInputs, AttentionOutput, Requested},
    scorer::Context,
    state::LayerState,
};

/// Configuration of [DoubleSparsity].
///
/// ```json
/// {"sink_size": 128, "window_size": 128,
///  "top_k": {"heavy_size": 0.05, "sorted_channel_file": "channels.json", "group_factor": 8, "label_bits": 4,
///            "channel_selection": "qk_proj", "share_group": true}}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoubleSparsityConfig {
    /// How many of the first keys every query keeps.
    pub sink_size: Size,
    /// How many keys every query keeps up to and including its own position.
    pub window_size: Size,
    /// The selector of the heavy keys.
    pub top_k: DoubleSparsityTopKConfig,
}

impl DoubleSparsityConfig {
    /// Builds the method with the channels that the configuration names.
    ///
    /// # Errors
    /// If a value is not allowed, or the channel file cannot be used.
    pub fn init<B: Backend>(&self, context: &Context<B>) -> Result<DoubleSparsity<B>, ConfigError> {
        DoubleSparsity::new(self.sink_size, self.window_size, self.top_k.init(context)?)
    }
}

/// A sink, a window, and the keys with the largest products over a few outlier channels
/// ([Double Sparsity](https://arxiv.org/abs/2408.07092)).
///
/// A step reads `head_dim / group_factor` channels of each key for each query head, and the keys and values that it
/// keeps. With up to 8 `label_bits`, each channel takes one byte, and each key takes eight bytes more. Should be
/// created with [DoubleSparsityConfig].
#[derive(Debug)]
pub struct DoubleSparsity<B: Backend> {
    parts: SinkLocalHeavy<B>,
}

impl<B: Backend> DoubleSparsity<B> {
    /// The method with a given selector, over [outlier channels](crate::scorer::Channels).
    ///
    /// # Errors
    /// If a size is neither a count of at least 1 nor a fraction in (0, 1].
    pub fn new(sink_size: Size, window_size: Size, top_k: TopK<B>) -> Result<Self, ConfigError> {
        Ok(Self { parts: SinkLocalHeavy::new(sink_size, window_size, top_k)? })
    }
}

impl<B: Backend> EfficientAttention<B> for DoubleSparsity<B> {
    fn forward(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        requested: Requested,
    ) -> Result<AttentionOutput<B>, AttentionError> {
        self.parts.forward(inputs, state, requested)
    }
}
