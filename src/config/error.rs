use std::path::PathBuf;

use thiserror::Error;

use crate::io::FileError;

/// Why a method could not be built from its configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the method file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not JSON, or neither a list of objects nor an object.
    #[error(
        "{origin} is not a list of masker configurations, `[{{\"type\": ...}}, ...]`, and not an object of such lists by \
         phase and layer, `{{\"prefill\": [...], \"decode\": [...], ...}}`: {reason}"
    )]
    NotAChain {
        /// The file, or "the text".
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// An object in a method has an unknown key.
    #[error("{} has the unknown key \"{key}\"; allowed keys: {allowed}", place_or_method(place))]
    UnknownKey {
        /// The place of the object, such as `layers.5`. `None` for the whole method.
        place: Option<String>,
        /// The key.
        key: String,
        /// The allowed keys.
        allowed: String,
    },
    /// A part of a method has the wrong form.
    #[error("`{place}` is {found}, but must be {expected}")]
    Form {
        /// The place of the part, such as `decode` or `layers.5.prefill`.
        place: String,
        /// What was found.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A layer appears twice in a method.
    #[error("`{field}` names layer {layer} twice")]
    LayerTwice {
        /// `dense_layers` or `layers`.
        field: &'static str,
        /// The layer.
        layer: usize,
    },
    /// The maskers of a phase or a layer are wrong.
    #[error("`{place}`: {source}")]
    At {
        /// The place of the maskers, such as `decode`, `layers.5` or `layers.5.prefill`.
        place: String,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// A configuration does not say which masker it is for.
    #[error("masker {place} of the chain has no \"type\"; known types: {known}")]
    NoType {
        /// The place in the chain, from 0.
        place: usize,
        /// The registered names.
        known: String,
    },
    /// No masker, scorer or other part is registered under this name.
    #[error("there is no {part} of type \"{found}\"; known types: {known}{advice}")]
    UnknownType {
        /// The kind of the part: a masker, a scorer or another part.
        part: &'static str,
        /// The name.
        found: String,
        /// The registered names.
        known: String,
        /// What to do with a name that is registered elsewhere. It may be empty.
        advice: &'static str,
    },
    /// A field is missing, unknown, or of the wrong type.
    #[error("\"{part}\"{}: {reason}", of_field(field))]
    Field {
        /// The type of the masker or scorer.
        part: String,
        /// The field, or `.` for the whole configuration.
        field: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// A field has a value that is not allowed.
    #[error("`{field}` is {value}, but must be {allowed}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A file that the configuration names cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Two maskers of a chain sample.
    #[error(
        "maskers {first} and {second} of the chain both sample; one sampler is allowed, since each estimates all that \
         the others left out"
    )]
    TwoSamplers {
        /// The place of the first in the chain, from 0.
        first: usize,
        /// The place of the second in the chain.
        second: usize,
    },
}

/// The field in a message; nothing for the whole configuration, and where the reason names the field itself.
fn of_field(field: &str) -> String {
    if field == "." { String::new() } else { format!(", field `{field}`") }
}

impl ConfigError {
    /// The error for a field whose value is not allowed.
    pub fn value(field: &'static str, value: impl ToString, allowed: &'static str) -> Self {
        Self::Value { field, value: value.to_string(), allowed }
    }
}

fn place_or_method(place: &Option<String>) -> String {
    place.as_ref().map_or("the method".to_owned(), |place| format!("`{place}`"))
}
