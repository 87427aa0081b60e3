//! A tuple of maskers is itself a masker: a chain that can also hold maskers that a program defines.

use burn::tensor::backend::Backend;

use super::choice::{add_all, mask_of_all, most_before_window};
use crate::{
    mask::Mask,
    masker::Masker,
    problem::{AttentionError, AttentionInputs},
    state::LayerState,
};

macro_rules! tuples_are_maskers {
    ($(($($masker:ident $place:tt),*))*) => {
        $(impl<B: Backend, $($masker: Masker<B>),*> Masker<B> for ($($masker,)*) {
            fn add(
                &self,
                inputs: &AttentionInputs<B>,
                state: &mut LayerState,
                mask: Mask<B>,
            ) -> Result<Mask<B>, AttentionError> {
                let maskers: [&dyn Masker<B>; _] = [$(&self.$place),*];
                at_most_one_sampler(&maskers)?;
                add_all(maskers.into_iter(), inputs, state, mask)
            }

            fn mask(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Mask<B>, AttentionError> {
                let maskers: [&dyn Masker<B>; _] = [$(&self.$place),*];
                at_most_one_sampler(&maskers)?;
                mask_of_all(maskers.into_iter(), inputs, state)
            }

            fn keys_before_window(&self) -> Option<usize> {
                let maskers: [&dyn Masker<B>; _] = [$(&self.$place),*];
                most_before_window(maskers.into_iter())
            }

            fn samples(&self) -> bool {
                $(self.$place.samples())||*
            }
        })*
    };
}

tuples_are_maskers! {
    (M0 0, M1 1)
    (M0 0, M1 1, M2 2)
    (M0 0, M1 1, M2 2, M3 3)
    (M0 0, M1 1, M2 2, M3 3, M4 4)
    (M0 0, M1 1, M2 2, M3 3, M4 4, M5 5)
}

/// Returns an error if more than one masker samples. A tuple has no constructor that could check this, so it is checked
/// at each use.
fn at_most_one_sampler<B: Backend>(maskers: &[&dyn Masker<B>]) -> Result<(), AttentionError> {
    match maskers.iter().filter(|masker| masker.samples()).count() {
        0 | 1 => Ok(()),
        samplers => Err(AttentionError::Value {
            field: "maskers",
            value: format!("a tuple with {samplers} that sample"),
            allowed: "with at most one that samples, since each estimates all that the others left out",
        }),
    }
}
