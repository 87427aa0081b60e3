use std::path::PathBuf;

use thiserror::Error;

use crate::FileError;

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
    /// An object in a method has a key that is not known.
    #[error("{} has the unknown key \"{key}\"; allowed keys: {allowed}", place_or_method(place))]
    UnknownKey {
        /// Where the object stands (`layers.5`), `None` for the method as a whole.
        place: Option<String>,
        /// The key.
        key: String,
        /// The keys that are known.
        allowed: String,
    },
    /// A part of a method is of another form than it must be.
    #[error("`{place}` is {found}, but must be {expected}")]
    Form {
        /// Where it stands: `decode`, `layers.5.prefill`.
        place: String,
        /// What stands there.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A method names a layer twice.
    #[error("`{field}` names layer {layer} twice")]
    LayerTwice {
        /// `dense_layers` or `layers`.
        field: &'static str,
        /// The layer.
        layer: usize,
    },
    /// What is wrong with the maskers of a phase or a layer.
    #[error("`{place}`: {source}")]
    At {
        /// Where they stand: `decode`, `layers.5`, `layers.5.prefill`.
        place: String,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// A configuration does not say which masker it is for.
    #[error("masker {place} of the chain has no \"type\"; known types: {known}")]
    NoType {
        /// Where in the chain, from 0.
        place: usize,
        /// The registered names.
        known: String,
    },
    /// No masker, scorer or other part is registered under this name.
    #[error("there is no {part} of type \"{found}\"; known types: {known}")]
    UnknownType {
        /// What kind of part was asked for.
        part: &'static str,
        /// The name.
        found: String,
        /// The registered names.
        known: String,
    },
    /// A field is missing, unknown, or of the wrong type.
    #[error("\"{part}\", field `{field}`: {reason}")]
    Field {
        /// The type of the masker or scorer.
        part: String,
        /// The field, `.` for the configuration as a whole.
        field: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// A field has a value that makes no sense.
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
        /// Where the first stands, from 0.
        first: usize,
        /// Where the second stands.
        second: usize,
    },
}

impl ConfigError {
    /// The error for a field whose value makes no sense.
    pub fn value(field: &'static str, value: impl ToString, allowed: &'static str) -> Self {
        Self::Value { field, value: value.to_string(), allowed }
    }
}

fn place_or_method(place: &Option<String>) -> String {
    place.as_ref().map_or("the method".to_owned(), |place| format!("`{place}`"))
}
