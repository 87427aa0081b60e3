//! Calls of attention and of methods, with their results as numbers.

use burn::tensor::DType;
use sparse_attention_hub::{
    attention::{AttentionError, AttentionInputs, Requested},
    mask::Mask,
    masker::LayerState,
    method::{MaskerRegistry, ResearchAttention},
};

use super::naive;
use crate::generators::{
    B, Checked, Fault, about, device,
    fault::hold,
    methods::Method,
    numbers::{first_far, numbers, rounding},
    problem::{Problem, Sizes},
};

/// The result of a call.
#[derive(Debug, Clone)]
pub struct Run {
    pub mask: Mask<B>,
    /// The weight of every pair.
    pub weights: Vec<f64>,
    pub output: Vec<f64>,
}

/// Builds the method as research attention.
///
/// # Errors
/// If the method is refused.
pub fn built(method: &Method) -> Result<ResearchAttention<B>, Fault> {
    let text = method.text();
    about(text.clone());
    MaskerRegistry::new()
        .research_attention(&text, &device())
        .map_err(|error| Fault::new("a valid method is accepted", format!("{text}: {error}")))
}

/// The inputs of a valid problem.
///
/// # Errors
/// If the inputs are refused.
pub fn inputs(problem: &Problem) -> Result<AttentionInputs<B>, Fault> {
    problem.inputs().map_err(|error| Fault::new("valid inputs are accepted", format!("{}: {error}", problem.summary())))
}

/// Runs one call.
///
/// # Errors
/// If the method refuses the problem.
pub fn run(
    attention: &ResearchAttention<B>,
    inputs: &AttentionInputs<B>,
    state: &mut LayerState,
) -> Result<Run, AttentionError> {
    let done = attention.forward(inputs, state, Requested::default())?;
    let (weights, output) = (numbers(&done.mask.to_dense()), numbers(&done.attention.output));
    Ok(Run { mask: done.mask, weights, output })
}

/// Runs one call that must succeed.
///
/// # Errors
/// If it fails.
pub fn must_run(attention: &ResearchAttention<B>, problem: &Problem, state: &mut LayerState) -> Result<Run, Fault> {
    run(attention, &inputs(problem)?, state)
        .map_err(|error| Fault::new("a valid call works", format!("{}: {error}", problem.summary())))
}

/// Compares an output with attention in f64 over its mask.
///
/// # Errors
/// If they differ.
pub fn check_against_naive(problem: &Problem, run: &Run) -> Checked {
    let Sizes { queries, keys, value_dim, .. } = problem.sizes;
    for (at, weight) in run.weights.iter().enumerate() {
        let probability = (0.0..=1.0).contains(weight);
        hold!(probability, "a weight is a probability", "row {}, key {}: {weight}", at / keys, at % keys);
    }
    for (row, naive) in naive::rows(problem, &run.weights).iter().enumerate() {
        let found = &run.output[row * value_dim..][..value_dim];
        naive.check_output(problem.dtype, found, "attention over the mask").map_err(|fault| {
            let kept = run.weights[row * keys..][..keys].iter().filter(|weight| **weight > 0.0).count();
            fault.of(format!("head {}, query {}, {kept} keys kept", row / queries, row % queries))
        })?;
    }
    Ok(())
}

/// Compares two calls: the kept keys among the keys that both calls have, and the outputs.
///
/// `rows` are the rows of the first call. `row_of` maps each to the same row of the second call. Keys have the same
/// numbers in both calls.
///
/// # Errors
/// If a row keeps different keys, or the outputs differ.
pub fn check_same_rows(
    property: &'static str,
    (first, of_first): (&Problem, &Run),
    (second, of_second): (&Problem, &Run),
    rows: impl IntoIterator<Item = ([usize; 3], [usize; 3])>,
) -> Checked {
    for (a, b) in rows {
        let kept = |problem: &Problem, run: &Run, [batch, head, query]: [usize; 3]| {
            let Sizes { heads, queries, keys, .. } = problem.sizes;
            let row = (batch * heads + head) * queries + query;
            let weights = (0..keys).map(|key| {
                let seen = problem.bias([batch, head, query, key]).is_some();
                if seen { run.weights[row * keys + key] } else { 0.0 }
            });
            let mut weights = weights.collect::<Vec<_>>();
            // Keys after the last key of the shorter call are hidden.
            weights.truncate(weights.iter().rposition(|weight| *weight > 0.0).map_or(0, |last| last + 1));
            weights
        };
        let (kept_first, kept_second) = (kept(first, of_first, a), kept(second, of_second, b));
        hold!(
            kept_first == kept_second,
            property,
            "row {a:?} keeps {} and row {b:?} keeps {}",
            list(&kept_first),
            list(&kept_second)
        );
    }
    Ok(())
}

/// The weights that are not 0, with their keys.
pub fn list(weights: &[f64]) -> String {
    let kept = weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0);
    let kept = kept.map(|(key, weight)| if *weight == 1.0 { format!("{key}") } else { format!("{key} ({weight:e})") });
    kept.collect::<Vec<_>>().join(", ")
}

/// Compares outputs of the same rows over the same keys. The keys of other rows may change the form of the mask, and
/// with it the order of sums.
///
/// # Errors
/// If an output differs by more than the rounding of another order.
pub fn check_same_output(property: &'static str, problem: &Problem, first: &[f64], second: &[f64]) -> Checked {
    let width = problem.sizes.value_dim;
    let share = match problem.dtype {
        DType::F16 | DType::BF16 => 2.0 * rounding(problem.dtype),
        wide => 100.0 * rounding(wide),
    };
    for (row, (a, b)) in first.chunks(width).zip(second.chunks(width)).enumerate() {
        hold!(first_far(a, b, share).is_none(), property, "the output of row {row} is {b:?} and was {a:?}");
    }
    Ok(())
}

/// The batch, head and query of every row.
pub fn all_rows(problem: &Problem) -> Vec<[usize; 3]> {
    let Sizes { batch, heads, queries, .. } = problem.sizes;
    let number = |row: usize| [row / queries / heads, row / queries % heads, row % queries];
    (0..batch * heads * queries).map(number).collect()
}

/// Types in which the scores of a key do not depend on how the work is split, because rounding rarely makes ties.
pub fn is_wide(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64)
}
