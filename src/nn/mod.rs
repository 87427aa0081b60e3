//! Layers with a sparse method inside. Some stand where burn's stood, with the same parameters, records and calls:
//!
//! | burn | here |
//! |---|---|
//! | `burn::nn::attention::MultiHeadAttention` | [SparseMultiHeadAttention] |
//! | `burn::nn::attention::CrossAttention` | [SparseCrossAttention] |
//! | `burn::nn::transformer::TransformerEncoder` | [SparseTransformerEncoder] |
//!
//! [GroupedQueryAttention] is the attention of today's language models, over a [KvCache].
//!
//! A layer holds its method as a type that is a burn module, by default a [MaskerChain](crate::masker::MaskerChain).
//! Gradients flow through attention over the keys that were kept; what chooses the keys gets none.

mod attend;
mod attention_hook;
mod calls;
mod cross_attention;
mod dropout;
mod grouped_query_attention;
mod growing;
mod kv_cache;
mod mha_cache;
mod mha_config;
mod mha_input;
mod multi_head_attention;
mod optional_record;
mod padding;
mod rotary;
mod transformer_encoder;
mod transformer_encoder_layer;

pub use attention_hook::{AttentionHook, AttentionMode};
pub use cross_attention::{SparseCrossAttention, SparseCrossAttentionCache, SparseCrossAttentionConfig};
pub use grouped_query_attention::{GroupedQueryAttention, GroupedQueryAttentionConfig};
pub use kv_cache::KvCache;
pub use mha_cache::MhaCache;
pub use mha_config::SparseMultiHeadAttentionConfig;
pub use mha_input::{MhaInput, MhaOutput};
pub use multi_head_attention::SparseMultiHeadAttention;
pub use optional_record::OptionalRecord;
pub use rotary::{RotaryEncoding, RotaryEncodingConfig, RotaryScaling};
pub use transformer_encoder::{
    SparseTransformerEncoder, SparseTransformerEncoderAutoregressiveCache, SparseTransformerEncoderConfig,
    TransformerEncoderInput,
};
pub use transformer_encoder_layer::SparseTransformerEncoderLayer;
