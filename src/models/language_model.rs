use std::path::Path;

use burn::{
    module::{Content, DisplaySettings, Module, ModuleDisplay},
    nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig},
    tensor::{DType, Int, Tensor, TensorData, backend::Backend},
};

use super::{
    Architecture, DecoderLayer, LanguageModelCache, LanguageModelConfig, ModelError, checkpoint::Checkpoint, weights,
};
use crate::{
    method::MaskerChainConfig,
    nn::{AttentionHook, GqaInput},
    problem::Phase,
};

/// A language model of the Llama family whose layers attend through sparse methods.
///
/// Should be loaded with [from_directory](Self::from_directory).
///
/// # Example
/// ```no_run
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::DType;
/// use burn_flex::Flex;
/// use sparse_attention_hub::{method::MaskerChainConfig, models::LanguageModel, nn::AttentionMode};
///
/// let method = MaskerChainConfig::from_file("configs/streaming_llm.json")?;
/// let model = LanguageModel::<Flex>::from_directory("folder", &method, DType::F32, &Default::default())?;
/// let mut cache = model.cache(42);
/// // The context uses dense attention. The tokens after it attend through the method.
/// model.forward(&[0, 517, 481], &mut cache, &mut AttentionMode::Dense)?;
/// let hidden = model.forward(&[822], &mut cache, &mut AttentionMode::Sparse)?;
/// assert_eq!(model.logits(hidden).dims()[..2], [1, 1]);
/// # }
/// # Ok::<(), sparse_attention_hub::models::ModelError>(())
/// ```
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct LanguageModel<B: Backend> {
    /// Token embeddings.
    pub embedding: Embedding<B>,
    /// The layers, in order.
    pub layers: Vec<DecoderLayer<B>>,
    /// The norm after the last layer.
    pub norm: RmsNorm<B>,
    /// The projection to logits. `None` if the embedding matrix is used for it.
    pub head: Option<Linear<B>>,
    #[module(skip)]
    config: LanguageModelConfig,
}

impl LanguageModelConfig {
    /// Initialises a model with random weights. Each layer gets the method, with the learned parts for that layer.
    ///
    /// # Errors
    /// If the method cannot be built, or the sizes do not fit each other.
    pub fn init<B: Backend>(
        &self,
        method: &MaskerChainConfig,
        device: &B::Device,
    ) -> Result<LanguageModel<B>, ModelError> {
        let layer = |layer| DecoderLayer::new(self, layer, method.init_for_layer(layer, device)?, device);
        Ok(LanguageModel {
            embedding: EmbeddingConfig::new(self.vocab_size, self.hidden_size).init(device),
            layers: (0..self.layers()).map(layer).collect::<Result<_, _>>()?,
            norm: RmsNormConfig::new(self.hidden_size).with_epsilon(self.norm_epsilon).init(device),
            head: (!self.tied_embeddings)
                .then(|| LinearConfig::new(self.hidden_size, self.vocab_size).with_bias(false).init(device)),
            config: self.clone(),
        })
    }
}

impl<B: Backend> LanguageModel<B> {
    /// Loads the model of a folder: `config.json`, and `model.safetensors` or the files of
    /// `model.safetensors.index.json`. The model computes in `dtype`, whatever the type of the stored weights is.
    ///
    /// # Errors
    /// If the folder, a file or the method cannot be used, the architecture is not supported, the backend does not
    /// compute in the type, or the weights do not fit the configuration. In the last case the error names all
    /// differences.
    pub fn from_directory(
        directory: impl AsRef<Path>,
        method: &MaskerChainConfig,
        dtype: DType,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let directory = directory.as_ref();
        if let Err(source) = std::fs::read_dir(directory) {
            return Err(ModelError::Directory { path: directory.to_owned(), source });
        }
        let is_real = matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16);
        if !is_real || !B::supports_dtype(device, dtype) {
            return Err(ModelError::NumberType { backend: B::name(device), dtype: format!("{dtype:?}") });
        }
        let config = LanguageModelConfig::from_directory(directory)?;
        let model = config.init(method, device)?;
        weights::load(model, Checkpoint::open(directory)?, &config, dtype)
    }

    /// The configuration.
    pub fn config(&self) -> &LanguageModelConfig {
        &self.config
    }

    /// An empty cache for the model. The methods draw random numbers from the seed.
    pub fn cache(&self, seed: u64) -> LanguageModelCache<B> {
        LanguageModelCache::new(self.layers.len(), seed)
    }

    /// Sets the method of the layers.
    ///
    /// # Errors
    /// If the method cannot be built. The model then keeps its previous method.
    pub fn set_method(&mut self, method: &MaskerChainConfig) -> Result<(), ModelError> {
        let device = self.embedding.weight.device();
        let chains = (0..self.layers.len()).map(|layer| method.init_for_layer(layer, &device));
        let chains = chains.collect::<Result<Vec<_>, _>>()?;
        for (layer, chain) in self.layers.iter_mut().zip(chains) {
            layer.attention.maskers.0 = chain;
        }
        Ok(())
    }

    /// The hidden vectors of the next tokens of one sequence, after the last norm. The tokens are appended to the
    /// cache. They can be a prefill, a chunk of a prefill, or a decode step. [logits](Self::logits) computes logits
    /// from these vectors.
    ///
    /// For methods with phases, the first call with an empty cache is a prefill. A later call is decoding if it has one
    /// token, and a prefill if it has more. [forward_in_phase](Self::forward_in_phase) takes the phase as an argument.
    ///
    /// # Shapes
    /// - output: `[1, tokens, hidden_size]`
    ///
    /// # Errors
    /// If there are no tokens, a token is not in the vocabulary, the sequence becomes longer than the model's
    /// positions, or the method cannot work with a layer. The cache then holds the same tokens as before, but a method
    /// may have drawn random numbers.
    pub fn forward(
        &self,
        tokens: &[u32],
        cache: &mut LanguageModelCache<B>,
        hook: &mut dyn AttentionHook<B>,
    ) -> Result<Tensor<B, 3>, ModelError> {
        self.forward_in_phase(Phase::of_call(cache.is_empty(), tokens.len()), tokens, cache, hook)
    }

    /// [forward](Self::forward) in a given phase. For example, the drafts of speculative decoding are several tokens in the
    /// phase `Decode`, and the last chunk of a prompt can be one token in the phase `Prefill`.
    ///
    /// # Shapes
    /// As [forward](Self::forward).
    ///
    /// # Errors
    /// As [forward](Self::forward).
    pub fn forward_in_phase(
        &self,
        phase: Phase,
        tokens: &[u32],
        cache: &mut LanguageModelCache<B>,
        hook: &mut dyn AttentionHook<B>,
    ) -> Result<Tensor<B, 3>, ModelError> {
        self.check(tokens, cache.len())?;
        let device = self.embedding.weight.device();
        let numbers = tokens.iter().map(|&token| i64::from(token)).collect::<Vec<_>>();
        let tokens = Tensor::<B, 2, Int>::from_data(TensorData::new(numbers, [1, tokens.len()]), &device);
        let mut hidden = self.embedding.forward(tokens);
        if self.config.architecture == Architecture::Gemma2 {
            hidden = hidden * (self.config.hidden_size as f64).sqrt();
        }
        let before = cache.len();
        for (index, layer) in self.layers.iter().enumerate() {
            let input = GqaInput::new(hidden).phase(phase);
            hidden = match layer.forward(input, &mut cache.layers_mut()[index], hook) {
                Ok(hidden) => hidden,
                Err(source) => {
                    let source = cache.truncate(before).err().unwrap_or(source);
                    return Err(ModelError::Layer { layer: index, source });
                }
            };
        }
        Ok(self.norm.forward(hidden))
    }

    /// The logits of the next token for hidden vectors of [forward](Self::forward).
    ///
    /// # Shapes
    /// - hidden: `[batch, tokens, hidden_size]`
    /// - output: `[batch, tokens, vocab_size]`
    pub fn logits(&self, hidden: Tensor<B, 3>) -> Tensor<B, 3> {
        let logits = match &self.head {
            Some(head) => head.forward(hidden),
            None => {
                // Multiplies matrices, because some backends copy a transposed tensor with more than two dimensions.
                let [batch, tokens, hidden_size] = hidden.dims();
                let rows = hidden.reshape([batch * tokens, hidden_size]);
                rows.matmul(self.embedding.weight.val().transpose()).reshape([batch, tokens, self.config.vocab_size])
            }
        };
        match self.config.final_softcap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// Checks that these tokens can follow `before` cached tokens.
    pub(super) fn check(&self, tokens: &[u32], before: usize) -> Result<(), ModelError> {
        let (vocabulary, positions) = (self.config.vocab_size, self.config.max_positions);
        if tokens.is_empty() {
            return Err(ModelError::NoTokens);
        }
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            return Err(ModelError::Token { token, vocabulary });
        }
        match before + tokens.len() {
            length if length > positions => Err(ModelError::TooLong { tokens: length, positions }),
            _ => Ok(()),
        }
    }
}

impl<B: Backend> ModuleDisplay for LanguageModel<B> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(true).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content
            .add("architecture", &self.config.architecture.name().to_owned())
            .add("embedding", &self.embedding)
            .add("layers", &self.layers)
            .add("norm", &self.norm)
            .add("head", &self.head)
            .optional()
    }
}
