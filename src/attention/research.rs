use burn::tensor::backend::Backend;

use super::{AttentionError, AttentionInputs, AttentionOutput, AttentionReport, Requested, masked_attention};
use crate::{
    mask::Mask,
    masker::{ConfigError, LayerState, Masker},
};

/// Attention through any chain of [maskers](Masker): what one studies a method with.
///
/// The maskers add keys one after the other, and attention runs over what they kept. Without maskers it is dense
/// attention. It is written for insight and not for speed: scores of all pairs are computed.
///
/// Usually made by [MaskerRegistry::research_attention](crate::masker::MaskerRegistry::research_attention).
#[derive(Debug)]
pub struct ResearchAttention<B: Backend> {
    maskers: Vec<Box<dyn Masker<B>>>,
}

/// What research attention gives back.
#[derive(Debug, Clone)]
pub struct ResearchOutput<B: Backend> {
    /// The output of attention, with what was requested.
    pub attention: AttentionOutput<B>,
    /// The keys that were kept.
    pub mask: Mask<B>,
}

impl<B: Backend> ResearchAttention<B> {
    /// Attention through a chain of maskers.
    ///
    /// # Errors
    /// If more than one of them [samples](Masker::samples): each estimates what all the others left out.
    pub fn new(maskers: Vec<Box<dyn Masker<B>>>) -> Result<Self, ConfigError> {
        let samplers = maskers.iter().enumerate().filter(|(_, masker)| masker.samples());
        if let [first, second, ..] = samplers.map(|(place, _)| place).collect::<Vec<_>>()[..] {
            return Err(ConfigError::TwoSamplers { first, second });
        }
        Ok(Self { maskers })
    }

    /// The maskers in their order.
    pub fn maskers(&self) -> &[Box<dyn Masker<B>>] {
        &self.maskers
    }

    /// Which keys the chain keeps. Without maskers: all.
    ///
    /// # Errors
    /// If a masker cannot work with the inputs.
    pub fn mask(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Mask<B>, AttentionError> {
        let (shape, device) = (inputs.mask_shape(), inputs.device());
        if self.maskers.is_empty() {
            return Ok(Mask::full(shape, &device));
        }
        let mut mask = Mask::empty(shape, &device);
        for (place, masker) in self.maskers.iter().enumerate() {
            // Nothing can be added to a full mask.
            if mask.is_full() {
                break;
            }
            state.enter(place);
            mask = masker.add(inputs, state, mask)?;
        }
        Ok(mask)
    }

    /// Attention over the keys that the chain keeps.
    ///
    /// # Errors
    /// If a masker cannot work with the inputs.
    pub fn forward(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        requested: Requested,
    ) -> Result<ResearchOutput<B>, AttentionError> {
        let mask = self.mask(inputs, state)?;
        let attention = masked_attention(inputs, &mask, requested)?;
        Ok(ResearchOutput { attention, mask })
    }

    /// What the chain keeps and how far its output is from dense attention, head by head.
    ///
    /// # Errors
    /// If a masker cannot work with the inputs.
    pub fn report(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
    ) -> Result<AttentionReport, AttentionError> {
        AttentionReport::of(inputs, &self.mask(inputs, state)?)
    }
}
