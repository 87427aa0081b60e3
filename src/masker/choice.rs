//! Which maskers are at work in a call, and what they keep.

use std::{collections::BTreeMap, ops::Range};

use burn::tensor::backend::Backend;

use super::{ConfigError, LayerState, Masker};
use crate::{
    attention::{AttentionError, AttentionInputs, Phase},
    mask::Mask,
};

/// Which of a list of maskers are at work in which layer and phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// In all layers that are not named.
    pub others: Chains,
    /// In the layers that are named.
    pub layers: BTreeMap<usize, Chains>,
    /// Whether the method says nothing of phases and layers. As one masker of several, a list without maskers then adds no
    /// key; a phase without maskers is dense there too.
    pub is_list: bool,
}

/// The maskers of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chains {
    /// The same in both phases.
    Both(Range<usize>),
    /// Those of each phase, in the order of [Phase::ALL], which remember apart.
    Phases([Range<usize>; 2]),
}

impl Choice {
    /// All of a number of maskers in every call.
    pub fn all(count: usize) -> Self {
        Self { others: Chains::Both(0..count), layers: BTreeMap::new(), is_list: true }
    }

    /// Whether some maskers are at work in one phase only.
    pub fn has_phases(&self) -> bool {
        self.layers.values().chain([&self.others]).any(|chains| matches!(chains, Chains::Phases(_)))
    }

    /// The maskers of a call, and the phase whose memory they work with, if phases remember apart.
    fn of_call<B: Backend>(&self, inputs: &AttentionInputs<B>) -> (Range<usize>, Option<Phase>) {
        match self.layers.get(&inputs.layer()).unwrap_or(&self.others) {
            Chains::Both(maskers) => (maskers.clone(), None),
            Chains::Phases([prefill, decode]) => match inputs.phase() {
                Phase::Prefill => (prefill.clone(), Some(Phase::Prefill)),
                Phase::Decode => (decode.clone(), Some(Phase::Decode)),
            },
        }
    }

    /// What the maskers keep that are the whole method. Without maskers: all.
    pub fn mask<'a, B: Backend, T>(
        &self,
        maskers: &'a [T],
        as_masker: fn(&'a T) -> &'a dyn Masker<B>,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
    ) -> Result<Mask<B>, AttentionError> {
        let (chosen, phase) = self.of_call(inputs);
        let chosen = maskers[chosen].iter().map(as_masker);
        state.in_phase(phase, |state| mask_of_all(chosen, inputs, state))
    }

    /// The mask with what the maskers add that are one masker of a method.
    pub fn add<'a, B: Backend, T>(
        &self,
        maskers: &'a [T],
        as_masker: fn(&'a T) -> &'a dyn Masker<B>,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        let (chosen, phase) = self.of_call(inputs);
        if chosen.is_empty() && !self.is_list {
            return Ok(Mask::full(mask.shape(), &mask.device()));
        }
        let chosen = maskers[chosen].iter().map(as_masker);
        state.in_phase(phase, |state| add_all(chosen, inputs, state, mask))
    }
}

/// Checks that a chain holds at most one masker that samples.
pub(crate) fn at_most_one_sampler<'a, B: Backend>(
    maskers: impl Iterator<Item = &'a dyn Masker<B>>,
) -> Result<(), ConfigError> {
    let samplers = maskers.enumerate().filter(|(_, masker)| masker.samples());
    match samplers.map(|(place, _)| place).collect::<Vec<_>>()[..] {
        [first, second, ..] => Err(ConfigError::TwoSamplers { first, second }),
        _ => Ok(()),
    }
}

/// How many keys before a sliding window a chain needs: as many as the masker that needs the most.
pub(super) fn most_before_window<'a, B: Backend>(
    mut maskers: impl Iterator<Item = &'a dyn Masker<B>>,
) -> Option<usize> {
    maskers.try_fold(0, |most, masker| Some(most.max(masker.keys_before_window()?)))
}

/// What a chain keeps that is the whole method. Without maskers: all.
pub(super) fn mask_of_all<'a, B: Backend>(
    maskers: impl ExactSizeIterator<Item = &'a dyn Masker<B>>,
    inputs: &AttentionInputs<B>,
    state: &mut LayerState,
) -> Result<Mask<B>, AttentionError> {
    let (shape, device) = (inputs.mask_shape(), inputs.device());
    state.set_sampling_report(None);
    if maskers.len() == 0 {
        return Ok(Mask::full(shape, &device));
    }
    let mut mask = Mask::empty(shape, &device);
    for (place, masker) in maskers.enumerate() {
        // Nothing can be added to a full mask.
        if mask.is_full() {
            break;
        }
        state.enter(place);
        mask = masker.add(inputs, state, mask)?;
    }
    Ok(mask)
}

/// The mask with what a chain adds that is one masker of a method.
pub(super) fn add_all<'a, B: Backend>(
    maskers: impl Iterator<Item = &'a dyn Masker<B>>,
    inputs: &AttentionInputs<B>,
    state: &mut LayerState,
    mut mask: Mask<B>,
) -> Result<Mask<B>, AttentionError> {
    for (place, masker) in maskers.enumerate() {
        if mask.is_full() {
            break;
        }
        mask = state.part(place, |state| masker.add(inputs, state, mask))?;
    }
    Ok(mask)
}
