use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::ConfigError;

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
    pub(crate) fn masker(value: &Value, place: usize, known: &str) -> Result<Self, ConfigError> {
        Self::deserialize(value).map_err(|_| ConfigError::NoType { place, known: known.to_owned() })
    }
}

type Build<C, T> = fn(&NamedConfig, &C) -> Result<Box<T>, ConfigError>;

/// The builders of the parts of one kind (maskers or scorers), by name. Each builds from a configuration and from what all
/// configurations are built with, `C`.
pub(crate) struct Registry<C, T: ?Sized> {
    kind: &'static str,
    builders: BTreeMap<String, Build<C, T>>,
}

impl<C, T: ?Sized> Clone for Registry<C, T> {
    fn clone(&self) -> Self {
        Self { kind: self.kind, builders: self.builders.clone() }
    }
}

impl<C, T: ?Sized> Registry<C, T> {
    /// An empty registry. Error messages call a part `kind`.
    pub fn new(kind: &'static str) -> Self {
        Self { kind, builders: BTreeMap::new() }
    }

    /// Adds a part under a name. A part of the same name is replaced.
    pub fn insert(&mut self, name: impl Into<String>, build: Build<C, T>) {
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
    pub fn build(&self, named: &NamedConfig, context: &C) -> Result<Box<T>, ConfigError> {
        match self.builders.get(&named.name) {
            Some(build) => build(named, context),
            None => {
                let (part, found) = (self.kind, named.name.clone());
                Err(ConfigError::UnknownType { part, found, known: self.known(), advice: "" })
            }
        }
    }
}

impl<C, T: ?Sized> fmt::Debug for Registry<C, T> {
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
