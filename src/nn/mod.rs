//! Layers with sparse attention. Some replace a layer of burn, with the same parameters, records and calls:
//!
//! | burn | here |
//! |---|---|
//! | `burn::nn::attention::MultiHeadAttention` | [SparseMultiHeadAttention] |
//! | `burn::nn::attention::CrossAttention` | [SparseCrossAttention] |
//! | `burn::nn::transformer::TransformerEncoder` | [SparseTransformerEncoder] |
//!
//! [GroupedQueryAttention] is the attention of today's language models, with a [KvCache]. [sparse_attention] is a
//! function like burn's `attention`, for models that compute attention in their own code.
//!
//! The method of a layer is a burn module, by default a [MaskerChain](crate::method::MaskerChain). Gradients flow
//! through attention over the kept keys. The choice of the keys has no gradient.

mod attend;
mod attention_hook;
mod cross_attention;
mod dropout;
mod forward_counter;
mod gqa_config;
mod gqa_input;
mod grouped_query_attention;
mod growable_tensor;
mod kv_cache;
mod kv_part;
mod mha_cache;
mod mha_config;
mod mha_input;
mod multi_head_attention;
mod optional_record;
mod padding;
mod rope_parameters;
mod rotary;
mod rotary_scaling;
mod sparse_attention;
mod transformer_encoder;
mod transformer_encoder_layer;
mod unpadded_tokens;

pub use attention_hook::{AttentionHook, AttentionMode};
pub use cross_attention::{SparseCrossAttention, SparseCrossAttentionCache, SparseCrossAttentionConfig};
pub use gqa_config::GroupedQueryAttentionConfig;
pub use gqa_input::GqaInput;
pub use grouped_query_attention::GroupedQueryAttention;
pub use kv_cache::KvCache;
pub use mha_cache::MhaCache;
pub use mha_config::SparseMultiHeadAttentionConfig;
pub use mha_input::{MhaInput, MhaOutput};
pub use multi_head_attention::SparseMultiHeadAttention;
pub use optional_record::OptionalRecord;
pub use rope_parameters::RopeParameters;
pub use rotary::{RotaryEncoding, RotaryEncodingConfig};
pub use rotary_scaling::RotaryScaling;
pub use sparse_attention::sparse_attention;
pub use transformer_encoder::{
    SparseTransformerEncoder, SparseTransformerEncoderAutoregressiveCache, SparseTransformerEncoderConfig,
    TransformerEncoderInput,
};
pub use transformer_encoder_layer::SparseTransformerEncoderLayer;
