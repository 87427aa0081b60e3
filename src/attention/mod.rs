//! Attention: its inputs, dense and masked attention, and the error of masked attention.

mod attend;
#[cfg(feature = "train")]
mod backward;
mod comparison;
pub(crate) mod dropped;
mod efficient;
mod error;
mod gradients;
mod inputs;
pub(crate) mod kept;
mod phase;
mod report;
mod research;
mod row_counts;
pub(crate) mod scores;
mod sink_logits;
mod step_log;
mod visibility;
mod visible_keys;
mod window;

pub use attend::{
    AttentionOutput, Requested, SoftmaxStatistics, dense_attention, masked_attention, reference_attention,
};
#[cfg(feature = "train")]
pub(crate) use backward::gradients_in_blocks;
pub use comparison::{DenseReference, RowError};
pub use efficient::{DoubleSparsity, DoubleSparsityConfig, EfficientAttention, HashAttention, HashAttentionConfig};
pub use error::AttentionError;
pub use gradients::{AttentionGradients, AttentionTrace};
pub use inputs::AttentionInputs;
pub use phase::Phase;
pub use report::{AttentionReport, HeadReport, QueryReport};
pub use research::{ResearchAttention, ResearchOutput};
pub use visibility::Visibility;
pub(crate) use visible_keys::{RowKeys, VisibleKeys};
