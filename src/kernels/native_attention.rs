//! Decides whether attention runs in native kernels or in generic tensor operations. No other file decides this.

use burn::tensor::backend::Backend;

use super::dispatch::table;
use crate::{
    mask::{Mask, MaskForm, Pattern},
    problem::{AttentionInputs, AttentionOutput, Requested, Visibility},
};

/// Attention by native kernels. `None` if generic tensor operations should run instead.
pub(crate) fn attend<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    requested: Requested,
) -> Option<AttentionOutput<B>> {
    let closed_form = matches!(inputs.visibility(), Visibility::Full | Visibility::Causal { .. });
    if requested.weights || !closed_form {
        return None;
    }
    let table = table::<B>()?;
    match mask.form() {
        MaskForm::Empty => None,
        // Under `Autodiff`, dense attention runs in generic tensor operations: it is the reference for sparse
        // attention.
        MaskForm::Full if B::ad_enabled(&inputs.device()) => None,
        MaskForm::Full => (table.band_attention)(inputs, EVERYTHING, requested),
        MaskForm::Pattern(pattern) => (table.band_attention)(inputs, *pattern, requested),
        MaskForm::Indices(rows) => (table.gather_attention)(inputs, rows, requested),
        MaskForm::Dense(_) => None,
    }
}

const EVERYTHING: Pattern = Pattern { sink: usize::MAX, window: 0, offset: 0 };
