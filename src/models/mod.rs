//! Language models from a HuggingFace folder: configuration, weights, tokenizer, and generation through a sparse method.
//!
//! A [LanguageModel] is the Llama family in burn over [GroupedQueryAttention](crate::nn::GroupedQueryAttention); every
//! layer has a method of its own, built from one method file. Needs the feature `hf`.

mod cache;
mod checkpoint;
mod config;
mod decoder_layer;
mod error;
mod feed_forward;
mod fields;
mod language_model;
mod rotary_parameters;
mod weights;

pub use cache::LanguageModelCache;
pub use config::{Architecture, GateActivation, LanguageModelConfig};
pub use decoder_layer::DecoderLayer;
pub use error::{Misshapen, ModelError, WeightMismatch};
pub use feed_forward::GatedFeedForward;
pub use language_model::LanguageModel;
