use std::{fmt, io, path::PathBuf};

use thiserror::Error;

use crate::{FileError, attention::AttentionError, masker::ConfigError};

/// Why a language model could not be loaded or run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The folder is not there.
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
    /// The architecture is not one of this library's.
    #[error("{} is of a model of the architecture {found}; known architectures: {known}", path.display())]
    Architecture {
        /// The configuration file.
        path: PathBuf,
        /// What it names.
        found: String,
        /// What can be loaded.
        known: String,
    },
    /// A field of a configuration file has a value that cannot be used.
    #[error("`{field}` in {} is {value}, but must be {allowed}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value, "missing" if it is not there.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A configuration file has fields of which this library does not know what they do to the model.
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
    /// The tensors of the files are not those of the model.
    #[error("the weights in {} do not fit the model: {mismatch}", path.display())]
    Weights {
        /// The folder.
        path: PathBuf,
        /// All that does not fit.
        mismatch: WeightMismatch,
    },
    /// The index names files that are not there.
    #[error("{} names files of weights that are not there: {missing}", path.display())]
    MissingShards {
        /// The index.
        path: PathBuf,
        /// The files.
        missing: String,
    },
    /// The backend does not compute with numbers of the type.
    #[error("the backend {backend} does not compute in {dtype} on this device")]
    NumberType {
        /// The backend.
        backend: String,
        /// The type that was asked for.
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
    /// The model was given nothing to continue.
    #[error("there is no token to continue; the prompt must have at least one")]
    NoTokens,
    /// A token is not in the vocabulary of the model.
    #[error("token {token} is not in the model's vocabulary of {vocabulary} tokens")]
    Token {
        /// The token.
        token: u32,
        /// How many tokens the model knows, from 0.
        vocabulary: usize,
    },
    /// The sequence is longer than the model can tell positions apart.
    #[error("{tokens} tokens are more than the {positions} positions of the model")]
    TooLong {
        /// The length of the sequence.
        tokens: usize,
        /// `max_position_embeddings`.
        positions: usize,
    },
    /// Values given by the caller make no sense.
    #[error("`{field}` is {value}, but must be {allowed}")]
    Value {
        /// What was given.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The tokenizer has tokens that the model does not know: it belongs to another model.
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
        /// Its number.
        id: u32,
        /// How many tokens the model knows, from 0.
        vocabulary: usize,
    },
    /// A text cannot be turned into tokens, or tokens into a text.
    #[error("the tokenizer cannot {task}: {reason}")]
    Tokenizer {
        /// What it was asked for.
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
    /// A model of the hub cannot be downloaded.
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

/// How the tensors of a checkpoint differ from those of the model, all of them at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WeightMismatch {
    /// Tensors that the model needs and the files lack.
    pub missing: Vec<String>,
    /// Tensors of the files that the model has no place for.
    pub extra: Vec<String>,
    /// Tensors of another shape than the model's.
    pub misshapen: Vec<Misshapen>,
    /// Tensors that do not hold floating-point numbers, and the type that they hold.
    pub mistyped: Vec<(String, String)>,
}

/// A tensor of another shape than the model's.
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
    /// Whether nothing differs.
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
