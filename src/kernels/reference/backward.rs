use burn::tensor::{Tensor, backend::Backend};

use super::{
    attend::{Masked, columns, masked_scores, rows_at_a_time},
    dropped::Dropped,
    kept::weigh,
    scores::{accumulation_dtype, cast, grouped_matmul, logits},
};
use crate::{
    mask::{Mask, MaskShape},
    problem::{AttentionGradients, AttentionInputs, AttentionTrace, Requested, take},
};

/// The gradients in plain tensor operations, in the same blocks of queries as the forward pass.
pub(crate) fn gradients_in_blocks<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    trace: &AttentionTrace<B>,
) -> AttentionGradients<B> {
    let MaskShape { batch, heads, queries, .. } = inputs.mask_shape();
    let (kv_heads, head_dim) = (inputs.kv_heads(), inputs.queries().dims()[3]);
    let group = heads / kv_heads;
    let dtype = accumulation_dtype(inputs.queries().dtype());
    let [all_queries, all_keys, all_values, output_gradient] =
        [inputs.queries(), inputs.keys(), inputs.values(), &trace.output_gradient]
            .map(|tensor| cast(tensor.clone(), dtype));
    let (mut of_keys, mut of_values) = (all_keys.zeros_like(), all_values.zeros_like());
    // The slopes of a row have both signs, so that an infinity in a product with them gives NaN.
    let [queries_without_infinities, keys_without_infinities] = [&all_queries, &all_keys].map(without_infinities);
    let mut of_queries = Vec::new();
    let block = rows_at_a_time(inputs, mask, Requested::default());
    for start in (0..queries).step_by(block) {
        let rows = start..(start + block).min(queries);
        let columns = columns(inputs, mask, &rows);
        if columns.is_empty() || mask.is_empty() {
            of_queries.push(Tensor::zeros([batch, heads, rows.len(), head_dim], (&inputs.device(), dtype)));
            continue;
        }
        let of_rows = |tensor: &Tensor<B, 4>| tensor.clone().slice_dim(2, rows.clone());
        let of_columns = |tensor: &Tensor<B, 4>| take(tensor.clone(), 2, &columns);
        let Masked { scores, dropped, .. } = masked_scores(inputs, mask, rows.clone(), &columns);
        let weights = (scores - of_rows(&trace.log_sum_exp)).exp();
        let fill = |pairs: Tensor<B, 4>| match &dropped {
            Some(dropped) => dropped.fill(pairs, 0.0),
            None => pairs,
        };
        let weights = fill(weights);
        let gradient = of_rows(&output_gradient);
        let slopes = grouped_matmul(gradient.clone(), of_columns(&all_values).swap_dims(2, 3)) - of_rows(&trace.mean);
        let slopes = (weights.clone() * slopes).mul_scalar(inputs.scale());
        let slopes = match inputs.softcap() {
            // The derivative of `cap * tanh(x / cap)`, computed from the capped logits.
            Some(cap) => slopes * (logits(inputs, rows.clone(), &columns).div_scalar(cap).square().neg() + 1),
            None => slopes,
        };
        let slopes = fill(slopes);
        of_queries.push(weigh(slopes.clone(), of_columns(&keys_without_infinities), dropped.as_ref()));
        // The heads of a group are stacked as rows, so that the product sums over them.
        let stack = |tensor: Tensor<B, 4>| {
            let width = tensor.dims()[3];
            tensor.reshape([batch, kv_heads, group * rows.len(), width])
        };
        let turned = dropped.map(|Dropped { pairs, .. }| {
            let pairs = pairs.expand(weights.dims()).reshape([batch, kv_heads, group * rows.len(), weights.dims()[3]]);
            Dropped { pairs: pairs.swap_dims(2, 3), whole: 0 }
        });
        let by_key =
            |pairs: Tensor<B, 4>, rows: Tensor<B, 4>| weigh(stack(pairs).swap_dims(2, 3), stack(rows), turned.as_ref());
        let block_keys = by_key(slopes, of_rows(&queries_without_infinities));
        let block_values = by_key(weights, gradient);
        let mut first = 0;
        for range in &columns {
            let part = first..first + range.len();
            let add = |sums: Tensor<B, 4>, block: &Tensor<B, 4>| {
                let [batch, kv_heads, _, width] = sums.dims();
                let place = [0..batch, 0..kv_heads, range.clone(), 0..width];
                let sum = sums.clone().slice(place.clone()) + block.clone().slice_dim(2, part.clone());
                sums.slice_assign(place, sum)
            };
            (of_keys, of_values) = (add(of_keys, &block_keys), add(of_values, &block_values));
            first = part.end;
        }
    }
    AttentionGradients {
        queries: cast(Tensor::cat(of_queries, 2), inputs.queries().dtype()),
        keys: cast(of_keys, inputs.keys().dtype()),
        values: cast(of_values, inputs.values().dtype()),
    }
}

/// The tensor with NaN in place of its infinities.
fn without_infinities<B: Backend>(tensor: &Tensor<B, 4>) -> Tensor<B, 4> {
    tensor.clone().mask_fill(tensor.clone().is_inf(), f32::NAN)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Distribution, TensorData};
    use burn_flex::Flex;

    use super::*;
    use crate::{
        attention::reference_attention,
        kernels::SparseBackend,
        mask::{KeyIndices, MaskForm, Pattern},
        problem::{AttentionOutput, Visibility},
    };

    fn inputs(queries: usize, keys: usize) -> AttentionInputs<Flex> {
        let random = |dims| Tensor::<Flex, 4>::random(dims, Distribution::Normal(0.0, 1.0), &Default::default());
        let (queries, keys, values) = (random([2, 6, queries, 12]), random([2, 2, keys, 12]), random([2, 2, keys, 7]));
        AttentionInputs::new(queries, keys, values).expect("the shapes fit")
    }

    fn close(found: Tensor<Flex, 4>, wanted: Tensor<Flex, 4>, what: &str) {
        let largest = wanted.clone().abs().max().into_scalar().max(1.0);
        let error = (found - wanted).abs().max().into_scalar();
        assert!(error <= 3e-6 * largest, "{what}: off by {error}, of {largest}");
    }

    /// Compares with the gradients of native kernels, which are themselves tested against `Autodiff`.
    #[test]
    fn blocks_are_the_native_gradients() {
        let inputs = inputs(401, 463);
        let shape = inputs.mask_shape();
        let device = inputs.device();
        let index = |slot: usize| if slot % 5 == 3 { -1 } else { ((slot * 7 + slot / 9) % 463) as i32 };
        let slots = shape.rows() * 9;
        let dims = [shape.batch, shape.heads, shape.queries, 9];
        let indices = TensorData::new((0..slots).map(index).collect::<Vec<_>>(), dims);
        let probability = (0..slots).map(|slot| if slot % 4 == 1 { 0.3f32 } else { 1.0 }).collect::<Vec<_>>();
        let probability = Tensor::from_data(TensorData::new(probability, dims), &device);
        let rows = KeyIndices::new(Tensor::from_data(indices, &device), probability).expect("the shapes agree");
        let patterns = [(0, 7), (5, 64), (3, 111), (9, 0), (0, usize::MAX)];
        let patterns =
            patterns.map(|(sink, window)| Mask::pattern(shape, Pattern { sink, window, offset: 62 }, &device));
        let lists = Mask::from_indices(shape, rows).expect("each key once in a row");
        for seen in [Visibility::Full, Visibility::Causal { offset: 62 }, Visibility::Causal { offset: 0 }] {
            let inputs = inputs.clone().with_visibility(seen).expect("nothing to fit");
            for mask in patterns.iter().chain([&lists]) {
                let requested = Requested { weights: false, statistics: true };
                let forward = reference_attention(&inputs, mask, requested).expect("the shapes fit");
                let AttentionOutput { output, statistics, .. } = forward;
                let log_sum_exp = statistics.expect("asked for").log_sum_exp;
                let output_gradient = output.clone().sin();
                // The log-sum-exp has the gradient 1.
                let mean = (output * output_gradient.clone()).sum_dim(3).sub_scalar(1);
                let trace = AttentionTrace { output_gradient, log_sum_exp, mean };
                let native = match mask.form() {
                    MaskForm::Pattern(pattern) => Flex::band_backward(&inputs, *pattern, &trace),
                    MaskForm::Indices(rows) => Flex::gather_backward(&inputs, rows, &trace),
                    _ => None,
                };
                let native = native.expect("on the host");
                let found = gradients_in_blocks(&inputs, mask, &trace);
                let what = format!("{:?} of {:?}", inputs.visibility(), mask.form());
                let what = &what[..what.len().min(100)];
                close(found.queries, native.queries, what);
                close(found.keys, native.keys, what);
                close(found.values, native.values, what);
            }
        }
    }

    /// Two keys hold NaN. One is hidden from all queries, and the other from the first query only.
    #[test]
    fn hidden_keys_leave_no_trace() {
        let plain = inputs(5, 9);
        let device = plain.device();
        let hidden = (0..5 * 9).map(|at| at % 9 == 6 || at == 2).collect::<Vec<_>>();
        let hidden = Tensor::from_data(TensorData::new(hidden, [1, 1, 5, 9]), &device);
        let mask = Mask::full(plain.mask_shape(), &device);
        let gradients = |bad: &[usize]| {
            let spoil = |tensor: &Tensor<Flex, 4>| {
                bad.iter().fold(tensor.clone(), |tensor, &key| {
                    let [batch, heads, _, width] = tensor.dims();
                    let none = Tensor::full([batch, heads, 1, width], f32::NAN, &device);
                    tensor.slice_assign([0..batch, 0..heads, key..key + 1, 0..width], none)
                })
            };
            let inputs = AttentionInputs::new(plain.queries().clone(), spoil(plain.keys()), spoil(plain.values()))
                .and_then(|inputs| inputs.with_visibility(Visibility::Masked(hidden.clone())))
                .expect("the shapes fit");
            let requested = Requested { weights: false, statistics: true };
            let forward = reference_attention(&inputs, &mask, requested).expect("the shapes fit");
            let AttentionOutput { output, statistics, .. } = forward;
            let output_gradient = output.ones_like();
            let trace = AttentionTrace {
                mean: output.sum_dim(3),
                log_sum_exp: statistics.expect("asked for").log_sum_exp,
                output_gradient,
            };
            gradients_in_blocks(&inputs, &mask, &trace)
        };
        let numbers = |tensor: Tensor<Flex, 4>| tensor.into_data().iter::<f32>().collect::<Vec<_>>();
        let (wanted, by_all, by_some) = (gradients(&[]), gradients(&[6]), gradients(&[2, 6]));
        assert_eq!(numbers(by_all.queries), numbers(wanted.queries.clone()));
        assert_eq!(numbers(by_all.keys), numbers(wanted.keys.clone()));
        assert_eq!(numbers(by_all.values), numbers(wanted.values));
        let (first, rest) = (by_some.queries.clone().slice_dim(2, 0..1), by_some.queries.slice_dim(2, 1..5));
        assert_eq!(numbers(first), numbers(wanted.queries.slice_dim(2, 0..1)));
        assert!(numbers(rest).iter().all(|x| x.is_nan()));
        assert!(numbers(by_some.keys.slice_dim(2, 6..7)).iter().all(|&x| x == 0.0));
        assert!(numbers(by_some.values.slice_dim(2, 6..7)).iter().all(|&x| x == 0.0));
    }
}
