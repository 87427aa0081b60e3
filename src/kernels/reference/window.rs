use burn::tensor::backend::Backend;

use crate::{
    mask::{Mask, MaskForm, Pattern},
    problem::{AttentionInputs, Visibility},
};

/// The same attention with causal visibility, and with the sliding window as a part of the mask. Its cost then depends
/// on the length of the window, and native kernels support it. `None` if the visibility is not a window, or the mask
/// within the window has no such form.
pub(crate) fn into_mask<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
) -> Option<(AttentionInputs<B>, Mask<B>)> {
    let Visibility::Window { offset, window } = *inputs.visibility() else {
        return None;
    };
    let seen = Pattern::local(window, offset as isize);
    let form = match mask.form() {
        MaskForm::Full => MaskForm::Pattern(seen),
        MaskForm::Pattern(pattern) => MaskForm::Pattern(pattern.within(seen)?),
        MaskForm::Indices(rows) => MaskForm::Indices(rows.inside(seen)),
        MaskForm::Empty | MaskForm::Dense(_) => return None,
    };
    Some((inputs.causal_from(offset), Mask::with_form(mask.shape(), form, &mask.device())))
}
