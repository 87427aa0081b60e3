//! Dropout of attention weights. Its cost depends on the number of kept keys.

use burn::tensor::{Tensor, backend::Backend};
use rand::RngExt;

use crate::{
    attention::masked_attention,
    mask::{Kept, Mask, MaskForm, MaskShape},
    problem::{AttentionError, AttentionInputs, AttentionOutput, Requested, Visibility},
    state::Randomness,
};

/// Attention with dropout after the softmax. Each weight is dropped with a probability, and the remaining weights are
/// scaled up.
///
/// A dropped key still counts in the denominator of the softmax. A mask cannot express this. So every key is given
/// twice, and the second copy has the value 0. A row keeps the second copy of a key if its weight is dropped, and the
/// first copy otherwise. Attention over these copies equals attention with dropout, forward and backward, at the cost
/// of the keys that the mask keeps. The statistics are those without dropout, except the numerator.
///
/// # Errors
/// If the mask does not have the shape of the inputs.
pub(super) fn attention_with_dropout<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    probability: f64,
    randomness: Randomness,
    requested: Requested,
) -> Result<AttentionOutput<B>, AttentionError> {
    let shape = inputs.mask_shape();
    let seen = inputs.visibility().closed_form();
    let lists = match mask.form() {
        MaskForm::Indices(rows) => rows.to_host(),
        _ => Vec::new(),
    };
    let kept = |row: usize| -> Vec<Kept> {
        match mask.form() {
            MaskForm::Pattern(pattern) => {
                let keys = pattern.row(row % shape.queries, shape.keys).into_iter().flatten();
                keys.map(|key| Kept::certainly(key as u32)).collect()
            }
            _ => lists.get(row).cloned().unwrap_or_default(),
        }
    };
    let rows = (0..shape.rows()).map(|row| {
        let mut rng = randomness.row(row);
        let mut kept = kept(row);
        if let Some(seen) = &seen {
            let seen = seen(row % shape.queries, shape.keys);
            kept.retain(|kept| seen.contains(&(kept.key as usize)));
        }
        for kept in &mut kept {
            if rng.random::<f64>() < probability {
                kept.key += shape.keys as u32;
            }
        }
        kept
    });
    let rows = rows.collect::<Vec<_>>();
    let twice = MaskShape { keys: 2 * shape.keys, ..shape };
    let mask = Mask::empty(twice, &inputs.device()).merge_disjoint(&rows)?;
    let visibility = match inputs.visibility() {
        // The rows do not contain keys that a closed form hides.
        Visibility::Full | Visibility::Causal { .. } | Visibility::Window { .. } => Visibility::Full,
        Visibility::Masked(hidden) => Visibility::Masked(Tensor::cat(vec![hidden.clone(); 2], 3)),
        Visibility::Biased(bias) => Visibility::Biased(Tensor::cat(vec![bias.clone(); 2], 3)),
    };
    let (keys, values) = (inputs.keys().clone(), inputs.values().clone());
    let scaled = values.clone().div_scalar(1.0 - probability);
    let inputs = AttentionInputs::new(
        inputs.queries().clone(),
        Tensor::cat(vec![keys.clone(), keys], 2),
        Tensor::cat(vec![scaled, values.zeros_like()], 2),
    )?
    .with_visibility(visibility)?
    .with_scale(inputs.scale())?
    .with_layer(inputs.layer());
    masked_attention(&inputs, &mask, requested)
}
