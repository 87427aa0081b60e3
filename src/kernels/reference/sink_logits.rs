use burn::tensor::{DType, Tensor, backend::Backend};

use super::scores::{accumulation_dtype, cast, logarithm, reciprocal};
use crate::problem::{AttentionOutput, Requested, SoftmaxStatistics};

/// Adds a [sink](super::AttentionInputs::with_sink_logits) to every softmax. `of_keys` is attention over the keys, with
/// its statistics.
///
/// # Shapes
/// - logits: `[heads]`
pub(crate) fn join<B: Backend>(
    of_keys: AttentionOutput<B>,
    logits: Tensor<B, 1>,
    dtype: DType,
    requested: Requested,
) -> AttentionOutput<B> {
    let Some(SoftmaxStatistics { maximum, numerator, denominator, .. }) = of_keys.statistics else {
        unreachable!("the statistics of the keys are always requested for the sink logits to join")
    };
    let sums = accumulation_dtype(dtype);
    let [heads] = logits.dims();
    let sink = cast(logits.reshape([1, heads, 1, 1]), sums);
    // In a row without a kept and visible key, the maximum of the keys must not count either.
    let floor = sums.finfo().map_or(f64::from(f32::MIN), |limits| limits.min);
    let before = maximum.mask_fill(denominator.clone().equal_elem(0.0), floor);
    let sink = sink.expand(before.dims());
    let maximum = before.clone().max_pair(sink.clone()).detach();
    let shrink = (before - maximum.clone()).exp();
    let kept = denominator * shrink.clone();
    let denominator = kept.clone() + (sink - maximum.clone()).exp();
    let numerator = numerator * shrink;
    // A row with neither a key nor a finite sink has the denominator 0.
    let factor = reciprocal(denominator.clone().mask_fill(denominator.clone().equal_elem(0.0), 1.0));
    AttentionOutput {
        output: cast(numerator.clone() * factor.clone(), dtype),
        weights: of_keys.weights.map(|weights| weights * (kept * factor.clone())),
        statistics: requested.statistics.then(|| SoftmaxStatistics {
            log_sum_exp: logarithm(denominator.clone(), factor) + maximum.clone(),
            maximum,
            numerator,
            denominator,
        }),
    }
}
