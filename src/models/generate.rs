use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use burn::tensor::{Tensor, backend::Backend};

use super::{GenerationConfig, LanguageModel, LanguageModelCache, ModelError, NextToken};
use crate::{attention::Phase, nn::AttentionHook};

/// How many tokens of a prompt go through the model at once, unless it is said otherwise.
pub const PREFILL_CHUNK: usize = 1024;

/// Tokens that continue a prompt.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Generated {
    /// The tokens, the one that ends the sequence among them.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub reason: StopReason,
    /// The time from the prompt to the first token.
    pub prefill: Duration,
    /// The time of all tokens after the first.
    pub decode: Duration,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// A token came that ends the sequence.
    EndToken,
    /// As many tokens came as were asked for.
    Length,
    /// The model has no further position.
    Positions,
    /// A text came after which nothing was wanted, or the caller wanted no more.
    Stopped,
}

impl<B: Backend> LanguageModel<B> {
    /// The vector after the last of the next tokens, which go through the model in chunks: no more than `chunk` tokens at
    /// once are in the vectors between the layers, and logits are made of nothing that is not asked for. All of them are of
    /// the phase [Prefill](Phase::Prefill), also a chunk of one token.
    ///
    /// # Shapes
    /// - output: `[1, 1, hidden_size]`
    ///
    /// # Errors
    /// As [forward](Self::forward). The cache then holds what it held before.
    pub fn prefill(
        &self,
        tokens: &[u32],
        cache: &mut LanguageModelCache<B>,
        chunk: usize,
        hook: &mut dyn AttentionHook<B>,
    ) -> Result<Tensor<B, 3>, ModelError> {
        let before = cache.len();
        // As a whole first: nothing is computed of a sequence that is too long.
        self.check(tokens, before)?;
        let mut last = Err(ModelError::NoTokens);
        for chunk in tokens.chunks(chunk.max(1)) {
            last = self.forward_in_phase(Phase::Prefill, chunk, cache, hook).map(|hidden| {
                let [_, count, _] = hidden.dims();
                hidden.slice_dim(1, count - 1..count)
            });
            if last.is_err() {
                cache.truncate(before).map_err(|source| ModelError::Layer { layer: 0, source })?;
                break;
            }
        }
        last
    }

    /// The logits of the token that comes after a vector, on the host.
    ///
    /// # Shapes
    /// - hidden: `[1, 1, hidden_size]`
    /// - output: `vocab_size` numbers
    pub fn next_logits(&self, hidden: Tensor<B, 3>) -> Vec<f32> {
        self.logits(hidden).into_data().convert::<f32>().iter::<f32>().collect()
    }

    /// Continues a prompt after what is in the cache: `prompt` goes through the model under the hook `prefill`, and each
    /// new token under `decode`. These are also the phases for which the methods of the layers are asked. `on_token` is called with each, and may stop. In the end the cache holds the prompt and
    /// all new tokens but the last.
    ///
    /// # Errors
    /// As [forward](Self::forward), or if the logits are not numbers. The tokens that went through the model before are
    /// then in the cache.
    pub fn generate(
        &self,
        prompt: &[u32],
        cache: &mut LanguageModelCache<B>,
        config: &GenerationConfig,
        [prefill, decode]: [&mut dyn AttentionHook<B>; 2],
        on_token: &mut dyn FnMut(u32) -> Result<ControlFlow<()>, ModelError>,
    ) -> Result<Generated, ModelError> {
        let mut next = NextToken::new(config);
        let (mut all, started) = (prompt.to_vec(), Instant::now());
        let mut hidden = self.prefill(prompt, cache, PREFILL_CHUNK, prefill)?;
        let (mut first, mut reason) = (None, StopReason::Length);
        while all.len() - prompt.len() < config.max_new_tokens {
            let token = next.pick(self.next_logits(hidden), &all)?;
            first.get_or_insert_with(Instant::now);
            all.push(token);
            let wanted = on_token(token)?;
            if config.end_tokens.contains(&token) {
                reason = StopReason::EndToken;
                break;
            }
            if wanted.is_break() {
                reason = StopReason::Stopped;
                break;
            }
            if all.len() - prompt.len() == config.max_new_tokens {
                break;
            }
            if cache.len() == self.config().max_positions {
                reason = StopReason::Positions;
                break;
            }
            hidden = self.forward_in_phase(Phase::Decode, &[token], cache, decode)?;
        }
        let first = first.unwrap_or_else(Instant::now);
        Ok(Generated { tokens: all.split_off(prompt.len()), reason, prefill: first - started, decode: first.elapsed() })
    }
}
