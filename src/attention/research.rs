use burn::tensor::backend::Backend;

use super::{AttentionError, AttentionInputs, AttentionOutput, AttentionReport, Requested, masked_attention};
use crate::{
    mask::Mask,
    masker::{ConfigError, LayerState, Masker, MaskerChain, at_most_one_sampler, mask_of_all},
};

/// Attention through any chain of [maskers](Masker): what one studies a method with.
///
/// The maskers add keys one after the other, and attention runs over what they kept. Without maskers it is dense
/// attention. Samplers compute the scores of all pairs; selectors those of a row at a time, where the scorer can.
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
        at_most_one_sampler(maskers.iter().map(AsRef::as_ref))?;
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
        mask_of_all(self.maskers.iter().map(AsRef::as_ref), inputs, state)
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

/// The method of a layer, to study it.
impl<B: Backend> From<MaskerChain<B>> for ResearchAttention<B> {
    fn from(chain: MaskerChain<B>) -> Self {
        // A chain has been checked for samplers.
        Self {
            maskers: chain.into_maskers().into_iter().map(|masker| Box::new(masker) as Box<dyn Masker<B>>).collect(),
        }
    }
}
