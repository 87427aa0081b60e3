use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use burn::tensor::{Tensor, backend::Backend};

use super::{GenerationConfig, LanguageModel, LanguageModelCache, ModelError, NextToken};
use crate::{nn::AttentionHook, problem::Phase};

/// The default number of prompt tokens that go through the model at once.
pub const PREFILL_CHUNK: usize = 1024;

/// The tokens that continue a prompt.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Generated {
    /// The tokens, including the token that ends the sequence.
    pub tokens: Vec<u32>,
    /// Why generation stopped.
    pub reason: StopReason,
    /// The time from the prompt to the first token.
    pub prefill: Duration,
    /// The time of all tokens after the first token.
    pub decode: Duration,
}

/// Why generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// A token that ends the sequence was generated.
    EndToken,
    /// The requested number of tokens was generated.
    Length,
    /// The model has no more positions.
    Positions,
    /// A stop string was generated, or the caller stopped generation.
    Stopped,
}

impl<B: Backend> LanguageModel<B> {
    /// Runs the next tokens through the model and returns the hidden vector of the last token. The tokens go through
    /// the model in chunks of at most `chunk` tokens, which limits the memory of the hidden vectors. No logits are
    /// computed. The [phase](Phase) of all chunks is `Prefill`, also of a chunk of one token.
    ///
    /// # Shapes
    /// - output: `[1, 1, hidden_size]`
    ///
    /// # Errors
    /// As [forward](Self::forward). The cache is then unchanged.
    pub fn prefill(
        &self,
        tokens: &[u32],
        cache: &mut LanguageModelCache<B>,
        chunk: usize,
        hook: &mut dyn AttentionHook<B>,
    ) -> Result<Tensor<B, 3>, ModelError> {
        let before = cache.len();
        // The whole sequence is checked first, so that nothing is computed for a sequence that is too long.
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

    /// The logits of the token after a hidden vector, on the host.
    ///
    /// # Shapes
    /// - hidden: `[1, 1, hidden_size]`
    /// - output: `vocab_size` numbers
    pub fn next_logits(&self, hidden: Tensor<B, 3>) -> Vec<f32> {
        self.logits(hidden).into_data().convert::<f32>().iter::<f32>().collect()
    }

    /// Continues a prompt after the tokens in the cache. The prompt goes through the model with the hook `prefill`, and
    /// each new token with the hook `decode`. These are also the [phases](Phase) of the calls. `on_token` is called
    /// with each new token and may stop generation. At the end the cache holds the prompt and all new tokens except the
    /// last.
    ///
    /// # Errors
    /// As [forward](Self::forward), or if a logit is NaN. The cache then holds the tokens that went through the model
    /// before the error.
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
