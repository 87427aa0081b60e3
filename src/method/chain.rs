use burn::{
    module::{Content, Module, ModuleDisplay},
    tensor::backend::Backend,
};

use super::{
    BuiltInMasker,
    chain_record::Maskers,
    choice::{Chains, Choice, at_most_one_sampler, most_before_window},
};
use crate::{
    config::ConfigError,
    mask::Mask,
    masker::Masker,
    problem::{AttentionError, AttentionInputs, Phase},
    state::LayerState,
};

/// A chain of the library's maskers as a burn module: the method of a layer.
///
/// Learned parameters (the perceptrons of [Hash](crate::scorer::Hash)) are parameters of the layer that holds the
/// chain. Optimizers, records, `valid`, `fork` and `to_device` include them. Most methods have no parameters. A record
/// fits only a chain of the same maskers in the same order. For another chain, [try_load_record](Self::try_load_record)
/// returns an error, and `load_record` panics with this error.
///
/// Without maskers it keeps every key: dense attention. A method with phases or layers has several chains. The
/// [phase](AttentionInputs::phase) and the [layer](AttentionInputs::layer) of the inputs decide which of them runs. A
/// record holds the maskers of all chains, one chain after the other. A layer can hold a custom masker directly, or a
/// tuple of maskers: a tuple of maskers is a masker.
///
/// Should be created with [MaskerChainConfig](super::MaskerChainConfig).
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn_flex::Flex;
/// use sparse_attention_hub::method::{MaskerChain, MaskerChainConfig};
///
/// let method = r#"[{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 256}]"#;
/// let chain: MaskerChain<Flex> = MaskerChainConfig::from_json(method)?.init(&Default::default())?;
/// assert_eq!(chain.maskers().len(), 2);
/// # }
/// # Ok::<(), sparse_attention_hub::masker::ConfigError>(())
/// ```
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct MaskerChain<B: Backend> {
    pub(super) maskers: Maskers<B>,
}

impl<B: Backend> MaskerChain<B> {
    /// A chain of maskers.
    ///
    /// # Errors
    /// If more than one of them [samples](Masker::samples): a sampler estimates all keys that the other maskers left
    /// out.
    pub fn new(maskers: Vec<BuiltInMasker<B>>) -> Result<Self, ConfigError> {
        at_most_one_sampler(maskers.iter().map(as_masker))?;
        let choice = Choice::all(maskers.len());
        Ok(Self::of(maskers, choice))
    }

    /// The maskers of all chains, and the choice which of them run in a call. At most one masker of each chain samples.
    pub(super) fn of(maskers: Vec<BuiltInMasker<B>>, choice: Choice) -> Self {
        Self { maskers: Maskers { all: maskers, choice } }
    }

    /// The chain without maskers: dense attention.
    pub fn dense() -> Self {
        Self::of(Vec::new(), Choice::all(0))
    }

    /// The maskers in their order. For a method with phases or layers, these are the maskers of all chains that were
    /// built: `prefill`, then `decode`, then `layers`.
    pub fn maskers(&self) -> &[BuiltInMasker<B>] {
        &self.maskers.all
    }

    /// The [maskers](Self::maskers) by value.
    pub fn into_maskers(self) -> Vec<BuiltInMasker<B>> {
        self.maskers.all
    }

    /// Whether some of the maskers run in one [phase](Phase) only.
    pub fn has_phases(&self) -> bool {
        self.maskers.choice.has_phases()
    }

    /// The maskers, and the choice which of them run in a call.
    pub(crate) fn into_parts(self) -> (Vec<BuiltInMasker<B>>, Choice) {
        (self.maskers.all, self.maskers.choice)
    }
}

impl<B: Backend> Default for MaskerChain<B> {
    fn default() -> Self {
        Self::dense()
    }
}

impl<B: Backend> ModuleDisplay for MaskerChain<B> {
    fn custom_content(&self, content: Content) -> Option<Content> {
        let content = content.set_top_level_type("MaskerChain");
        let Choice { others, layers, .. } = &self.maskers.choice;
        let content = self.content_of(content, "", others);
        let named = layers.iter();
        named
            .fold(content, |content, (layer, chains)| self.content_of(content, &format!("layer {layer} "), chains))
            .optional()
    }
}

impl<B: Backend> MaskerChain<B> {
    /// Adds the maskers of a layer. Their names are the phase and the place in the chain.
    fn content_of(&self, content: Content, layer: &str, chains: &Chains) -> Content {
        let phases = match chains {
            Chains::Both(maskers) => vec![(String::new(), maskers.clone())],
            Chains::Phases(maskers) => {
                let names = Phase::ALL.map(|phase| format!("{phase} "));
                names.into_iter().zip(maskers.iter().cloned()).collect()
            }
        };
        phases.into_iter().fold(content, |content, (phase, maskers)| {
            let name = format!("{layer}{phase}");
            // A method that is a list without maskers shows nothing.
            if maskers.is_empty() && !name.is_empty() {
                return content.add(name.trim_end(), &"dense".to_owned());
            }
            let maskers = self.maskers.all[maskers].iter().enumerate();
            maskers.fold(content, |content, (place, masker)| content.add(&format!("{name}{place}"), masker))
        })
    }
}

fn as_masker<B: Backend>(masker: &BuiltInMasker<B>) -> &dyn Masker<B> {
    masker
}

impl<B: Backend> Masker<B> for MaskerChain<B> {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        let Maskers { all, choice } = &self.maskers;
        choice.add(all, as_masker, inputs, state, mask)
    }

    fn mask(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Mask<B>, AttentionError> {
        let Maskers { all, choice } = &self.maskers;
        choice.mask(all, as_masker, inputs, state)
    }

    fn keys_before_window(&self) -> Option<usize> {
        most_before_window(self.maskers.all.iter().map(as_masker))
    }

    fn samples(&self) -> bool {
        self.maskers.all.iter().any(Masker::samples)
    }
}
