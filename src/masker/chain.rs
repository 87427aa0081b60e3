use std::path::{Path, PathBuf};

use burn::{
    module::{Content, Module, ModuleDisplay},
    tensor::backend::Backend,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    BuiltInMasker, ConfigError, Context, LayerState, Masker, NamedConfig, built_in::NAMES, chain_record::Maskers,
};
use crate::{
    attention::{AttentionError, AttentionInputs},
    io::from_json,
    mask::Mask,
};

/// Configuration of [MaskerChain]: what stands in a method file.
///
/// ```json
/// [{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 256}]
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MaskerChainConfig {
    /// The maskers in their order.
    pub maskers: Vec<NamedConfig>,
    /// The folder from which the maskers name files. It is where the method file lay, and is not saved with it.
    #[serde(skip)]
    pub directory: PathBuf,
}

impl MaskerChainConfig {
    /// The configuration from the text of a method file. Files that it names are looked for from the current folder.
    ///
    /// # Errors
    /// If the text is not a list, or an entry has no type.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        Self::parse("the text", json, PathBuf::new())
    }

    /// The configuration from a method file. Files that it names are looked for from the folder in which it lies.
    ///
    /// # Errors
    /// If the file cannot be read, it is not a list, or an entry has no type.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let json =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        Self::parse(&path.display().to_string(), &json, directory)
    }

    /// The chain.
    ///
    /// # Errors
    /// If a type is not known, a field or a value makes no sense, a file cannot be used, or more than one masker samples.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Result<MaskerChain<B>, ConfigError> {
        self.init_in(Context::new(device))
    }

    /// The chain of one layer of a model: what it learns is that layer's alone.
    ///
    /// # Errors
    /// As [init](Self::init).
    pub fn init_for_layer<B: Backend>(&self, layer: usize, device: &B::Device) -> Result<MaskerChain<B>, ConfigError> {
        self.init_in(Context::new(device).for_layer(layer))
    }

    fn init_in<B: Backend>(&self, context: Context<B>) -> Result<MaskerChain<B>, ConfigError> {
        let context = context.in_directory(&self.directory);
        let maskers = self.maskers.iter().map(|named| BuiltInMasker::from_config(named, &context));
        MaskerChain::new(maskers.collect::<Result<_, _>>()?)
    }

    fn parse(origin: &str, json: &str, directory: PathBuf) -> Result<Self, ConfigError> {
        let configs = from_json::<Vec<Value>>(json)
            .map_err(|error| ConfigError::NotAChain { origin: origin.to_owned(), reason: error.to_string() })?;
        let named = configs.into_iter().enumerate().map(|(place, config)| {
            NamedConfig::deserialize(config).map_err(|_| ConfigError::NoType { place, known: NAMES.join(", ") })
        });
        Ok(Self { maskers: named.collect::<Result<_, _>>()?, directory })
    }
}

/// A chain of the library's maskers as a burn module: the method of a layer.
///
/// What it learns (the perceptrons of [Hash](crate::scorer::Hash)) are parameters of the layer that holds it: an optimizer
/// sees them, records carry them, `valid`, `fork` and `to_device` take them along. Most methods learn nothing, and are
/// as if they were not there to any of these. A record fits a chain of the same maskers in the same order only:
/// [try_load_record](Self::try_load_record) returns an error for another, which `load_record` panics with.
///
/// Without maskers it keeps every key: dense attention. One's own maskers are put into a layer as their own type, or in a
/// tuple with others: a tuple of maskers is a masker.
///
/// Should be created with [MaskerChainConfig].
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn_flex::Flex;
/// use sparse_attention_hub::masker::{MaskerChain, MaskerChainConfig};
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
    /// If more than one of them [samples](Masker::samples): each estimates what all the others left out.
    pub fn new(maskers: Vec<BuiltInMasker<B>>) -> Result<Self, ConfigError> {
        at_most_one_sampler(maskers.iter().map(|masker| masker as _))?;
        Ok(Self { maskers: Maskers(maskers) })
    }

    /// The chain without maskers: dense attention.
    pub fn dense() -> Self {
        Self { maskers: Maskers(Vec::new()) }
    }

    /// The maskers in their order.
    pub fn maskers(&self) -> &[BuiltInMasker<B>] {
        &self.maskers.0
    }

    /// The maskers in their order, by value.
    pub fn into_maskers(self) -> Vec<BuiltInMasker<B>> {
        self.maskers.0
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
        let maskers = self.maskers.0.iter().enumerate();
        maskers.fold(content, |content, (place, masker)| content.add(&place.to_string(), masker)).optional()
    }
}

impl<B: Backend> Masker<B> for MaskerChain<B> {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        add_all(self.maskers.0.iter().map(|masker| masker as _), inputs, state, mask)
    }

    fn mask(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Mask<B>, AttentionError> {
        mask_of_all(self.maskers.0.iter().map(|masker| masker as _), inputs, state)
    }

    fn keys_before_window(&self) -> Option<usize> {
        most_before_window(self.maskers.0.iter().map(|masker| masker as _))
    }

    fn samples(&self) -> bool {
        self.maskers.0.iter().any(Masker::samples)
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
pub(crate) fn mask_of_all<'a, B: Backend>(
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
