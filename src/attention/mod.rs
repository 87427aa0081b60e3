//! Attention: what it is given, dense and masked, and how far the one is from the other.

mod attend;
#[cfg(feature = "train")]
mod backward;
mod comparison;
pub(crate) mod dropped;
mod efficient;
pub(crate) mod kept;
mod report;
mod research;
mod row_counts;
pub(crate) mod scores;
mod sink_logits;
mod step_log;
mod window;

pub use attend::{dense_attention, masked_attention, reference_attention};
#[cfg(feature = "train")]
pub(crate) use backward::gradients_in_blocks;
pub use comparison::{DenseReference, RowError};
pub use efficient::{DoubleSparsity, DoubleSparsityConfig, EfficientAttention, HashAttention, HashAttentionConfig};
pub use report::{AttentionReport, HeadReport, QueryReport};
pub use research::{ResearchAttention, ResearchOutput};

pub use crate::problem::{
    AttentionError, AttentionGradients, AttentionInputs, AttentionOutput, AttentionTrace, Density, Phase, Requested,
    SoftmaxStatistics, Visibility,
};
