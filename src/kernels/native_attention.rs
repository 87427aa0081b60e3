//! Which way attention is computed: the one place where that is decided, with the measurements that decide it.

use burn::tensor::backend::Backend;

use super::dispatch::table;
use crate::{
    attention::{AttentionInputs, AttentionOutput, Requested, Visibility},
    mask::{Mask, MaskForm, Pattern},
};

/// Attention by native kernels; `None` where generic tensor operations do better, or where there are none.
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
        // Dense attention that trains is what sparse attention that trains is measured against: the reference.
        MaskForm::Full if B::ad_enabled(&inputs.device()) => None,
        MaskForm::Full => (table.band_attention)(inputs, EVERYTHING, requested),
        MaskForm::Pattern(pattern) => (table.band_attention)(inputs, *pattern, requested),
        MaskForm::Indices(rows) => (table.gather_attention)(inputs, rows, requested),
        MaskForm::Dense(_) => None,
    }
}

const EVERYTHING: Pattern = Pattern { sink: usize::MAX, window: 0, offset: 0 };
