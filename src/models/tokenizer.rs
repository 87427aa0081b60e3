use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ChatMessage, ChatTemplate, ModelError, TextStream, fields::Fields};
use crate::FileError;

/// The tokenizer of a model, with its chat template if it has one.
pub struct Tokenizer {
    path: PathBuf,
    tokenizer: tokenizers::Tokenizer,
    chat_template: Option<ChatTemplate>,
}

const FORMAT: &str = "a tokenizer";

impl Tokenizer {
    /// Reads `tokenizer.json` of a folder, and the chat template of `tokenizer_config.json` or `chat_template.jinja`.
    ///
    /// # Errors
    /// If a file cannot be read or is not what its name says.
    pub fn from_directory(directory: impl AsRef<Path>) -> Result<Self, ModelError> {
        let directory = directory.as_ref();
        let tokenizer = Self::from_file(directory.join("tokenizer.json"))?;
        Ok(Self { chat_template: chat_template(directory)?, ..tokenizer })
    }

    /// Reads a `tokenizer.json`, without a chat template.
    ///
    /// # Errors
    /// If the file cannot be read or is not a tokenizer.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, ModelError> {
        let path = path.into();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(FileError::Open { path, source }.into()),
        };
        let unusable = |error: tokenizers::Error| FileError::Format {
            path: path.clone(),
            format: FORMAT,
            reason: error.to_string(),
        };
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(unusable)?;
        // A file may carry how texts were cut and filled up in training, which is not wanted here.
        tokenizer.with_truncation(None).map_err(unusable)?;
        tokenizer.with_padding(None);
        Ok(Self { path, tokenizer, chat_template: None })
    }

    /// Checks that a model of a vocabulary knows every token.
    ///
    /// # Errors
    /// If there is a token that it does not know: the tokenizer is of another model.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<(), ModelError> {
        let highest = self.tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        match highest.filter(|(_, id)| *id as usize >= vocabulary) {
            Some((token, id)) => Err(ModelError::Vocabulary { path: self.path.clone(), token, id, vocabulary }),
            None => Ok(()),
        }
    }

    /// The tokens of a text. With `special_tokens`, those are added that begin (or end) a sequence.
    ///
    /// # Errors
    /// If the text cannot be taken apart.
    pub fn encode(&self, text: &str, special_tokens: bool) -> Result<Vec<u32>, ModelError> {
        match self.tokenizer.encode_fast(text, special_tokens) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(ModelError::Tokenizer { task: "encode the text", reason: error.to_string() }),
        }
    }

    /// The text of tokens. With `skip_special_tokens`, those are left out that begin and end sequences. Bytes that are no
    /// text become `U+FFFD`.
    ///
    /// # Errors
    /// If the tokens cannot be put together.
    pub fn decode(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String, ModelError> {
        self.tokenizer
            .decode(tokens, skip_special_tokens)
            .map_err(|error| ModelError::Tokenizer { task: "decode the tokens", reason: error.to_string() })
    }

    /// A decoder that takes tokens one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// How a token is written in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The number of a token by how it is written in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The text that a conversation is for the model, up to where the assistant answers.
    ///
    /// # Errors
    /// If the model has no chat template, or the template refuses the conversation.
    pub fn chat(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        match &self.chat_template {
            Some(template) => template.render(messages, true),
            None => {
                Err(ModelError::ChatTemplate { reason: "the model has none; it was not trained to chat".to_owned() })
            }
        }
    }

    /// Whether the model has a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }
}

/// The chat template of a folder.
fn chat_template(directory: &Path) -> Result<Option<ChatTemplate>, ModelError> {
    let config = directory.join("tokenizer_config.json");
    let mut fields = match config.exists() {
        true => Fields::open(&config)?,
        false => Fields::parse(&config, "{}")?,
    };
    let file = directory.join("chat_template.jinja");
    let source = match (file.exists(), fields.take("chat_template")) {
        (true, _) => {
            Some(std::fs::read_to_string(&file).map_err(|source| FileError::Open { path: file.clone(), source })?)
        }
        (false, None) => None,
        (false, Some(Value::String(source))) => Some(source),
        (false, Some(several)) => match default_template(&several) {
            Some(source) => Some(source),
            None => {
                let allowed = "a text, or a list of {\"name\", \"template\"} with one that is called \"default\"";
                return Err(fields.error("chat_template", several, allowed));
            }
        },
    };
    let (begin, end) = (special_token(&mut fields, "bos_token"), special_token(&mut fields, "eos_token"));
    source.map(|source| ChatTemplate::new(source, begin, end)).transpose()
}

/// The template that is called the default among several.
fn default_template(several: &Value) -> Option<String> {
    let is_default = |template: &&Value| template.get("name").and_then(Value::as_str) == Some("default");
    let template = several.as_array()?.iter().find(is_default)?;
    template.get("template").and_then(Value::as_str).map(str::to_owned)
}

/// A special token, which is a text or an object with one; empty if there is none.
fn special_token(fields: &mut Fields, name: &str) -> String {
    let token = fields.take(name);
    let text = token.as_ref().and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
    text.unwrap_or_default().to_owned()
}
