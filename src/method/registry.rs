use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::tensor::backend::Backend;
use serde_json::Value;

use super::{MaskerChainConfig, MaskersConfig, ResearchAttention, built_in};
use crate::{
    config::{ConfigError, NamedConfig, Registry, fields},
    masker::{Masker, MaskerConfig},
    scorer::{self, Context, Scorer, ScorerConfig},
};

/// A registry of maskers by name, to read methods from configuration files.
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn_flex::Flex;
/// use sparse_attention_hub::method::MaskerRegistry;
///
/// let attention = MaskerRegistry::<Flex>::new().research_attention(
///     r#"[{"type": "sink", "sink_size": 4}, {"type": "oracle_top_k", "heavy_size": 0.1}]"#,
///     &Default::default(),
/// )?;
/// assert_eq!(attention.maskers().len(), 2);
/// # }
/// # Ok::<(), sparse_attention_hub::masker::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct MaskerRegistry<B: Backend> {
    maskers: Registry<Context<B>, dyn Masker<B>>,
    scorers: Registry<Context<B>, dyn Scorer<B>>,
}

impl<B: Backend> MaskerRegistry<B> {
    /// A registry of the library's maskers and scorers.
    pub fn new() -> Self {
        Self { maskers: built_in::registry(), scorers: scorer::registry() }
    }

    /// Adds a masker under a name, or replaces the masker with this name.
    pub fn register<C: MaskerConfig<B>>(&mut self, name: impl Into<String>) {
        self.maskers.insert(name, |named, context| Ok(Box::new(fields::<C>(named)?.init(context)?)));
    }

    /// Adds a scorer under a name, or replaces the scorer with this name.
    pub fn register_scorer<C: ScorerConfig<B>>(&mut self, name: impl Into<String>) {
        scorer::insert::<B, C>(&mut self.scorers, name);
    }

    /// The names of the maskers in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.maskers.names()
    }

    /// The names of the scorers in alphabetical order.
    pub fn scorer_names(&self) -> impl Iterator<Item = &str> {
        self.scorers.names()
    }

    /// The context in which configurations are built. It has the scorers of the registry, and file paths are relative
    /// to the current folder.
    pub fn context(&self, device: &B::Device) -> Context<B> {
        Context::with_scorers(device, Arc::new(self.scorers.clone()))
    }

    /// The masker of one configuration, `{"type": "sink", "sink_size": 4}`.
    ///
    /// # Errors
    /// If it has no type or an unknown one, if a field is missing, unknown or of the wrong type, or if a value is not
    /// allowed.
    pub fn masker(&self, config: &Value, context: &Context<B>) -> Result<Box<dyn Masker<B>>, ConfigError> {
        self.maskers.build(&NamedConfig::masker(config, 0, &self.maskers.known())?, context)
    }

    /// A method from the text of a [method file](MaskerChainConfig): a list of configurations in the order of the
    /// chain, or an object with such lists by phase and layer. The file paths in it are relative to the current folder.
    ///
    /// # Errors
    /// If the text has neither form, a configuration cannot be built, or more than one masker samples in the same phase
    /// of a layer.
    pub fn research_attention(&self, json: &str, device: &B::Device) -> Result<ResearchAttention<B>, ConfigError> {
        let known = self.maskers.known();
        self.attention(&MaskerChainConfig::parse("the text", json, PathBuf::new(), &known)?, device)
    }

    /// A method from a configuration file. The file paths in it are relative to its folder.
    ///
    /// # Errors
    /// As [research_attention](Self::research_attention), and if the file cannot be read.
    pub fn research_attention_from_file(
        &self,
        path: impl AsRef<Path>,
        device: &B::Device,
    ) -> Result<ResearchAttention<B>, ConfigError> {
        self.attention(&MaskerChainConfig::read(path.as_ref(), &self.maskers.known())?, device)
    }

    /// A method from the JSON value of a method file in a folder.
    pub(crate) fn research_attention_of(
        &self,
        method: Value,
        directory: &Path,
        device: &B::Device,
    ) -> Result<ResearchAttention<B>, ConfigError> {
        let maskers = MaskersConfig::from_value(method, "the method", &self.maskers.known())?;
        self.attention(&MaskerChainConfig { maskers, directory: directory.to_owned() }, device)
    }

    fn attention(&self, config: &MaskerChainConfig, device: &B::Device) -> Result<ResearchAttention<B>, ConfigError> {
        let context = self.context(device).in_directory(&config.directory);
        let masker = |named: &NamedConfig| self.maskers.build(named, &context);
        let (maskers, choice) = config.build(None, masker, |masker| masker.as_ref())?;
        Ok(ResearchAttention::of(maskers, choice))
    }
}

impl<B: Backend> Default for MaskerRegistry<B> {
    fn default() -> Self {
        Self::new()
    }
}
