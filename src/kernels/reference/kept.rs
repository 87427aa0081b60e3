//! Products in which a dropped key (hidden, or not kept) has no effect, even if it holds NaN or an infinity.
//!
//! A dropped key has the weight 0. But 0 times NaN or an infinity is NaN, in the product and in its gradient. Therefore
//! the products here use the finite numbers only. Tensor operations then add the NaNs and infinities of the kept keys,
//! so that no device waits for the host to check the numbers.

use burn::tensor::{BasicOps, Bool, DType, Tensor, backend::Backend};

use super::{
    super::{all_finite, native_path},
    dropped::Dropped,
    scores::grouped_matmul,
};
use crate::device::infinite_in_products;

/// Repeats the rows of each key-value head for each of its query heads.
fn of_each_head<B: Backend, K: BasicOps<B>>(tensor: Tensor<B, 4, K>, heads: usize) -> Tensor<B, 4, K> {
    let [batch, kv_heads, rows, width] = tensor.dims();
    if heads == kv_heads {
        return tensor;
    }
    let group = heads / kv_heads;
    let tensor = tensor.reshape([batch, kv_heads, 1, rows, width]).expand([batch, kv_heads, group, rows, width]);
    tensor.reshape([batch, heads, rows, width])
}

/// The product of weights with values. A weight is 0 if its key is dropped, and not negative otherwise. A NaN or an
/// infinity in a kept value shows in the output of the row. An infinity stays an infinity, unless the row also keeps a
/// NaN or an infinity of the other sign.
///
/// # Shapes
/// - weights: `[batch, heads, rows, columns]`
/// - values: `[batch, kv_heads, columns, width]`
/// - output: `[batch, heads, rows, width]`
pub(crate) fn weigh<B: Backend>(
    weights: Tensor<B, 4>,
    values: Tensor<B, 4>,
    dropped: Option<&Dropped<B>>,
) -> Tensor<B, 4> {
    let Some(dropped) = dropped else {
        return grouped_matmul(weights, values);
    };
    if B::ad_enabled(&values.device()) {
        if all_finite(&values) == Some(true) {
            return grouped_matmul(weights, values);
        }
    } else if native_path::<B>() {
        // Without a gradient it is enough to check the product, which has fewer numbers than the values.
        let product = grouped_matmul(weights.clone(), values.clone());
        if all_finite(&product) == Some(true) {
            return product;
        }
    }
    let heads = weights.dims()[1];
    let known = values.clone().detach();
    let others = not_finite(&known);
    // A NaN counts as an infinity of both signs, whose sum is NaN.
    let above = others.clone().bool_and(known.clone().lower_elem(0.0).bool_not());
    let below = others.clone().bool_and(known.greater_elem(0.0).bool_not());
    let product = grouped_matmul(weights, values.mask_fill(others, 0.0));
    let nothing = product.clone().detach().zeros_like();
    let above = nothing.clone().mask_fill(keeps_any(dropped, above, heads), f32::INFINITY);
    let below = nothing.mask_fill(keeps_any(dropped, below, heads), f32::NEG_INFINITY);
    product + above + below
}

/// Which numbers are NaN or an infinity, or become an infinity in the backend's products.
fn not_finite<B: Backend>(numbers: &Tensor<B, 4>) -> Tensor<B, 4, Bool> {
    match infinite_in_products::<B>(&numbers.device()).filter(|_| numbers.dtype() == DType::F32) {
        Some(limit) => numbers.clone().abs().lower_elem(limit).bool_not(),
        None => numbers.clone().is_finite().bool_not(),
    }
}

/// The keys and the marks for tracked products in which some rows drop some keys. `None` if the keys can be used
/// unchanged.
///
/// The keys have 0 in place of NaNs and infinities. The marks, `[batch, heads, 1, columns]`, are added to the scores of
/// every row. The mark of a key is NaN if the key holds a NaN or an infinity, and 0 otherwise.
pub(crate) fn finite_keys<B: Backend>(keys: &Tensor<B, 4>, heads: usize) -> Option<(Tensor<B, 4>, Tensor<B, 4>)> {
    if !B::ad_enabled(&keys.device()) || all_finite(keys) == Some(true) {
        return None;
    }
    let known = keys.clone().detach();
    let others = not_finite(&known);
    let marked = others.clone().float().sum_dim(3).greater_elem(0.0).swap_dims(2, 3);
    let marks = known.slice_dim(3, 0..1).zeros_like().swap_dims(2, 3).mask_fill(marked, f32::NAN);
    Some((keys.clone().mask_fill(others, 0.0), of_each_head(marks, heads)))
}

/// For each row and each channel: whether the row keeps a key for which `those` is true.
///
/// # Shapes
/// - those: `[batch, kv_heads, columns, width]`
/// - output: `[batch, heads, rows, width]`
fn keeps_any<B: Backend>(dropped: &Dropped<B>, those: Tensor<B, 4, Bool>, heads: usize) -> Tensor<B, 4, Bool> {
    let [batch, kv_heads, columns, _] = those.dims();
    let [_, of_heads, rows, _] = dropped.pairs.dims();
    let those = those.float();
    // If all heads keep the same keys, they are counted once for each key-value head.
    let counted = if of_heads == 1 { kv_heads } else { heads };
    let kept = dropped.pairs.clone().slice_dim(3, dropped.whole..columns).bool_not().float();
    let kept = kept.expand([batch, counted, rows, columns - dropped.whole]);
    let counts = grouped_matmul(kept, those.clone().slice_dim(2, dropped.whole..columns));
    let counts = match dropped.whole {
        0 => counts,
        whole => counts + of_each_head(those.slice_dim(2, 0..whole).sum_dim(2), counted),
    };
    of_each_head(counts.greater_elem(0.0), heads)
}
