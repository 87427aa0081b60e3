//! Attention over masks of every form.

use sparse_attention_hub::attention::{
    AttentionOutput, Requested, dense_attention, masked_attention, reference_attention,
};

use super::{naive, runs};
use crate::generators::{
    B, Checked, Fault, Source, about,
    fault::hold,
    masks,
    numbers::{first_far, numbers},
    problem::{Problem, Sizes},
};

/// Attention over a mask, with native kernels and with tensor operations. Keys that no query keeps and sees hold
/// arbitrary numbers.
///
/// # Errors
/// If it differs from attention in f64.
pub fn check(source: &mut Source) -> Checked {
    let problem = Problem::draw(source);
    let drawn = masks::draw(source, problem.sizes.mask_shape());
    let drawn = drawn.map_err(|error| Fault::new("a valid mask is accepted", error.to_string()))?;
    let used = used(&problem, &drawn.weights);
    let mut problem = problem.changed(source, |place| !used[place]);
    if source.once_in(3) {
        one_not_a_number(source, &mut problem);
    }
    let inputs = runs::inputs(&problem)?;
    let requested = Requested { weights: source.once_in(3), statistics: source.once_in(3) };
    let subject = format!("{} over {}", problem.summary(), drawn.made);
    about(subject.clone());
    let failed = |error| Fault::new("attention over a valid mask works", format!("{subject}: {error}"));
    let native = masked_attention(&inputs, &drawn.mask, requested).map_err(failed)?;
    let plain = reference_attention(&inputs, &drawn.mask, requested).map_err(failed)?;
    let naive = naive::rows(&problem, &drawn.weights);
    compare(&problem, &native, &naive, requested).map_err(|fault| fault.of(format!("native, {subject}")))?;
    compare(&problem, &plain, &naive, requested).map_err(|fault| fault.of(format!("plain, {subject}")))?;
    if drawn.mask.is_full() {
        let (dense, native) = (numbers(&dense_attention(&inputs, requested).output), numbers(&native.output));
        hold!(first_far(&dense, &native, 0.0).is_none(), "dense attention is that over the full mask", "{subject}");
    }
    Ok(())
}

/// For each key, whether some row keeps and sees it.
fn used(problem: &Problem, weights: &[f64]) -> Vec<bool> {
    let Sizes { batch, kv_heads, keys, .. } = problem.sizes;
    let mut used = vec![false; batch * kv_heads * keys];
    for ([batch, head, query], weights) in runs::all_rows(problem).into_iter().zip(weights.chunks(keys)) {
        for (key, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            let seen = problem.bias([batch, head, query, key]).is_some();
            used[problem.place_of_key(batch, head, key)] |= seen && *weight > 0.0;
        }
    }
    used
}

/// Sets a number of one key or value to NaN. It must show in the rows that keep and see that key, and in no other row.
fn one_not_a_number(source: &mut Source, problem: &mut Problem) {
    let numbers = if source.once_in(2) { &mut problem.keys } else { &mut problem.values };
    let at = source.below(numbers.len());
    numbers[at] = f64::NAN;
}

fn compare(problem: &Problem, found: &AttentionOutput<B>, naive: &[naive::Row], requested: Requested) -> Checked {
    let Sizes { queries, keys, value_dim, .. } = problem.sizes;
    let output = numbers(&found.output);
    let shares = found.weights.as_ref().map(numbers);
    let log_sum_exp = found.statistics.as_ref().map(|all| numbers(&all.log_sum_exp));
    hold!(shares.is_some() == requested.weights, "what is requested is given", "weights: {}", shares.is_some());
    hold!(log_sum_exp.is_some() == requested.statistics, "what is requested is given", "statistics");
    for (row, naive) in naive.iter().enumerate() {
        let at = format!("head {}, query {}", row / queries, row % queries);
        let of_row = &output[row * value_dim..][..value_dim];
        naive.check_output(problem.dtype, of_row, "attention over a mask").map_err(|fault| fault.of(&at))?;
        let shares = shares.as_ref().map_or(&[][..], |shares| &shares[row * keys..][..keys]);
        let log_sum_exp = log_sum_exp.as_ref().map_or(naive.log_sum_exp, |all| all[row]);
        naive.check_softmax(shares, log_sum_exp).map_err(|fault| fault.of(&at))?;
    }
    Ok(())
}
