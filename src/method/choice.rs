//! The maskers that run in a call, and the keys that they keep.

use std::{collections::BTreeMap, ops::Range};

use burn::tensor::backend::Backend;

use crate::{
    config::ConfigError,
    mask::Mask,
    masker::Masker,
    problem::{AttentionError, AttentionInputs, Phase},
    state::LayerState,
};

/// Which maskers of a list run in which layer and phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The maskers of all layers that the method does not name.
    pub others: Chains,
    /// The maskers of the layers that the method names.
    pub layers: BTreeMap<usize, Chains>,
    /// Whether the method is a list. As one masker among others, a list without maskers adds no key, while a phase
    /// without maskers adds all keys.
    pub is_list: bool,
}

/// The maskers of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chains {
    /// The same maskers in both phases.
    Both(Range<usize>),
    /// The maskers of each phase, in the order of [Phase::ALL]. Each phase has its own memory.
    Phases([Range<usize>; 2]),
}

impl Choice {
    /// All of `count` maskers, in every call.
    pub fn all(count: usize) -> Self {
        Self { others: Chains::Both(0..count), layers: BTreeMap::new(), is_list: true }
    }

    /// Whether some maskers run in one phase only.
    pub fn has_phases(&self) -> bool {
        self.layers.values().chain([&self.others]).any(|chains| matches!(chains, Chains::Phases(_)))
    }

    /// The maskers of a call, and the phase if its memory is separate from that of the other phase.
    fn of_call<B: Backend>(&self, inputs: &AttentionInputs<B>) -> (Range<usize>, Option<Phase>) {
        match self.layers.get(&inputs.layer()).unwrap_or(&self.others) {
            Chains::Both(maskers) => (maskers.clone(), None),
            Chains::Phases([prefill, decode]) => match inputs.phase() {
                Phase::Prefill => (prefill.clone(), Some(Phase::Prefill)),
                Phase::Decode => (decode.clone(), Some(Phase::Decode)),
            },
        }
    }

    /// The keys that the maskers of a call keep as the whole method. Without maskers, all keys.
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

    /// The mask with the keys that the maskers of a call add as one masker among others.
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

/// How many keys before a sliding window a chain needs: the maximum over its maskers. `None`: all keys.
pub(super) fn most_before_window<'a, B: Backend>(
    mut maskers: impl Iterator<Item = &'a dyn Masker<B>>,
) -> Option<usize> {
    maskers.try_fold(0, |most, masker| Some(most.max(masker.keys_before_window()?)))
}

/// The keys that a chain keeps as the whole method. Without maskers, all keys.
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

/// The mask with the keys that a chain adds as one masker among others.
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
