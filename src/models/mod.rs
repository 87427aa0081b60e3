//! Language models from a HuggingFace folder: configuration, weights, tokenizer, and generation through a sparse method.
//!
//! A [LanguageModel] implements the Llama family in burn, with
//! [GroupedQueryAttention](crate::nn::GroupedQueryAttention). Each layer has its own method, built from one method
//! file. Needs the feature `hf`.

mod cache;
mod chat_template;
mod checkpoint;
mod config;
mod decoder_layer;
mod error;
mod feed_forward;
mod fields;
mod generate;
mod generation_config;
#[cfg(feature = "hub")]
mod hub;
mod language_model;
mod next_token;
mod pretrained;
mod rotary_parameters;
mod stop_strings;
mod text_stream;
mod tokenizer;
mod weights;

pub use cache::LanguageModelCache;
pub use chat_template::{ChatMessage, ChatTemplate};
pub use config::{Architecture, GateActivation, LanguageModelConfig};
pub use decoder_layer::DecoderLayer;
pub use error::{Misshapen, ModelError, WeightMismatch};
pub use feed_forward::GatedFeedForward;
pub use generate::{Generated, PREFILL_CHUNK, StopReason};
pub use generation_config::{GenerationConfig, SamplingConfig};
#[cfg(feature = "hub")]
pub use hub::download;
pub use language_model::LanguageModel;
pub use next_token::NextToken;
pub use pretrained::{Pretrained, Written};
use stop_strings::StopStrings;
pub use text_stream::TextStream;
pub use tokenizer::Tokenizer;
