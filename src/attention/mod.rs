//! Attention: what it is given, dense and masked, and how far the one is from the other.

mod attend;
mod comparison;
mod report;
mod row_counts;

pub use attend::{dense_attention, masked_attention, reference_attention};
pub use comparison::{DenseReference, RowError};
pub use report::{AttentionReport, HeadReport, QueryReport};
pub(crate) use row_counts::RowCounts;

pub use crate::problem::{
    AttentionError, AttentionGradients, AttentionInputs, AttentionOutput, AttentionTrace, Density, Phase, Requested,
    SoftmaxStatistics, Visibility,
};
