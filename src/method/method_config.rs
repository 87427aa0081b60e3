//! The content of a method file: a list of maskers, or lists of maskers by phase and by layer.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::{Map, Value};

use super::built_in::NAMES;
use crate::{
    config::{ConfigError, NamedConfig},
    problem::Phase,
};

/// The maskers of a [MaskerChainConfig](super::MaskerChainConfig).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MaskersConfig {
    /// The maskers in their order, for every call.
    List(Vec<NamedConfig>),
    /// Maskers by phase and by layer.
    Phases(PhasesConfig),
}

/// Maskers by phase and by layer: the content of a method file that is an object.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PhasesConfig {
    /// The maskers of a [prefill](Phase::Prefill). Without maskers it is dense.
    pub prefill: Vec<NamedConfig>,
    /// The maskers of [decoding](Phase::Decode). Without maskers it is dense.
    pub decode: Vec<NamedConfig>,
    /// The layers that are dense in both phases. They take precedence over the phases.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub dense_layers: BTreeSet<usize>,
    /// The maskers of single layers. They take precedence over all other fields.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub layers: BTreeMap<usize, LayerMaskers>,
}

/// The maskers of one layer in a [PhasesConfig].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum LayerMaskers {
    /// The same maskers in both phases, with one memory of the keys.
    Both(Vec<NamedConfig>),
    /// The maskers of each phase.
    Phases {
        /// The maskers of a prefill. Without maskers it is dense.
        prefill: Vec<NamedConfig>,
        /// The maskers of decoding. Without maskers it is dense.
        decode: Vec<NamedConfig>,
    },
}

const PREFILL: &str = "prefill";
const DECODE: &str = "decode";
const DENSE_LAYERS: &str = "dense_layers";
const LAYERS: &str = "layers";

impl Default for MaskersConfig {
    /// Dense attention.
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl From<Vec<NamedConfig>> for MaskersConfig {
    fn from(maskers: Vec<NamedConfig>) -> Self {
        Self::List(maskers)
    }
}

impl From<PhasesConfig> for MaskersConfig {
    fn from(phases: PhasesConfig) -> Self {
        Self::Phases(phases)
    }
}

impl<'de> Deserialize<'de> for MaskersConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?, "the configuration", &NAMES.join(", "))
            .map_err(D::Error::custom)
    }
}

impl MaskersConfig {
    /// The maskers in a JSON value. Errors call the value `origin`, and list the types in `known`.
    ///
    /// # Errors
    /// If the value has neither form, a key is unknown, a layer appears twice, or an entry has no type.
    pub(super) fn from_value(value: Value, origin: &str, known: &str) -> Result<Self, ConfigError> {
        let neither = |reason: String| ConfigError::NotAChain { origin: origin.to_owned(), reason };
        match value {
            Value::Array(list) => Ok(Self::List(maskers(&list, known)?)),
            Value::Object(fields) if fields.is_empty() => {
                Err(neither(format!("it is an object without a key; {}", allowed(&KEYS))))
            }
            Value::Object(fields) => Ok(Self::Phases(PhasesConfig::from_fields(fields, known)?)),
            other => Err(neither(format!("it is {}", kind(&other)))),
        }
    }
}

const KEYS: [&str; 4] = [PREFILL, DECODE, DENSE_LAYERS, LAYERS];

impl PhasesConfig {
    fn from_fields(fields: Map<String, Value>, known: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (key, value) in fields {
            match key.as_str() {
                PREFILL => config.prefill = list_at(PREFILL, value, known)?,
                DECODE => config.decode = list_at(DECODE, value, known)?,
                DENSE_LAYERS => config.dense_layers = dense_layers(value)?,
                LAYERS => config.layers = layers(value, known)?,
                _ => return Err(ConfigError::UnknownKey { place: None, key, allowed: KEYS.join(", ") }),
            }
        }
        Ok(config)
    }
}

impl LayerMaskers {
    fn from_value(place: &str, value: Value, known: &str) -> Result<Self, ConfigError> {
        let wrong = |found: &str| {
            let expected = "a list of maskers, or an object with the keys prefill and decode";
            Err(ConfigError::Form { place: place.to_owned(), found: found.to_owned(), expected })
        };
        let fields = match value {
            Value::Array(list) => return Ok(Self::Both(at(place, maskers(&list, known))?)),
            Value::Object(fields) if fields.is_empty() => return wrong("an object without a key"),
            Value::Object(fields) => fields,
            other => return wrong(kind(&other)),
        };
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        for (key, value) in fields {
            match key.as_str() {
                PREFILL => prefill = list_at(&format!("{place}.{PREFILL}"), value, known)?,
                DECODE => decode = list_at(&format!("{place}.{DECODE}"), value, known)?,
                _ => {
                    let (place, allowed) = (Some(place.to_owned()), [PREFILL, DECODE].join(", "));
                    return Err(ConfigError::UnknownKey { place, key, allowed });
                }
            }
        }
        Ok(Self::Phases { prefill, decode })
    }
}

/// The lists of maskers of a layer, each with its place in the file.
pub(super) enum Lists<'a> {
    /// One list in both phases.
    Both(&'a [NamedConfig], Option<String>),
    /// One for each phase, in the order of [Phase::ALL].
    Phases([(&'a [NamedConfig], String); 2]),
}

impl MaskersConfig {
    /// The lists of all layers that the method does not name.
    pub(super) fn of_other_layers(&self) -> Lists<'_> {
        match self {
            Self::List(list) => Lists::Both(list, None),
            Self::Phases(PhasesConfig { prefill, decode, .. }) => {
                Lists::Phases([(prefill, PREFILL.to_owned()), (decode, DECODE.to_owned())])
            }
        }
    }

    /// The lists of the layers that the method names. `layers` takes precedence over `dense_layers`.
    pub(super) fn of_named_layers(&self) -> BTreeMap<usize, Lists<'_>> {
        let Self::Phases(config) = self else { return BTreeMap::new() };
        let dense = config.dense_layers.iter().map(|&layer| (layer, Lists::Both(&[], None)));
        let own = config.layers.iter().map(|(&layer, maskers)| {
            let place = format!("{LAYERS}.{layer}");
            let lists = match maskers {
                LayerMaskers::Both(list) => Lists::Both(list, Some(place)),
                LayerMaskers::Phases { prefill, decode } => {
                    let [first, then] = Phase::ALL.map(|phase| format!("{place}.{phase}"));
                    Lists::Phases([(prefill, first), (decode, then)])
                }
            };
            (layer, lists)
        });
        dense.chain(own).collect()
    }
}

/// Adds the place in the file to an error.
pub(super) fn at<T>(place: &str, result: Result<T, ConfigError>) -> Result<T, ConfigError> {
    result.map_err(|source| ConfigError::At { place: place.to_owned(), source: Box::new(source) })
}

fn maskers(list: &[Value], known: &str) -> Result<Vec<NamedConfig>, ConfigError> {
    list.iter().enumerate().map(|(place, config)| NamedConfig::masker(config, place, known)).collect()
}

fn list_at(place: &str, value: Value, known: &str) -> Result<Vec<NamedConfig>, ConfigError> {
    match value {
        Value::Array(list) => at(place, maskers(&list, known)),
        other => Err(ConfigError::Form {
            place: place.to_owned(),
            found: kind(&other).to_owned(),
            expected: "a list of maskers, `[{\"type\": ...}, ...]`",
        }),
    }
}

fn dense_layers(value: Value) -> Result<BTreeSet<usize>, ConfigError> {
    const EXPECTED: &str = "a list of layers, which are whole numbers from 0";
    let wrong = |found: String| ConfigError::Form { place: DENSE_LAYERS.to_owned(), found, expected: EXPECTED };
    let Value::Array(list) = value else { return Err(wrong(kind(&value).to_owned())) };
    let mut layers = BTreeSet::new();
    for value in list {
        let layer = value.as_u64().and_then(|layer| usize::try_from(layer).ok());
        let Some(layer) = layer else {
            let found = if value.is_number() { value.to_string() } else { kind(&value).to_owned() };
            return Err(wrong(format!("a list with {found}")));
        };
        if !layers.insert(layer) {
            return Err(ConfigError::LayerTwice { field: DENSE_LAYERS, layer });
        }
    }
    Ok(layers)
}

fn layers(value: Value, known: &str) -> Result<BTreeMap<usize, LayerMaskers>, ConfigError> {
    let wrong = |found: String| ConfigError::Form {
        place: LAYERS.to_owned(),
        found,
        expected: "an object whose keys are layers, which are whole numbers from 0, `{\"5\": ...}`",
    };
    let Value::Object(fields) = value else { return Err(wrong(kind(&value).to_owned())) };
    let mut layers = BTreeMap::new();
    for (key, value) in fields {
        // `parse` accepts a leading plus sign.
        let digits = key.bytes().all(|byte| byte.is_ascii_digit());
        let Some(layer) = key.parse::<usize>().ok().filter(|_| digits) else {
            return Err(wrong(format!("an object with the key \"{key}\"")));
        };
        let maskers = LayerMaskers::from_value(&format!("{LAYERS}.{key}"), value, known)?;
        if layers.insert(layer, maskers).is_some() {
            return Err(ConfigError::LayerTwice { field: LAYERS, layer });
        }
    }
    Ok(layers)
}

fn allowed(keys: &[&str]) -> String {
    format!("allowed keys: {}", keys.join(", "))
}

/// The kind of a value, for errors.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
