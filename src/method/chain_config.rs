use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    BuiltInMasker, MaskerChain, MaskersConfig,
    built_in::NAMES,
    choice::{Chains, Choice, at_most_one_sampler},
    method_config::{Lists, at},
};
use crate::{
    config::{ConfigError, NamedConfig},
    io::from_json,
    masker::Masker,
    scorer::Context,
};

/// Configuration of [MaskerChain], and the content of a method file.
///
/// A list of maskers applies to every call:
/// ```json
/// [{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 256}]
/// ```
///
/// An object has lists of maskers by [phase](crate::attention::Phase) and by layer:
/// ```json
/// {
///     "prefill": [],
///     "decode": [{"type": "sink", "sink_size": 4}, {"type": "oracle_top_k", "heavy_size": 256}],
///     "dense_layers": [0, 1],
///     "layers": {"5": [{"type": "local", "window_size": 512}]}
/// }
/// ```
///
/// - `prefill`, `decode`: the maskers of the phase. A phase without maskers is dense.
/// - `dense_layers`: layers that are dense in both phases. They take precedence over `prefill` and `decode`.
/// - `layers`: the maskers of single layers. They take precedence over all other keys. A value is a list for both
///   phases, or an object with `prefill` and `decode`.
///
/// All keys are optional, but an object must have at least one of them.
///
/// The `layer` of a layer's configuration is its index. The phase is a property of the call. The first call with an
/// empty cache is a prefill. A later call is decoding if it has one query, and a prefill if it has more, unless the
/// caller [sets the phase](crate::nn::GqaInput::phase). A call without a cache is a prefill.
///
/// The maskers of each phase have their own memory of the keys. If a scorer sees the keys for the first time in a
/// decode step, it takes in all of them in that step.
///
/// # Example
/// ```
/// use sparse_attention_hub::{
///     masker::NamedConfig,
///     method::{MaskerChainConfig, MaskersConfig, PhasesConfig},
/// };
///
/// let file = MaskerChainConfig::from_json(r#"{"decode": [{"type": "causal"}], "dense_layers": [0]}"#)?;
/// let decode = vec![NamedConfig::new("causal")];
/// let phases = PhasesConfig { decode, dense_layers: [0].into(), ..Default::default() };
/// assert_eq!(file, MaskerChainConfig::from(MaskersConfig::from(phases)));
/// # Ok::<(), sparse_attention_hub::masker::ConfigError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MaskerChainConfig {
    /// The maskers.
    pub maskers: MaskersConfig,
    /// The folder to which the file paths in the maskers are relative: the folder of the method file. It is not saved.
    #[serde(skip)]
    pub directory: PathBuf,
}

impl From<MaskersConfig> for MaskerChainConfig {
    /// Paths of files are relative to the current folder.
    fn from(maskers: MaskersConfig) -> Self {
        Self { maskers, directory: PathBuf::new() }
    }
}

impl From<Vec<NamedConfig>> for MaskerChainConfig {
    /// Paths of files are relative to the current folder.
    fn from(maskers: Vec<NamedConfig>) -> Self {
        MaskersConfig::from(maskers).into()
    }
}

impl MaskerChainConfig {
    /// The configuration from the text of a method file. The file paths in it are relative to the current folder.
    ///
    /// # Errors
    /// If the text is neither a list nor an object of this form, a key is unknown, a layer appears twice, or an entry
    /// has no type.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        Self::parse("the text", json, PathBuf::new(), &NAMES.join(", "))
    }

    /// The configuration from a method file. The file paths in it are relative to its folder.
    ///
    /// # Errors
    /// If the file cannot be read, and as [from_json](Self::from_json).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::read(path.as_ref(), &NAMES.join(", "))
    }

    /// The chain for all layers. The [layer](crate::attention::AttentionInputs::layer) of the inputs decides which
    /// maskers run.
    ///
    /// # Errors
    /// If a type is unknown, a field or a value is wrong, a file cannot be used, or more than one masker samples in the
    /// same phase of a layer.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Result<MaskerChain<B>, ConfigError> {
        self.init_in(Context::new(device))
    }

    /// The chain of one layer of a model. It has the maskers and the learned parameters of that layer only.
    ///
    /// # Errors
    /// As [init](Self::init).
    pub fn init_for_layer<B: Backend>(&self, layer: usize, device: &B::Device) -> Result<MaskerChain<B>, ConfigError> {
        self.init_in(Context::new(device).for_layer(layer))
    }

    fn init_in<B: Backend>(&self, context: Context<B>) -> Result<MaskerChain<B>, ConfigError> {
        let context = context.in_directory(&self.directory);
        let masker = |named: &NamedConfig| BuiltInMasker::from_config(named, &context);
        let (maskers, choice) = self.build(context.layer(), masker, |masker| masker as &dyn Masker<B>)?;
        Ok(MaskerChain::of(maskers, choice))
    }

    /// The maskers of all chains, one chain after the other, and the choice which of them run in a call. With a layer,
    /// only the chains of that layer are built.
    ///
    /// # Errors
    /// If a masker cannot be built, or a chain has two maskers that sample. The error names the phase and the layer.
    pub(super) fn build<B: Backend, T>(
        &self,
        layer: Option<usize>,
        masker: impl Fn(&NamedConfig) -> Result<T, ConfigError>,
        as_masker: for<'a> fn(&'a T) -> &'a dyn Masker<B>,
    ) -> Result<(Vec<T>, Choice), ConfigError> {
        let mut all = Vec::new();
        let mut add = |list: &[NamedConfig], place: Option<String>| -> Result<_, ConfigError> {
            let chain = list.iter().map(&masker).collect::<Result<Vec<_>, _>>();
            let chain = chain.and_then(|chain| at_most_one_sampler(chain.iter().map(as_masker)).map(|()| chain));
            let mut chain = match place {
                Some(place) => at(&place, chain)?,
                None => chain?,
            };
            let start = all.len();
            all.append(&mut chain);
            Ok(start..all.len())
        };
        let mut add_all = |lists: Lists| -> Result<_, ConfigError> {
            Ok(match lists {
                Lists::Both(list, place) => Chains::Both(add(list, place)?),
                Lists::Phases([(prefill, first), (decode, then)]) => {
                    Chains::Phases([add(prefill, Some(first))?, add(decode, Some(then))?])
                }
            })
        };
        let mut named = self.maskers.of_named_layers();
        let is_list = matches!(self.maskers, MaskersConfig::List(_));
        let choice = match layer {
            None => {
                let others = add_all(self.maskers.of_other_layers())?;
                let layers = named.into_iter().map(|(layer, lists)| Ok((layer, add_all(lists)?)));
                Choice { others, layers: layers.collect::<Result<_, ConfigError>>()?, is_list }
            }
            Some(layer) => {
                let lists = named.remove(&layer).unwrap_or_else(|| self.maskers.of_other_layers());
                Choice { others: add_all(lists)?, layers: Default::default(), is_list }
            }
        };
        Ok((all, choice))
    }

    /// The configuration from the text of a method file. Errors call the text `origin`, and list the types in `known`.
    pub(super) fn parse(origin: &str, json: &str, directory: PathBuf, known: &str) -> Result<Self, ConfigError> {
        let value = from_json::<Value>(json)
            .map_err(|error| ConfigError::NotAChain { origin: origin.to_owned(), reason: error.to_string() })?;
        Ok(Self { maskers: MaskersConfig::from_value(value, origin, known)?, directory })
    }

    /// The configuration from a file.
    pub(super) fn read(path: &Path, known: &str) -> Result<Self, ConfigError> {
        let json =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        Self::parse(&path.display().to_string(), &json, directory, known)
    }
}
