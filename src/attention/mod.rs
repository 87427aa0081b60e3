//! Attention: what it is given, dense and masked, and how far the one is from the other.

mod attend;
mod comparison;
mod efficient;
mod report;
mod research;
mod row_counts;
mod step_log;

pub use attend::{dense_attention, masked_attention, reference_attention};
pub use comparison::{DenseReference, RowError};
pub use efficient::{DoubleSparsity, DoubleSparsityConfig, EfficientAttention, HashAttention, HashAttentionConfig};
pub use report::{AttentionReport, HeadReport, QueryReport};
pub use research::{ResearchAttention, ResearchOutput};

pub use crate::problem::{
    AttentionError, AttentionGradients, AttentionInputs, AttentionOutput, AttentionTrace, Density, Phase, Requested,
    SoftmaxStatistics, Visibility,
};
