//! A usual burn text classifier, generic over the encoder.

use burn::{
    module::Module,
    nn::{
        Embedding, EmbeddingConfig, Linear, LinearConfig, PositionalEncoding, PositionalEncodingConfig,
        attention::generate_autoregressive_mask,
        transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput as BurnInput},
    },
    tensor::{Int, Tensor, backend::Backend},
};
use sparse_attention_hub::{
    masker::ConfigError,
    method::MaskerChainConfig,
    nn::{SparseTransformerEncoder, SparseTransformerEncoderConfig, TransformerEncoderInput},
};

use crate::data::VOCABULARY;

/// The original model.
pub type DenseClassifier<B> = Classifier<B, TransformerEncoder<B>>;
/// The same model with one type name changed.
pub type SparseClassifier<B> = Classifier<B, SparseTransformerEncoder<B>>;

const D_MODEL: usize = 64;
const HEADS: usize = 4;
const LAYERS: usize = 2;
pub const LONGEST: usize = 1024;

#[derive(Module, Debug)]
pub struct Classifier<B: Backend, E> {
    embedding: Embedding<B>,
    position: PositionalEncoding<B>,
    encoder: E,
    output: Linear<B>,
}

impl<B: Backend, E> Classifier<B, E> {
    fn around(encoder: E, device: &B::Device) -> Self {
        Self {
            embedding: EmbeddingConfig::new(VOCABULARY, D_MODEL).init(device),
            position: PositionalEncodingConfig::new(D_MODEL).with_max_sequence_size(LONGEST).init(device),
            encoder,
            output: LinearConfig::new(D_MODEL, 2).init(device),
        }
    }
}

impl<B: Backend> DenseClassifier<B> {
    pub fn new(device: &B::Device) -> Self {
        let config = TransformerEncoderConfig::new(D_MODEL, 2 * D_MODEL, HEADS, LAYERS);
        Self::around(config.with_dropout(0.0).with_norm_first(true).init(device), device)
    }
}

impl<B: Backend> SparseClassifier<B> {
    pub fn new(maskers: MaskerChainConfig, device: &B::Device) -> Result<Self, ConfigError> {
        let config = SparseTransformerEncoderConfig::new(D_MODEL, 2 * D_MODEL, HEADS, LAYERS).with_maskers(maskers);
        Ok(Self::around(config.with_dropout(0.0).with_norm_first(true).try_init(device)?, device))
    }
}

/// An encoder with causal attention.
pub trait Encoder<B: Backend> {
    fn encode(&self, x: Tensor<B, 3>) -> Tensor<B, 3>;
}

impl<B: Backend> Encoder<B> for TransformerEncoder<B> {
    fn encode(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [batch, length, _] = x.dims();
        let mask = generate_autoregressive_mask(batch, length, &x.device());
        self.forward(BurnInput::new(x).mask_attn(mask))
    }
}

impl<B: Backend> Encoder<B> for SparseTransformerEncoder<B> {
    fn encode(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        // Burn's mask would also work, but it is a tensor over all pairs.
        self.forward(TransformerEncoderInput::new(x).causal())
    }
}

impl<B: Backend, E: Encoder<B>> Classifier<B, E> {
    /// # Shapes
    /// - words: `[batch, length]`
    /// - output: `[batch, 2]`
    pub fn forward(&self, words: Tensor<B, 2, Int>) -> Tensor<B, 2> {
        let x = self.encoder.encode(self.position.forward(self.embedding.forward(words)));
        // The maximum over the words: any word can give the answer.
        self.output.forward(x.max_dim(1).squeeze_dim(1))
    }
}
