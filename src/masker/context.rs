use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::ConfigError;
use crate::scorer::{self, Scorer};

/// What a configuration needs to build a masker or a scorer: a device, the registered scorers, and the folder to which
/// file names are relative.
pub struct Context<B: Backend> {
    device: B::Device,
    directory: PathBuf,
    layer: Option<usize>,
    scorers: Arc<Registry<B, dyn Scorer<B>>>,
}

impl<B: Backend> Context<B> {
    /// A context with the library's scorers. File names are relative to the current folder.
    pub fn new(device: &B::Device) -> Self {
        Self::with_scorers(device, Arc::new(scorer::registry()))
    }

    pub(crate) fn with_scorers(device: &B::Device, scorers: Arc<Registry<B, dyn Scorer<B>>>) -> Self {
        Self { device: device.clone(), directory: PathBuf::new(), layer: None, scorers }
    }

    /// The same context, with file names relative to another folder.
    pub fn in_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// The same context for a masker or scorer that only one layer of a model uses. Weights of other layers are then
    /// not kept.
    pub fn for_layer(mut self, layer: usize) -> Self {
        self.layer = Some(layer);
        self
    }

    /// The layer that was set with [for_layer](Self::for_layer), if any.
    pub fn layer(&self) -> Option<usize> {
        self.layer
    }

    /// The device on which tensors are created.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// The path of a file that a configuration names.
    pub fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.directory.join(file)
    }

    /// Builds the scorer of a configuration.
    ///
    /// # Errors
    /// If its type is not registered, or its configuration does not work.
    pub fn scorer(&self, named: &NamedConfig) -> Result<Box<dyn Scorer<B>>, ConfigError> {
        self.scorers.build(named, self)
    }
}

impl<B: Backend> fmt::Debug for Context<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("directory", &self.directory).field("scorers", &self.scorers).finish()
    }
}

/// A configuration whose `"type"` names the part that it configures: `{"type": "oracle"}`. The other fields are checked
/// when the part is built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedConfig {
    /// The name under which the part is registered.
    #[serde(rename = "type")]
    pub name: String,
    /// The other fields.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl NamedConfig {
    /// A configuration without fields.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), fields: Map::new() }
    }

    /// The configuration of a masker in a list. Errors name its place, and list the types in `known`.
    ///
    /// # Errors
    /// If the value has no type.
    pub(super) fn masker(value: &Value, place: usize, known: &str) -> Result<Self, ConfigError> {
        Self::deserialize(value).map_err(|_| ConfigError::NoType { place, known: known.to_owned() })
    }
}

type Build<B, T> = fn(&NamedConfig, &Context<B>) -> Result<Box<T>, ConfigError>;

/// The builders of the parts of one kind (maskers or scorers), by name.
pub(crate) struct Registry<B: Backend, T: ?Sized> {
    kind: &'static str,
    builders: BTreeMap<String, Build<B, T>>,
}

impl<B: Backend, T: ?Sized> Clone for Registry<B, T> {
    fn clone(&self) -> Self {
        Self { kind: self.kind, builders: self.builders.clone() }
    }
}

impl<B: Backend, T: ?Sized> Registry<B, T> {
    /// An empty registry. Error messages call a part `kind`.
    pub fn new(kind: &'static str) -> Self {
        Self { kind, builders: BTreeMap::new() }
    }

    /// Adds a part under a name. A part of the same name is replaced.
    pub fn insert(&mut self, name: impl Into<String>, build: Build<B, T>) {
        self.builders.insert(name.into(), build);
    }

    /// The names of all parts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.builders.keys().map(String::as_str)
    }

    /// The names of all parts as one text, for error messages.
    pub fn known(&self) -> String {
        self.names().collect::<Vec<_>>().join(", ")
    }

    /// Builds the part that a configuration names.
    pub fn build(&self, named: &NamedConfig, context: &Context<B>) -> Result<Box<T>, ConfigError> {
        match self.builders.get(&named.name) {
            Some(build) => build(named, context),
            None => {
                let (part, found) = (self.kind, named.name.clone());
                Err(ConfigError::UnknownType { part, found, known: self.known(), advice: "" })
            }
        }
    }
}

impl<B: Backend, T: ?Sized> fmt::Debug for Registry<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// Reads the fields of a configuration into its type. Errors name the field.
pub(crate) fn fields<C: DeserializeOwned>(named: &NamedConfig) -> Result<C, ConfigError> {
    serde_path_to_error::deserialize(Value::Object(named.fields.clone())).map_err(|error| ConfigError::Field {
        part: named.name.clone(),
        field: error.path().to_string(),
        reason: error.inner().to_string(),
    })
}
