//! Attention: its inputs, dense and masked attention, and the error of masked attention.

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
