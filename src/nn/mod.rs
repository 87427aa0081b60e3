//! Layers that stand where burn's stood: the same parameters, records and calls, with a sparse method inside.
//!
//! | burn | here |
//! |---|---|
//! | `burn::nn::attention::MultiHeadAttention` | [SparseMultiHeadAttention] |
//! | `burn::nn::attention::CrossAttention` | [SparseCrossAttention] |
//! | `burn::nn::transformer::TransformerEncoder` | [SparseTransformerEncoder] |
//!
//! A layer holds its method as a type that is a burn module, by default a [MaskerChain](crate::masker::MaskerChain).
//! Gradients flow through attention over the keys that were kept; what chooses the keys gets none.

mod attend;
mod calls;
mod cross_attention;
mod dropout;
mod growing;
mod mha_cache;
mod mha_config;
mod mha_input;
mod multi_head_attention;
mod optional_record;
mod padding;
mod transformer_encoder;
mod transformer_encoder_layer;

pub use cross_attention::{SparseCrossAttention, SparseCrossAttentionCache, SparseCrossAttentionConfig};
pub use mha_cache::MhaCache;
pub use mha_config::SparseMultiHeadAttentionConfig;
pub use mha_input::{MhaInput, MhaOutput};
pub use multi_head_attention::SparseMultiHeadAttention;
pub use optional_record::OptionalRecord;
pub use transformer_encoder::{
    SparseTransformerEncoder, SparseTransformerEncoderAutoregressiveCache, SparseTransformerEncoderConfig,
    TransformerEncoderInput,
};
pub use transformer_encoder_layer::SparseTransformerEncoderLayer;
