use burn::{
    module::Module,
    nn::{RmsNorm, RmsNormConfig},
    tensor::{Tensor, backend::Backend},
};

use super::{Architecture, GatedFeedForward, LanguageModelConfig};
use crate::{
    config::ConfigError,
    method::MaskerChain,
    nn::{AttentionHook, GqaInput, GroupedQueryAttention, KvCache},
    problem::AttentionError,
};

/// A layer of a [LanguageModel](super::LanguageModel): attention and a feed-forward network, each with a norm before it
/// and a residual connection. Gemma 2 also has a norm after each.
#[derive(Module, Debug)]
pub struct DecoderLayer<B: Backend> {
    /// The norm before attention.
    pub input_norm: RmsNorm<B>,
    /// Attention, with the sparse method of the layer.
    pub attention: GroupedQueryAttention<B>,
    /// The norm after attention (Gemma 2).
    pub attention_output_norm: Option<RmsNorm<B>>,
    /// The norm before the feed-forward network.
    pub feed_forward_norm: RmsNorm<B>,
    /// The feed-forward network.
    pub feed_forward: GatedFeedForward<B>,
    /// The norm after the feed-forward network (Gemma 2).
    pub feed_forward_output_norm: Option<RmsNorm<B>>,
}

impl<B: Backend> DecoderLayer<B> {
    /// A layer with random weights.
    pub(super) fn new(
        config: &LanguageModelConfig,
        layer: usize,
        method: MaskerChain<B>,
        device: &B::Device,
    ) -> Result<Self, ConfigError> {
        let norm = || RmsNormConfig::new(config.hidden_size).with_epsilon(config.norm_epsilon).init(device);
        let output_norm = || (config.architecture == Architecture::Gemma2).then(norm);
        let sizes = [config.hidden_size, config.intermediate_size];
        Ok(Self {
            input_norm: norm(),
            attention: config.attention(layer).init_with(method, device)?,
            attention_output_norm: output_norm(),
            feed_forward_norm: norm(),
            feed_forward: GatedFeedForward::new(sizes, config.feed_forward_bias, config.activation, device),
            feed_forward_output_norm: output_norm(),
        })
    }

    /// The output for new tokens.
    ///
    /// # Shapes
    /// - input: `[batch, tokens, hidden]`, a tensor or a [GqaInput] with padding, positions and the phase.
    /// - output: the same
    ///
    /// # Errors
    /// As [GroupedQueryAttention::forward_hooked]. The cache is then unchanged.
    pub fn forward(
        &self,
        input: impl Into<GqaInput<B>>,
        cache: &mut KvCache<B>,
        hook: &mut dyn AttentionHook<B>,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        let normed = |norm: &Option<RmsNorm<B>>, x: Tensor<B, 3>| match norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let input = input.into();
        let before = input.tensor().clone();
        let input = input.with_tensor(self.input_norm.forward(before.clone()));
        let attended = self.attention.forward_hooked(input, cache, hook)?;
        let hidden = before + normed(&self.attention_output_norm, attended);
        let fed = self.feed_forward.forward(self.feed_forward_norm.forward(hidden.clone()));
        Ok(hidden + normed(&self.feed_forward_output_norm, fed))
    }
}
