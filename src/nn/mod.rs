//! Layers.

mod grouped_query_attention;
mod kv_cache;
mod rotary;

pub use grouped_query_attention::{GroupedQueryAttention, GroupedQueryAttentionConfig};
pub use kv_cache::KvCache;
pub use rotary::{RotaryEncoding, RotaryEncodingConfig, RotaryScaling};
