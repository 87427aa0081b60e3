use std::{fmt, io, path::PathBuf};

use thiserror::Error;

use crate::{config::ConfigError, io::FileError, problem::AttentionError};

/// Why a language model could not be loaded or run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The folder does not exist.
    #[error("there is no model folder {}: {source}", path.display())]
    Directory {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the folder cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The architecture is not supported.
    #[error("{} is of a model of the architecture {found}; known architectures: {known}", path.display())]
    Architecture {
        /// The configuration file.
        path: PathBuf,
        /// The architecture in the file.
        found: String,
        /// The supported architectures.
        known: String,
    },
    /// A field of a configuration file has a value that cannot be used.
    #[error("`{field}` in {} is {value}, but must be {allowed}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value, or "missing".
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A configuration file has fields whose effect on the model is not known.
    #[error(
        "{} has fields that are not supported and may change what the model computes: {fields}; remove them if they do \
         not",
        path.display()
    )]
    UnknownFields {
        /// The file.
        path: PathBuf,
        /// The fields with their values.
        fields: String,
    },
    /// The tensors of the files do not fit the model.
    #[error("the weights in {} do not fit the model: {mismatch}", path.display())]
    Weights {
        /// The folder.
        path: PathBuf,
        /// All differences.
        mismatch: WeightMismatch,
    },
    /// The index names files that do not exist.
    #[error("{} names files of weights that are not there: {missing}", path.display())]
    MissingShards {
        /// The index file.
        path: PathBuf,
        /// The missing files.
        missing: String,
    },
    /// The backend does not compute in this number type.
    #[error("the backend {backend} does not compute in {dtype} on this device")]
    NumberType {
        /// The backend.
        backend: String,
        /// The number type.
        dtype: String,
    },
    /// The method or a layer cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer cannot attend.
    #[error("layer {layer}: {source}")]
    Layer {
        /// The layer, from 0.
        layer: usize,
        /// Why.
        source: AttentionError,
    },
    /// The prompt has no tokens.
    #[error("there is no token to continue; the prompt must have at least one")]
    NoTokens,
    /// A token is not in the model's vocabulary.
    #[error("token {token} is not in the model's vocabulary of {vocabulary} tokens")]
    Token {
        /// The token.
        token: u32,
        /// The size of the vocabulary. Tokens are counted from 0.
        vocabulary: usize,
    },
    /// The sequence is longer than the number of positions of the model.
    #[error("{tokens} tokens are more than the {positions} positions of the model")]
    TooLong {
        /// The length of the sequence.
        tokens: usize,
        /// The number of positions, `max_position_embeddings`.
        positions: usize,
    },
    /// A value given by the caller is not allowed.
    #[error("`{field}` is {value}, but must be {allowed}")]
    Value {
        /// The argument or field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The tokenizer has tokens outside of the model's vocabulary, so it belongs to another model.
    #[error(
        "{} has the token {token:?} with the number {id}, but the model's vocabulary has {vocabulary} tokens; the \
         tokenizer is of another model",
        path.display()
    )]
    Vocabulary {
        /// The tokenizer file.
        path: PathBuf,
        /// The token with the highest number.
        token: String,
        /// The number of this token.
        id: u32,
        /// The size of the vocabulary. Tokens are counted from 0.
        vocabulary: usize,
    },
    /// A text cannot be encoded into tokens, or tokens cannot be decoded.
    #[error("the tokenizer cannot {task}: {reason}")]
    Tokenizer {
        /// The task that failed.
        task: &'static str,
        /// Why.
        reason: String,
    },
    /// The chat template is missing or cannot be used.
    #[error("the chat template of the model cannot be used: {reason}")]
    ChatTemplate {
        /// What is wrong.
        reason: String,
    },
    /// A model cannot be downloaded from the hub.
    #[error("cannot get {file} of {name} from the HuggingFace hub: {reason}")]
    Hub {
        /// The name of the model.
        name: String,
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
}

/// All differences between the tensors of a checkpoint and those of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WeightMismatch {
    /// Tensors that the model needs and the files do not have.
    pub missing: Vec<String>,
    /// Tensors of the files that the model does not have.
    pub extra: Vec<String>,
    /// Tensors whose shape is not that of the model.
    pub misshapen: Vec<Misshapen>,
    /// Tensors that do not hold floating-point numbers, with the type that they hold.
    pub mistyped: Vec<(String, String)>,
}

/// A tensor whose shape is not that of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name in the files.
    pub name: String,
    /// Its shape in the files.
    pub found: Vec<usize>,
    /// The shape that the model needs.
    pub expected: Vec<usize>,
}

impl WeightMismatch {
    /// Whether there are no differences.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.misshapen.is_empty() && self.mistyped.is_empty()
    }
}

impl fmt::Display for WeightMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = self
            .misshapen
            .iter()
            .map(|Misshapen { name, found, expected }| format!("{name} is {found:?} and must be {expected:?}"));
        let types = self.mistyped.iter().map(|(name, found)| format!("{name} holds {found}"));
        let parts = [
            ("missing", self.missing.clone()),
            ("not of this model", self.extra.clone()),
            ("of another shape", shapes.collect()),
            ("not floating-point numbers", types.collect()),
        ];
        let parts = parts.into_iter().filter(|(_, names)| !names.is_empty());
        let parts = parts.map(|(what, names)| format!("{what} ({}): {}", names.len(), names.join(", ")));
        f.write_str(&parts.collect::<Vec<_>>().join("; "))
    }
}
