//! Attention over kept keys in f64, in the simplest form.

use burn::tensor::{Tensor, backend::Backend};
use sparse_attention_hub::{mask::Csr, prelude::*};

/// The largest relative error of an output row, against attention in f64 over the kept keys.
pub fn largest_error<B: Backend>(inputs: &AttentionInputs<B>, kept: &Csr, output: &Tensor<B, 4>) -> f64 {
    let MaskShape { heads, queries, keys, .. } = inputs.mask_shape();
    let (head_dim, value_dim) = (inputs.queries().dims()[3], inputs.values().dims()[3]);
    let group = heads / inputs.kv_heads();
    let [query, key, value, output] = [inputs.queries(), inputs.keys(), inputs.values(), output].map(host);
    let mut largest = 0f64;
    for (row, found) in output.chunks(value_dim).enumerate() {
        let first = row / queries / group * keys;
        let seen = keys - queries + row % queries;
        let slots = kept.ptr[row]..kept.ptr[row + 1];
        let visible = slots.filter(|&slot| kept.indices[slot] <= seen);
        let query = &query[row * head_dim..][..head_dim];
        let logits = visible.map(|slot| {
            let at = first + kept.indices[slot];
            let dot = query.iter().zip(&key[at * head_dim..][..head_dim]).map(|(a, b)| a * b).sum::<f64>();
            (at, dot * inputs.scale() - f64::from(kept.data[slot]).ln())
        });
        let logits = logits.collect::<Vec<_>>();
        let maximum = logits.iter().fold(f64::NEG_INFINITY, |maximum, (_, logit)| maximum.max(*logit));
        let (mut sum, mut wanted) = (0.0, vec![0.0; value_dim]);
        for (at, logit) in logits {
            let share = (logit - maximum).exp();
            sum += share;
            wanted.iter_mut().zip(&value[at * value_dim..][..value_dim]).for_each(|(w, v)| *w += share * v);
        }
        if sum > 0.0 {
            wanted.iter_mut().for_each(|w| *w /= sum);
        }
        let difference = found.iter().zip(&wanted).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        let length = wanted.iter().map(|w| w * w).sum::<f64>().sqrt();
        let error = if difference == 0.0 { 0.0 } else { difference / length };
        // NaN counts as an infinite error.
        largest = if error.is_nan() { f64::INFINITY } else { largest.max(error) };
    }
    largest
}

/// The number of rows whose kept keys differ between two methods.
pub fn rows_that_differ(a: &Csr, b: &Csr) -> usize {
    let row = |csr: &Csr, row: usize| {
        let mut keys = csr.indices[csr.ptr[row]..csr.ptr[row + 1]].to_vec();
        keys.sort_unstable();
        keys
    };
    (0..a.ptr.len() - 1).filter(|&at| row(a, at) != row(b, at)).count()
}

fn host<B: Backend>(tensor: &Tensor<B, 4>) -> Vec<f64> {
    tensor.to_data().convert::<f64>().iter::<f64>().collect()
}
