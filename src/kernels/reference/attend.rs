use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

use super::{
    dropped::{Dropped, Pairs},
    kept::{finite_keys, weigh},
    scores::{accumulation_dtype, cast, check_scores, logarithm, logits_with, reciprocal, some_keys},
};
use crate::{
    device::{check_size, largest_tensor},
    mask::{Mask, MaskForm, MaskShape},
    problem::{AttentionError, AttentionInputs, AttentionOutput, Requested, SoftmaxStatistics, take},
};

/// The largest number of query-key pairs whose scores are in memory at the same time (64 MiB in f32), unless the
/// weights are requested.
const PAIRS_AT_A_TIME: usize = 1 << 24;

/// Attention in tensor operations, block by block.
pub(crate) fn attend_in_blocks<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    requested: Requested,
) -> Result<AttentionOutput<B>, AttentionError> {
    check_sizes(inputs, requested)?;
    let queries = inputs.mask_shape().queries;
    let rows_at_a_time = rows_at_a_time(inputs, mask, requested);
    let blocks = (0..queries)
        .step_by(rows_at_a_time)
        .map(|start| {
            let rows = start..(start + rows_at_a_time).min(queries);
            attend_block(inputs, mask, rows, requested)
        })
        .collect::<Vec<_>>();
    Ok(concatenate(blocks))
}

/// Returns an error if a tensor of the computation in blocks is larger than the device can hold.
fn check_sizes<B: Backend>(inputs: &AttentionInputs<B>, requested: Requested) -> Result<(), AttentionError> {
    if requested.weights {
        check_scores(inputs)?;
    }
    let MaskShape { batch, heads, queries, keys } = inputs.mask_shape();
    let [_, kv_heads, _, head_dim] = inputs.keys().dims();
    let [.., value_dim] = inputs.values().dims();
    let sums = accumulation_dtype(inputs.queries().dtype());
    let tensors = [
        ("scores of one query", [batch, heads, 1, keys]),
        ("keys, in the type of sums", [batch, kv_heads, keys, head_dim]),
        ("values, in the type of sums", [batch, kv_heads, keys, value_dim]),
        ("output, in the type of sums", [batch, heads, queries, value_dim]),
    ];
    for (what, shape) in tensors {
        check_size::<B>(what, &shape, sums, &inputs.device())?;
    }
    Ok(())
}

/// The largest number of query-key pairs in memory at the same time, which the device may limit further.
fn pairs_at_a_time<B: Backend>(inputs: &AttentionInputs<B>) -> usize {
    let size = accumulation_dtype(inputs.queries().dtype()).size();
    match largest_tensor::<B>(&inputs.device()).map(usize::try_from) {
        Some(Ok(bytes)) => PAIRS_AT_A_TIME.min(bytes / size),
        _ => PAIRS_AT_A_TIME,
    }
}

/// The number of queries in a block.
pub(super) fn rows_at_a_time<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>, requested: Requested) -> usize {
    let MaskShape { batch, heads, queries, keys } = inputs.mask_shape();
    if requested.weights {
        return queries;
    }
    let rows_at_a_time = (pairs_at_a_time(inputs) / (batch * heads * keys)).clamp(1, queries);
    // For a window, a block of `rows` queries reads `rows + window` keys. A block about as long as the window wastes
    // least.
    match mask.form() {
        MaskForm::Pattern(pattern) if pattern.window < keys => rows_at_a_time.min(pattern.window.clamp(64, 1024)),
        _ => rows_at_a_time,
    }
}

fn concatenate<B: Backend>(mut blocks: Vec<AttentionOutput<B>>) -> AttentionOutput<B> {
    if blocks.len() == 1 {
        return blocks.remove(0);
    }
    let join = |part: fn(&AttentionOutput<B>) -> Option<&Tensor<B, 4>>| {
        let parts = blocks.iter().map(|block| part(block).cloned()).collect::<Option<Vec<_>>>();
        parts.map(|parts| Tensor::cat(parts, 2))
    };
    let output = Tensor::cat(blocks.iter().map(|block| block.output.clone()).collect(), 2);
    let statistics = |part: fn(&SoftmaxStatistics<B>) -> &Tensor<B, 4>| {
        let parts = blocks.iter().map(|block| block.statistics.as_ref().map(|all| part(all).clone()));
        parts.collect::<Option<Vec<_>>>().map(|parts| Tensor::cat(parts, 2))
    };
    AttentionOutput {
        output,
        weights: join(|block| block.weights.as_ref()),
        statistics: (|| {
            Some(SoftmaxStatistics {
                maximum: statistics(|all| &all.maximum)?,
                numerator: statistics(|all| &all.numerator)?,
                denominator: statistics(|all| &all.denominator)?,
                log_sum_exp: statistics(|all| &all.log_sum_exp)?,
            })
        })(),
    }
}

fn attend_block<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    rows: Range<usize>,
    requested: Requested,
) -> AttentionOutput<B> {
    let shape = inputs.mask_shape();
    let columns = match requested.weights {
        true => vec![shape.all_keys()],
        false => columns(inputs, mask, &rows),
    };
    if columns.is_empty() || mask.is_empty() {
        return nothing_kept(inputs, rows.len(), requested);
    }
    let Masked { scores, dropped, floor } = masked_scores(inputs, mask, rows, &columns);
    let fill = |pairs: Tensor<B, 4>, number| match &dropped {
        Some(dropped) => dropped.fill(pairs, number),
        None => pairs,
    };
    let scores = fill(scores, floor);
    // The floor is finite. A row that keeps nothing then has exp(floor - floor) = 1 instead of NaN, and is filled with
    // 0.
    let maximum = scores.clone().max_dim(3).detach();
    let exponentials = fill((scores - maximum.clone()).exp(), 0.0);
    let denominator = exponentials.clone().sum_dim(3);
    let values = cast(take(inputs.values().clone(), 2, &columns), exponentials.dtype());
    let numerator = weigh(exponentials.clone(), values, dropped.as_ref());
    let nothing = denominator.clone().equal_elem(0.0);
    let divisor = denominator.clone().mask_fill(nothing, 1.0);
    // Without a gradient the quotient is plain: on wgpu, reciprocals in f64 are not numbers.
    let factor = B::ad_enabled(&divisor.device()).then(|| reciprocal(divisor.clone()));
    let normalised = |sum: Tensor<B, 4>| match &factor {
        Some(factor) => sum * factor.clone(),
        None => sum / divisor.clone(),
    };
    AttentionOutput {
        output: cast(normalised(numerator.clone()), inputs.queries().dtype()),
        weights: requested.weights.then(|| normalised(exponentials)),
        statistics: requested.statistics.then(|| SoftmaxStatistics {
            log_sum_exp: match &factor {
                Some(factor) => logarithm(denominator.clone(), factor.clone()),
                None => denominator.clone().log(),
            } + maximum.clone(),
            maximum,
            numerator,
            denominator,
        }),
    }
}

/// The scores of some rows and columns under a mask.
pub(super) struct Masked<B: Backend> {
    /// Logits minus the logarithms of the probabilities.
    pub scores: Tensor<B, 4>,
    /// The pairs that are hidden or not kept. `None` if there are none.
    pub dropped: Option<Dropped<B>>,
    /// The lowest finite number of the scores' type.
    pub floor: f64,
}

pub(super) fn masked_scores<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    rows: Range<usize>,
    columns: &[Range<usize>],
) -> Masked<B> {
    let Pairs { dropped, log_probability } = Pairs::of(inputs, mask, &rows, columns);
    let keys = some_keys(inputs, columns);
    let of_finite = dropped.as_ref().and_then(|_| finite_keys(&keys, inputs.mask_shape().heads));
    let scores = match of_finite {
        Some((keys, marks)) => logits_with(inputs, keys, rows, columns, dropped.as_ref()) + marks,
        None => logits_with(inputs, keys, rows, columns, dropped.as_ref()),
    };
    let floor = scores.dtype().finfo().map_or(f64::from(f32::MIN), |limits| limits.min);
    let scores = match log_probability {
        Some(log_probability) => scores.clone() - cast(log_probability, scores.dtype()),
        None => scores,
    };
    Masked { scores, dropped, floor }
}

/// The columns that some rows can read: at most two ranges, and no empty range.
pub(super) fn columns<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    rows: &Range<usize>,
) -> Vec<Range<usize>> {
    let keys = inputs.mask_shape().keys;
    let span = inputs.visibility().span(rows, keys);
    let ranges = match mask.form() {
        MaskForm::Pattern(pattern) => pattern.columns(rows.clone(), keys),
        _ => [0..keys, 0..0],
    };
    let seen = ranges.into_iter().map(|range| range.start.max(span.start)..range.end.min(span.end));
    seen.filter(|range| !range.is_empty()).collect()
}

fn nothing_kept<B: Backend>(inputs: &AttentionInputs<B>, rows: usize, requested: Requested) -> AttentionOutput<B> {
    let MaskShape { batch, heads, keys, .. } = inputs.mask_shape();
    let [.., value_dim] = inputs.values().dims();
    let device = inputs.device();
    let dtype = inputs.queries().dtype();
    let sums = accumulation_dtype(dtype);
    let zeros = |last, dtype| Tensor::zeros([batch, heads, rows, last], (&device, dtype));
    AttentionOutput {
        output: zeros(value_dim, dtype),
        weights: requested.weights.then(|| zeros(keys, sums)),
        statistics: requested.statistics.then(|| SoftmaxStatistics {
            maximum: zeros(1, sums),
            numerator: zeros(value_dim, sums),
            denominator: zeros(1, sums),
            log_sum_exp: Tensor::full([batch, heads, rows, 1], f32::NEG_INFINITY, (&device, sums)),
        }),
    }
}
