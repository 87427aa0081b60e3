use burn::tensor::backend::Backend;

use crate::{
    kernels::{
        self,
        reference::{attend_in_blocks, sink_logits, window},
    },
    mask::{Mask, MaskError},
    problem::{AttentionError, AttentionInputs, AttentionOutput, Requested},
};

/// Dense attention: every query attends to every key that it sees. It is the reference for all sparse methods.
///
/// The scores in memory at the same time are limited to 64 MiB in f32, unless the weights are requested. Backends with
/// [native kernels](crate::kernels) use them.
///
/// # Panics
/// If a required tensor, such as the weights, is larger than the device can hold. [masked_attention] over the [full
/// mask](Mask::full) computes the same and returns an error instead.
pub fn dense_attention<B: Backend>(inputs: &AttentionInputs<B>, requested: Requested) -> AttentionOutput<B> {
    match attend(inputs, &Mask::full(inputs.mask_shape(), &inputs.device()), requested) {
        Ok(output) => output,
        Err(error) => panic!("{error}"),
    }
}

/// Attention of every query over its kept and visible keys. A key that was kept with probability `p` counts `1 / p`
/// times.
///
/// Backends with [native kernels](crate::kernels) use them. Other backends compute [reference_attention].
///
/// # Errors
/// If the mask does not have the shape of the inputs, or a required tensor is larger than the device can hold.
pub fn masked_attention<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    requested: Requested,
) -> Result<AttentionOutput<B>, AttentionError> {
    validate(inputs, mask)?;
    attend(inputs, mask, requested)
}

/// The same as [masked_attention], in plain tensor operations on every backend. Native kernels are tested against it.
/// `Autodiff` tracks it where no native kernel has its own gradients.
///
/// Masks in the form of a [pattern](crate::mask::MaskForm::Pattern) are computed block by block, over the columns that
/// the block keeps. Other masks are computed over all visible keys.
///
/// # Errors
/// If the mask does not have the shape of the inputs, or a required tensor is larger than the device can hold.
pub fn reference_attention<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    requested: Requested,
) -> Result<AttentionOutput<B>, AttentionError> {
    validate(inputs, mask)?;
    attend_with(inputs, mask, requested, attend_in_blocks)
}

fn validate<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Result<(), AttentionError> {
    match mask.shape() == inputs.mask_shape() {
        true => Ok(()),
        false => Err(AttentionError::Mask(MaskError::Shape {
            what: "the attention's queries over its keys",
            found: inputs.mask_shape().dims().to_vec(),
            expected: mask.shape(),
        })),
    }
}

fn attend<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    requested: Requested,
) -> Result<AttentionOutput<B>, AttentionError> {
    attend_with(inputs, mask, requested, |inputs, mask, requested| match kernels::attend(inputs, mask, requested) {
        Some(output) => Ok(output),
        None => attend_in_blocks(inputs, mask, requested),
    })
}

/// Attention, computed by `compute` over the keys. A sliding window becomes a part of the mask if possible. Sinks join
/// afterwards.
fn attend_with<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    requested: Requested,
    compute: impl FnOnce(&AttentionInputs<B>, &Mask<B>, Requested) -> Result<AttentionOutput<B>, AttentionError>,
) -> Result<AttentionOutput<B>, AttentionError> {
    let of_mask = window::into_mask(inputs, mask);
    let (inputs, mask) = of_mask.as_ref().map_or((inputs, mask), |(inputs, mask)| (inputs, mask));
    match inputs.sink_logits() {
        Some(logits) => {
            let of_keys = compute(inputs, mask, Requested { statistics: true, ..requested })?;
            Ok(sink_logits::join(of_keys, logits.clone(), inputs.queries().dtype(), requested))
        }
        None => compute(inputs, mask, requested),
    }
}
