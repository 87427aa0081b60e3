use burn::tensor::{Tensor, backend::Backend};

/// What attention returns besides the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requested {
    /// The attention weights, `[batch, heads, queries, keys]`, which all have to fit in memory.
    pub weights: bool,
    /// The [statistics](SoftmaxStatistics) of the softmax.
    pub statistics: bool,
}

/// The output of attention.
///
/// # Shapes
/// - output: `[batch, heads, queries, value_dim]`, in the type of the queries.
/// - weights: `[batch, heads, queries, keys]`, if requested. A row that keeps a visible key sums to 1. With
///   [sinks](super::AttentionInputs::with_sink_logits) it sums to 1 minus the weight of the sink.
#[derive(Debug, Clone)]
pub struct AttentionOutput<B: Backend> {
    /// The values, averaged with the weights. 0 in a row that keeps no visible key.
    pub output: Tensor<B, 4>,
    /// The weights, if requested.
    pub weights: Option<Tensor<B, 4>>,
    /// The statistics of the softmax, if requested.
    pub statistics: Option<SoftmaxStatistics<B>>,
}

/// The parts of the softmax, row by row: `output = numerator / denominator`.
///
/// Numerator and denominator are relative to `exp(maximum)`, the largest exponential of a kept and visible key. They
/// therefore neither overflow nor vanish. A key kept with probability `p` counts `1 / p` times in both. A
/// [sink](super::AttentionInputs::with_sink_logits) counts once in the maximum, the denominator and the log-sum-exp, like a
/// key with the value 0. The weight of a key is `exp(logit - log_sum_exp) / p`, with and without a sink.
///
/// # Shapes
/// - maximum, denominator, log_sum_exp: `[batch, heads, queries, 1]`
/// - numerator: `[batch, heads, queries, value_dim]`
///
/// A row that keeps no visible key has the denominator 0 and the log-sum-exp minus infinity, unless there is a sink.
#[derive(Debug, Clone)]
pub struct SoftmaxStatistics<B: Backend> {
    /// The largest logit, after the logarithm of the probability is subtracted.
    pub maximum: Tensor<B, 4>,
    /// Sum of exponentials times values.
    pub numerator: Tensor<B, 4>,
    /// Sum of exponentials.
    pub denominator: Tensor<B, 4>,
    /// Logarithm of the sum of exponentials, `ln(denominator) + maximum`.
    pub log_sum_exp: Tensor<B, 4>,
}
