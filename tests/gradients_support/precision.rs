//! Gradients at large logits against those in f64.

use burn::tensor::backend::AutodiffBackend;

use super::*;

on_each_backend!(gradients_at_large_logits_are_those_in_f64);

/// The sizes of the logits: their standard deviations, or their common offset if it is shared.
const LOGITS: [f64; 3] = [1.0, 150.0, 1500.0];

/// Inputs with logits of standard deviation `logits`. If `shared`, all logits have about this offset and a standard
/// deviation of 1.
fn inputs_of<B: Backend>(sizes: Sizes, logits: f64, shared: bool) -> AttentionInputs<B> {
    let plain = inputs::<B>(sizes, 5).causal().unwrap();
    let grow = |tensor_of: &Leaf<B>| {
        let (dims, root) = (tensor_of.dims(), logits.sqrt() as f32);
        let mut numbers = host(tensor_of);
        for (at, number) in numbers.iter_mut().enumerate() {
            match (shared, at % dims[3]) {
                (true, 0) => *number = root * (dims[3] as f32).powf(0.25),
                (true, _) => (),
                (false, _) => *number *= root,
            }
        }
        tensor::<B>(&numbers, dims)
    };
    over(&plain, [grow(plain.queries()), grow(plain.keys()), plain.values().clone()])
}

/// The gradients of the sum of the output times its [multipliers], computed naively in f64.
fn naive_gradients<B: Backend>(inputs: &AttentionInputs<B>, weights: &[f32]) -> [Vec<f64>; 3] {
    let [_, heads, queries, keys] = inputs.mask_shape().dims();
    let (kv_heads, head_dim, value_dim) = (inputs.kv_heads(), inputs.queries().dims()[3], inputs.values().dims()[3]);
    let tensors = [inputs.queries(), inputs.keys(), inputs.values()].map(|tensor| numbers(tensor.clone()));
    let [query, key, value] = &tensors;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let kv_of = |row: usize| row / queries / heads * kv_heads + row / queries % heads / (heads / kv_heads);
    let (mut shares, mut output) = (Vec::new(), Vec::new());
    for (row, (logits, weights)) in naive_logits(inputs).chunks(keys).zip(weights.chunks(keys)).enumerate() {
        let kept = |at: usize| logits[at] > f64::NEG_INFINITY && weights[at] > 0.0;
        let maximum = (0..keys).filter(|&at| kept(at)).fold(f64::NEG_INFINITY, |most, at| most.max(logits[at]));
        let exponential = |at| if kept(at) { (logits[at] - maximum).exp() / f64::from(weights[at]) } else { 0.0 };
        let exponentials = (0..keys).map(exponential).collect::<Vec<_>>();
        let sum = exponentials.iter().sum::<f64>();
        let of_row = exponentials.iter().map(|x| if sum > 0.0 { x / sum } else { 0.0 }).collect::<Vec<_>>();
        let value_of = |key: usize, entry: usize| value[(kv_of(row) * keys + key) * value_dim + entry];
        output.extend((0..value_dim).map(|entry| (0..keys).map(|key| of_row[key] * value_of(key, entry)).sum::<f64>()));
        shares.extend(of_row);
    }
    let output_gradient = normal(&mut generator(77), output.len());
    let mut gradients = tensors.each_ref().map(|numbers| vec![0.0; numbers.len()]);
    for (at, &share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
        let (row, key_at) = (at / keys, at % keys);
        let kv = kv_of(row);
        let [q, k, v] = [row * head_dim, (kv * keys + key_at) * head_dim, (kv * keys + key_at) * value_dim];
        let gradient =
            output_gradient[row * value_dim..][..value_dim].iter().map(|&g| f64::from(g)).collect::<Vec<_>>();
        let mean = dot(&gradient, &output[row * value_dim..][..value_dim]);
        let bend = inputs.softcap().map_or(1.0, |cap| {
            let logit = dot(&query[q..][..head_dim], &key[k..][..head_dim]) * inputs.scale();
            1.0 - (logit / cap).tanh().powi(2)
        });
        let slope = share * (dot(&gradient, &value[v..][..value_dim]) - mean) * inputs.scale() * bend;
        for entry in 0..head_dim {
            gradients[0][q + entry] += slope * key[k + entry];
            gradients[1][k + entry] += slope * query[q + entry];
        }
        for entry in 0..value_dim {
            gradients[2][v + entry] += share * gradient[entry];
        }
    }
    gradients
}

fn with_weights<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Leaf<B> {
    masked_attention(inputs, mask, Requested { weights: true, statistics: true }).unwrap().output
}

fn with_sinks_of_no_weight<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Leaf<B> {
    let sink_logits = Tensor::full([mask.shape().heads], f32::NEG_INFINITY, &inputs.device());
    masked(&inputs.clone().with_sink_logits(sink_logits).unwrap(), mask)
}

/// The largest error of the gradients of queries, keys and values in each case, relative to the largest gradient, or to
/// 1 if that is larger.
fn errors<B: AutodiffBackend>(logits: f64) -> Vec<(String, [f64; 3])> {
    let ways: [(&str, Attend<B>); 4] = [
        ("attention", masked),
        ("reference", reference),
        ("weights", with_weights),
        ("sinks", with_sinks_of_no_weight),
    ];
    let mut errors = Vec::new();
    for (sizes, shared) in [(Sizes::new(1, 4, 2, 7, 40, 12), false), (Sizes::new(2, 3, 1, 33, 63, 8), true)] {
        let plain = inputs_of::<B>(sizes, logits, shared);
        let hidden = visibilities::<B>(sizes, 3).remove(3).1;
        let masked = plain.clone().with_visibility(hidden).unwrap();
        let capped = plain.clone().with_softcap(50.0).unwrap();
        for (seen, inputs) in [("causal", plain), ("masked", masked), ("capped", capped)] {
            let full = Mask::full(sizes.mask_shape(), &inputs.device());
            let pattern = Pattern { sink: 2, window: 9, offset: inputs.offset() };
            let window = Mask::pattern(sizes.mask_shape(), pattern, &inputs.device());
            for (form, mask) in [("full", full), ("window", window), ("lists", random_rows(sizes, 3, 0.5))] {
                let wanted = naive_gradients(&inputs, &host(&mask.to_dense()));
                for (way, attend) in &ways {
                    let found = gradients(&inputs, |inputs| attend(inputs, &mask));
                    let error = |at: usize| {
                        let wanted = &wanted[at];
                        let largest = wanted.iter().fold(1f64, |most, x| most.max(x.abs()));
                        let errors = found[at].iter().zip(wanted).map(|(found, wanted)| (found - wanted).abs());
                        // NaN is the largest error.
                        errors.fold(0f64, |most, error| if error <= most { most } else { error }) / largest
                    };
                    let what = format!("{way}, {form}, {seen}, {sizes:?}, logits of {logits}");
                    errors.push((what, [error(0), error(1), error(2)]));
                }
            }
        }
    }
    errors
}

/// The error of a logit is proportional to its size. The relative error of the weight is the error of the logit.
fn gradients_at_large_logits_are_those_in_f64<B: Backend>() {
    for logits in LOGITS {
        let tolerance = (2.0 * f64::from(f32::EPSILON) + 8.0 * product_rounding::<B>()) * (10.0 + logits);
        for (what, errors) in errors::<Autodiff<B>>(logits) {
            assert!(errors.iter().all(|&error| error <= tolerance), "{what}: errors of {errors:?}, above {tolerance}");
        }
    }
}

/// Reciprocals of burn-ndarray have 12 bits. The gradients must not use them.
#[cfg(all(feature = "flex", feature = "ndarray"))]
#[test]
fn ndarray_is_as_exact_as_flex() {
    for logits in LOGITS {
        let flex = errors::<Autodiff<burn_flex::Flex>>(logits);
        for ((what, found), (_, flex)) in errors::<Autodiff<burn_ndarray::NdArray>>(logits).into_iter().zip(flex) {
            for (found, flex) in found.into_iter().zip(flex) {
                // Where flex has no error, an error in the last bit is allowed.
                assert!(
                    found <= 10.0 * flex.max(f64::from(f32::EPSILON)),
                    "{what}: an error of {found}, on flex {flex}"
                );
            }
        }
    }
}
