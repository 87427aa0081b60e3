//! The query-key pairs that attention leaves out: the key is hidden from the query, or the query does not keep it.

use std::ops::Range;

use burn::tensor::{Bool, Tensor, backend::Backend};

use crate::{
    mask::{Mask, MaskForm, pattern_kept},
    problem::{AttentionInputs, Visibility, take_columns},
};

/// The pairs of some rows and columns that are dropped.
#[derive(Debug, Clone)]
pub(crate) struct Dropped<B: Backend> {
    /// `[batch or 1, heads or 1, rows, columns]`
    pub pairs: Tensor<B, 4, Bool>,
    /// The number of columns at the start that no row drops, as far as it is known without reading `pairs`. The true
    /// number may be larger.
    pub whole: usize,
}

impl<B: Backend> Dropped<B> {
    /// Replaces the dropped pairs of `[batch, heads, rows, columns]` by a number.
    pub fn fill(&self, pairs: Tensor<B, 4>, number: f64) -> Tensor<B, 4> {
        let dropped = self.pairs.clone().expand(pairs.dims());
        pairs.mask_fill(dropped, number)
    }
}

/// The dropped pairs and the sampling probabilities of some rows and columns.
pub(crate) struct Pairs<B: Backend> {
    /// `None` if no pair is dropped.
    pub dropped: Option<Dropped<B>>,
    /// The logarithm of the probabilities, 0 where the mask does not keep the key. `None` if the mask has no
    /// probabilities.
    pub log_probability: Option<Tensor<B, 4>>,
}

impl<B: Backend> Pairs<B> {
    pub fn of(inputs: &AttentionInputs<B>, mask: &Mask<B>, rows: &Range<usize>, columns: &[Range<usize>]) -> Self {
        let as_seen = mask.is_full() || keeps_what_is_seen(inputs, mask);
        let (not_kept, log_probability) = if as_seen { (None, None) } else { not_kept(mask, rows, columns) };
        let hidden = inputs.visibility().hidden(inputs.mask_shape(), rows.clone(), columns, &inputs.device());
        let pairs = match (not_kept, hidden) {
            (Some(not_kept), Some(hidden)) => Some(either(not_kept, hidden)),
            (one, other) => one.or(other),
        };
        let whole = if as_seen { seen_by_all(inputs, rows, columns) } else { 0 };
        Self { dropped: pairs.map(|pairs| Dropped { pairs, whole }), log_probability }
    }
}

/// Whether a pattern keeps every visible key: the pattern and a causal visibility both end at the query's position.
fn keeps_what_is_seen<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> bool {
    match (mask.form(), inputs.visibility()) {
        (MaskForm::Pattern(pattern), Visibility::Causal { offset }) => {
            // The window is compared with positions, because the position of a query can be behind the last key.
            pattern.offset == *offset as isize && pattern.window >= offset + inputs.mask_shape().queries
        }
        _ => false,
    }
}

/// The number of columns at the start that all of some rows see, as far as it is known without reading a tensor.
fn seen_by_all<B: Backend>(inputs: &AttentionInputs<B>, rows: &Range<usize>, columns: &[Range<usize>]) -> usize {
    match (inputs.visibility(), columns) {
        (Visibility::Causal { offset }, [range]) if range.start == 0 => {
            range.end.min(offset.saturating_add(rows.start).saturating_add(1))
        }
        _ => 0,
    }
}

/// The pairs that a mask does not keep, and the logarithms of its probabilities.
fn not_kept<B: Backend>(
    mask: &Mask<B>,
    rows: &Range<usize>,
    columns: &[Range<usize>],
) -> (Option<Tensor<B, 4, Bool>>, Option<Tensor<B, 4>>) {
    if let MaskForm::Pattern(pattern) = mask.form() {
        let keys = mask.shape().keys;
        let kept = pattern_kept::<B>(*pattern, rows.clone(), columns, keys, &mask.device());
        return (Some(kept.bool_not()), None);
    }
    let weights = take_columns(mask.narrow_rows(rows.clone()).to_dense(), columns);
    let dropped = weights.clone().equal_elem(0.0);
    let log_probability = weights.mask_fill(dropped.clone(), 1.0).log();
    (Some(dropped), Some(log_probability))
}

/// The elementwise OR of two tensors `[batch or 1, heads or 1, rows, columns]`.
fn either<B: Backend>(one: Tensor<B, 4, Bool>, other: Tensor<B, 4, Bool>) -> Tensor<B, 4, Bool> {
    let (mut dims, others) = (one.dims(), other.dims());
    for (length, other) in dims.iter_mut().zip(others) {
        *length = (*length).max(other);
    }
    one.expand(dims).bool_or(other.expand(dims))
}
