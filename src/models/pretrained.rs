use std::{ops::ControlFlow, path::Path};

use burn::tensor::{DType, backend::Backend};

use super::{
    Generated, GenerationConfig, LanguageModel, LanguageModelCache, ModelError, StopReason, StopStrings, Tokenizer,
};
use crate::{method::MaskerChainConfig, nn::AttentionHook};

/// The content of a HuggingFace folder: a model, its tokenizer, and its generation configuration.
///
/// # Example
/// ```no_run
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::DType;
/// use burn_flex::Flex;
/// use sparse_attention_hub::{method::MaskerChainConfig, models::Pretrained, nn::AttentionMode};
///
/// let method = MaskerChainConfig::from_file("configs/streaming_llm.json")?;
/// let pretrained = Pretrained::<Flex>::from_directory("folder", &method, DType::F32, &Default::default())?;
/// let mut cache = pretrained.model.cache(42);
/// let prompt = pretrained.tokenizer.encode("The file system is", true)?;
/// let modes: [&mut dyn sparse_attention_hub::nn::AttentionHook<Flex>; 2] =
///     [&mut AttentionMode::Dense, &mut AttentionMode::Sparse];
/// let written = pretrained.write(&prompt, &mut cache, &pretrained.generation, modes, &mut |text| print!("{text}"))?;
/// assert!(written.generated.tokens.len() <= 64);
/// # }
/// # Ok::<(), sparse_attention_hub::models::ModelError>(())
/// ```
pub struct Pretrained<B: Backend> {
    /// The model.
    pub model: LanguageModel<B>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The generation configuration.
    pub generation: GenerationConfig,
}

/// A text that continues a prompt.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Written {
    /// The text up to the first [stop string](GenerationConfig::stop), without special tokens.
    pub text: String,
    /// The generated tokens.
    pub generated: Generated,
}

impl<B: Backend> Pretrained<B> {
    /// Loads a folder with [LanguageModel::from_directory], [Tokenizer::from_directory] and
    /// [GenerationConfig::from_directory].
    ///
    /// # Errors
    /// As these functions, or if the tokenizer belongs to another model.
    pub fn from_directory(
        directory: impl AsRef<Path>,
        method: &MaskerChainConfig,
        dtype: DType,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let directory = directory.as_ref();
        let model = LanguageModel::from_directory(directory, method, dtype, device)?;
        let tokenizer = Tokenizer::from_directory(directory)?;
        tokenizer.check_vocabulary(model.config().vocab_size)?;
        let generation = GenerationConfig::from_directory(directory, model.config())?;
        Ok(Self { model, tokenizer, generation })
    }

    /// Continues a prompt as [LanguageModel::generate] does, and calls `on_text` with each new piece of text.
    ///
    /// # Errors
    /// As [LanguageModel::generate], or if the tokens cannot be decoded.
    pub fn write(
        &self,
        prompt: &[u32],
        cache: &mut LanguageModelCache<B>,
        config: &GenerationConfig,
        hooks: [&mut dyn AttentionHook<B>; 2],
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Written, ModelError> {
        let (mut stream, mut stop, mut text) = (self.tokenizer.stream(), StopStrings::new(&config.stop), String::new());
        let mut out = |part: &str| {
            if !part.is_empty() {
                text.push_str(part);
                on_text(part);
            }
        };
        let generated = self.model.generate(prompt, cache, config, hooks, &mut |token| {
            out(stop.push(&stream.push(token)?));
            Ok(if stop.found() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if !stop.found() {
            out(stop.push(&stream.finish()?));
            out(stop.finish());
        }
        let reason = if stop.found() { StopReason::Stopped } else { generated.reason };
        Ok(Written { text, generated: Generated { reason, ..generated } })
    }
}
