use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorData, activation::log_softmax, backend::Backend};

use crate::{
    models::{LanguageModel, ModelError, PREFILL_CHUNK},
    nn::AttentionHook,
    problem::Phase,
};

/// How well a model predicts a text through a method, measured in windows that do not overlap.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Perplexity {
    /// For each window, the mean of `-ln p` over the predicted tokens.
    pub windows: Vec<f64>,
    /// The number of predicted tokens in each window.
    pub tokens: usize,
}

/// Configuration of the measurement of [Perplexity].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerplexityConfig {
    /// The number of tokens of a window, including the token that begins the sequence.
    pub length: usize,
    /// The number of tokens at the beginning of a window that are read with dense attention and not predicted. The
    /// first token is never predicted, so that 0 and 1 predict the same tokens.
    pub dense_prefix: usize,
    /// The largest number of windows.
    pub windows: usize,
}

/// The largest number of logits that are computed at once.
const LOGITS: usize = 1 << 22;

impl Perplexity {
    /// Measures a model on the tokens of a text, which must not include a token that begins a sequence.
    ///
    /// If `begin` is given, each window is this token followed by `length - 1` tokens of the text. The dense prefix
    /// attends through the first hook, and the tokens after it attend through the second hook, in chunks. `progress` is
    /// called after each window.
    ///
    /// The tokens after the prefix stand for tokens that a model generates one by one: of a method with phases, they run
    /// `decode`.
    ///
    /// # Errors
    /// If the text has fewer tokens than a window, no token of a window is left to predict, or the model cannot take a
    /// window.
    pub fn measure<B: Backend>(
        model: &LanguageModel<B>,
        begin: Option<u32>,
        text: &[u32],
        config: PerplexityConfig,
        [prefix, after]: [&mut dyn AttentionHook<B>; 2],
        mut progress: impl FnMut(),
    ) -> Result<Self, ModelError> {
        let PerplexityConfig { length, dense_prefix, windows } = config;
        let of_text = length.saturating_sub(begin.iter().len());
        let first = dense_prefix.max(1);
        if of_text == 0 || length <= first || windows == 0 || text.len() < of_text {
            let value = format!("{config:?} of a text of {} tokens", text.len());
            let allowed = "windows no longer than the text, and longer than their dense prefix".to_owned();
            return Err(ModelError::Value { field: "windows", value, allowed });
        }
        let mut cache = model.cache(0);
        let mut found = Vec::new();
        for text in text.chunks_exact(of_text).take(windows) {
            let window = begin.into_iter().chain(text.iter().copied()).collect::<Vec<_>>();
            cache.reset();
            let (mut sum, mut last) = (0.0, None);
            if dense_prefix > 0 {
                last = Some(model.prefill(&window[..dense_prefix], &mut cache, PREFILL_CHUNK, &mut *prefix)?);
            }
            // The hidden vector of a token predicts the next token. The last token of a window has no next token.
            let mut at = dense_prefix;
            if let Some(hidden) = last {
                sum += surprise(model, hidden, &window[at..at + 1]);
            }
            while at + 1 < window.len() {
                let chunk: Range<usize> = at..(at + PREFILL_CHUNK).min(window.len() - 1);
                let part = &window[chunk.clone()];
                let hidden = model.forward_in_phase(Phase::Decode, part, &mut cache, &mut *after)?;
                sum += surprise(model, hidden, &window[chunk.start + 1..chunk.end + 1]);
                at = chunk.end;
            }
            found.push(sum / (length - first) as f64);
            progress();
        }
        Ok(Self { windows: found, tokens: length - first })
    }

    /// The mean of `-ln p` over all windows.
    pub fn mean(&self) -> f64 {
        self.windows.iter().sum::<f64>() / self.windows.len().max(1) as f64
    }

    /// The perplexity, `exp` of the [mean](Self::mean).
    pub fn value(&self) -> f64 {
        self.mean().exp()
    }
}

/// The sum of `-ln p` of the tokens `next`, which follow the hidden vectors `[1, tokens, hidden_size]`.
fn surprise<B: Backend>(model: &LanguageModel<B>, hidden: Tensor<B, 3>, next: &[u32]) -> f64 {
    let device = hidden.device();
    let rows = (LOGITS / model.config().vocab_size).max(1);
    let mut sum = 0.0;
    for (part, next) in next.chunks(rows).enumerate() {
        let hidden = hidden.clone().slice_dim(1, part * rows..part * rows + next.len());
        let logits = model.logits(hidden).cast(DType::F32);
        let numbers = next.iter().map(|&token| i64::from(token)).collect::<Vec<_>>();
        let tokens = Tensor::<B, 3, Int>::from_data(TensorData::new(numbers, [1, next.len(), 1]), &device);
        let chosen = log_softmax(logits, 2).gather(2, tokens);
        sum -= chosen.into_data().convert::<f64>().iter::<f64>().sum::<f64>();
    }
    sum
}
