use std::{collections::BTreeMap, fmt, path::Path};

use burn::tensor::backend::Backend;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    AdaptiveSamplingConfig, CausalConfig, ConfigError, LocalConfig, Masker, OracleTopKConfig, OracleTopPConfig,
    RandomSamplingConfig, SinkConfig, TopKConfig, TopPConfig,
};
use crate::attention::ResearchAttention;

/// The configuration of a masker, as it stands in a file beside its `"type"`.
///
/// A configuration should refuse fields that it does not know (`#[serde(deny_unknown_fields)]`).
pub trait MaskerConfig<B: Backend>: DeserializeOwned {
    /// The masker that it configures.
    type Masker: Masker<B> + 'static;

    /// The masker.
    ///
    /// # Errors
    /// If a value makes no sense; the error names the field, the value and what is allowed.
    fn init(&self, device: &B::Device) -> Result<Self::Masker, ConfigError>;
}

type Build<B> =
    fn(&str, Value, &<B as burn::tensor::backend::BackendTypes>::Device) -> Result<Box<dyn Masker<B>>, ConfigError>;

/// Maskers by name, with which methods are read from configuration files.
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn_flex::Flex;
/// use sparse_attention_hub::masker::MaskerRegistry;
///
/// let attention = MaskerRegistry::<Flex>::new().research_attention(
///     r#"[{"type": "sink", "sink_size": 4}, {"type": "oracle_top_k", "heavy_size": 0.1}]"#,
///     &Default::default(),
/// )?;
/// assert_eq!(attention.maskers().len(), 2);
/// # }
/// # Ok::<(), sparse_attention_hub::masker::ConfigError>(())
/// ```
pub struct MaskerRegistry<B: Backend> {
    builders: BTreeMap<String, Build<B>>,
}

impl<B: Backend> MaskerRegistry<B> {
    /// A registry of the library's maskers.
    pub fn new() -> Self {
        let mut registry = Self { builders: BTreeMap::new() };
        registry.register::<SinkConfig>("sink");
        registry.register::<LocalConfig>("local");
        registry.register::<CausalConfig>("causal");
        registry.register::<TopKConfig>("top_k");
        registry.register::<OracleTopKConfig>("oracle_top_k");
        registry.register::<TopPConfig>("top_p");
        registry.register::<OracleTopPConfig>("oracle_top_p");
        registry.register::<RandomSamplingConfig>("random_sampling");
        registry.register::<AdaptiveSamplingConfig>("adaptive_sampling");
        registry
    }

    /// Adds a masker under a name, or replaces the one that has it.
    pub fn register<C: MaskerConfig<B>>(&mut self, name: impl Into<String>) {
        self.builders.insert(name.into(), build::<B, C>);
    }

    /// The registered names in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.builders.keys().map(String::as_str)
    }

    /// The masker of one configuration, `{"type": "sink", "sink_size": 4}`.
    ///
    /// # Errors
    /// If it has no type or an unknown one, if a field is missing, unknown or of the wrong type, or if a value makes no
    /// sense.
    pub fn masker(&self, config: &Value, device: &B::Device) -> Result<Box<dyn Masker<B>>, ConfigError> {
        self.masker_at(0, config, device)
    }

    /// A method from the text of a configuration file: a list of configurations in the order of the chain.
    ///
    /// # Errors
    /// If the text is not such a list, a configuration does not work, or more than one masker samples.
    pub fn research_attention(&self, json: &str, device: &B::Device) -> Result<ResearchAttention<B>, ConfigError> {
        self.chain("the text", json, device)
    }

    /// A method from a configuration file.
    ///
    /// # Errors
    /// As [research_attention](Self::research_attention), and if the file cannot be read.
    pub fn research_attention_from_file(
        &self,
        path: impl AsRef<Path>,
        device: &B::Device,
    ) -> Result<ResearchAttention<B>, ConfigError> {
        let path = path.as_ref();
        let json =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        self.chain(&path.display().to_string(), &json, device)
    }

    fn chain(&self, origin: &str, json: &str, device: &B::Device) -> Result<ResearchAttention<B>, ConfigError> {
        let configs = serde_json::from_str::<Vec<Value>>(json)
            .map_err(|error| ConfigError::NotAChain { origin: origin.to_owned(), reason: error.to_string() })?;
        let maskers = configs
            .iter()
            .enumerate()
            .map(|(place, config)| self.masker_at(place, config, device))
            .collect::<Result<_, _>>()?;
        ResearchAttention::new(maskers)
    }

    fn masker_at(&self, place: usize, config: &Value, device: &B::Device) -> Result<Box<dyn Masker<B>>, ConfigError> {
        let known = || self.names().collect::<Vec<_>>().join(", ");
        let mut fields = config.as_object().cloned().unwrap_or_default();
        let Some(Value::String(name)) = fields.remove("type") else {
            return Err(ConfigError::NoType { place, known: known() });
        };
        match self.builders.get(&name) {
            Some(build) => build(&name, Value::Object(fields), device),
            None => Err(ConfigError::UnknownType { part: "masker", found: name, known: known() }),
        }
    }
}

fn build<B: Backend, C: MaskerConfig<B>>(
    name: &str,
    fields: Value,
    device: &B::Device,
) -> Result<Box<dyn Masker<B>>, ConfigError> {
    let config: C = serde_path_to_error::deserialize(fields).map_err(|error| ConfigError::Field {
        masker: name.to_owned(),
        field: error.path().to_string(),
        reason: error.inner().to_string(),
    })?;
    Ok(Box::new(config.init(device)?))
}

impl<B: Backend> Default for MaskerRegistry<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> fmt::Debug for MaskerRegistry<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
