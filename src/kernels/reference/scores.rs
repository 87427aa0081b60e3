use std::ops::Range;

use burn::tensor::{DType, Tensor, backend::Backend};

use super::dropped::Dropped;
use crate::{
    device::check_size,
    problem::{AttentionError, AttentionInputs, take},
};

/// The type of scores, exponentials and sums. Half-precision inputs are summed in f32.
pub(crate) fn accumulation_dtype(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

pub(crate) fn cast<B: Backend>(tensor: Tensor<B, 4>, dtype: DType) -> Tensor<B, 4> {
    match tensor.dtype() == dtype {
        true => tensor,
        false => tensor.cast(dtype),
    }
}

/// The scaled products of some queries with some keys, capped, plus the bias. Hidden keys are not masked.
///
/// # Shapes
/// - output: `[batch, heads, rows, columns]`, in the [accumulation type](accumulation_dtype).
pub(crate) fn logits<B: Backend>(
    inputs: &AttentionInputs<B>,
    rows: Range<usize>,
    columns: &[Range<usize>],
) -> Tensor<B, 4> {
    logits_with(inputs, some_keys(inputs, columns), rows, columns, None)
}

/// The keys of some columns, in the [accumulation type](accumulation_dtype).
pub(super) fn some_keys<B: Backend>(inputs: &AttentionInputs<B>, columns: &[Range<usize>]) -> Tensor<B, 4> {
    cast(take(inputs.keys().clone(), 2, columns), accumulation_dtype(inputs.queries().dtype()))
}

/// The [logits] of some columns whose keys are given. The logits of dropped pairs are not used.
pub(super) fn logits_with<B: Backend>(
    inputs: &AttentionInputs<B>,
    keys: Tensor<B, 4>,
    rows: Range<usize>,
    columns: &[Range<usize>],
    dropped: Option<&Dropped<B>>,
) -> Tensor<B, 4> {
    let dtype = accumulation_dtype(inputs.queries().dtype());
    let queries = cast(take(inputs.queries().clone(), 2, std::slice::from_ref(&rows)), dtype);
    let products = grouped_matmul(queries.mul_scalar(inputs.scale()), keys.swap_dims(2, 3));
    let products = match inputs.softcap() {
        Some(cap) => {
            // Products of large numbers can overflow to NaN. The gradient of the hyperbolic tangent would multiply by
            // this NaN, so the dropped products are set to 0.
            let products = match dropped.filter(|_| B::ad_enabled(&inputs.device())) {
                Some(dropped) => dropped.fill(products, 0.0),
                None => products,
            };
            products.div_scalar(cap).tanh().mul_scalar(cap)
        }
        None => products,
    };
    match inputs.visibility().bias(rows, columns, dtype) {
        Some(bias) => products + bias,
        None => products,
    }
}

/// Returns an error if the device cannot hold the scores of all pairs.
pub(crate) fn check_scores<B: Backend>(inputs: &AttentionInputs<B>) -> Result<(), AttentionError> {
    let dtype = accumulation_dtype(inputs.queries().dtype());
    Ok(check_size::<B>("scores of all pairs", &inputs.mask_shape().dims(), dtype, &inputs.device())?)
}

/// The logits of all pairs, with minus infinity where a key is hidden.
///
/// # Errors
/// If the device cannot hold them.
pub(crate) fn visible_logits<B: Backend>(inputs: &AttentionInputs<B>) -> Result<Tensor<B, 4>, AttentionError> {
    check_scores(inputs)?;
    let shape = inputs.mask_shape();
    let all = 0..shape.keys;
    let logits = logits(inputs, 0..shape.queries, std::slice::from_ref(&all));
    let hidden = inputs.visibility().hidden(shape, 0..shape.queries, &[all], &inputs.device());
    Ok(match hidden {
        Some(hidden) => logits.mask_fill(hidden.expand(shape.dims()), f32::NEG_INFINITY),
        None => logits,
    })
}

/// `1 / tensor`. burn's gradient of a quotient with respect to its dividend multiplies by the reciprocal of the
/// divisor. On ndarray this reciprocal is an approximation of 12 bits. The gradient of `1 / tensor` uses a division
/// instead.
pub(crate) fn reciprocal<B: Backend>(tensor: Tensor<B, 4>) -> Tensor<B, 4> {
    tensor.ones_like() / tensor
}

/// The logarithm of numbers whose [reciprocals](reciprocal) are already computed. The reciprocals are the gradient of
/// the logarithm. burn's own gradient computes them again, and on ndarray only approximately.
pub(super) fn logarithm<B: Backend>(tensor: Tensor<B, 4>, reciprocals: Tensor<B, 4>) -> Tensor<B, 4> {
    let value = tensor.clone().detach();
    value.clone().log() + (tensor - value) * reciprocals.detach()
}

/// The product of the rows of each query head with the matrix of its key-value head. The heads of a group are stacked
/// as rows, so that the matrix is read in place and never repeated.
///
/// # Shapes
/// - rows: `[batch, heads, n, m]`
/// - matrices: `[batch, kv_heads, m, p]`
/// - output: `[batch, heads, n, p]`
pub(crate) fn grouped_matmul<B: Backend>(rows: Tensor<B, 4>, matrices: Tensor<B, 4>) -> Tensor<B, 4> {
    let [batch, heads, n, m] = rows.dims();
    let [_, kv_heads, _, p] = matrices.dims();
    if heads == kv_heads {
        return rows.matmul(matrices);
    }
    rows.reshape([batch, kv_heads, heads / kv_heads * n, m]).matmul(matrices).reshape([batch, heads, n, p])
}
