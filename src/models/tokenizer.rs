use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ChatMessage, ChatTemplate, ModelError, TextStream, fields::Fields};
use crate::io::FileError;

/// The tokenizer of a model, with its chat template if it has one.
pub struct Tokenizer {
    path: PathBuf,
    tokenizer: tokenizers::Tokenizer,
    chat_template: Option<ChatTemplate>,
}

const FORMAT: &str = "a tokenizer";

impl Tokenizer {
    /// Reads the `tokenizer.json` of a folder, and the chat template from `tokenizer_config.json` or
    /// `chat_template.jinja`.
    ///
    /// # Errors
    /// If a file cannot be read or is not valid.
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
        // The file may contain the truncation and padding of training, which are not wanted here.
        tokenizer.with_truncation(None).map_err(unusable)?;
        tokenizer.with_padding(None);
        Ok(Self { path, tokenizer, chat_template: None })
    }

    /// Checks that every token is in a vocabulary of this size.
    ///
    /// # Errors
    /// If a token is not in it. The tokenizer then belongs to another model.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<(), ModelError> {
        let highest = self.tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        match highest.filter(|(_, id)| *id as usize >= vocabulary) {
            Some((token, id)) => Err(ModelError::Vocabulary { path: self.path.clone(), token, id, vocabulary }),
            None => Ok(()),
        }
    }

    /// Encodes a text. `special_tokens` adds the tokens that begin or end a sequence.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn encode(&self, text: &str, special_tokens: bool) -> Result<Vec<u32>, ModelError> {
        match self.tokenizer.encode_fast(text, special_tokens) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(ModelError::Tokenizer { task: "encode the text", reason: error.to_string() }),
        }
    }

    /// Decodes tokens. `skip_special_tokens` leaves out the tokens that begin and end sequences. Invalid bytes become
    /// `U+FFFD`.
    ///
    /// # Errors
    /// If the tokens cannot be decoded.
    pub fn decode(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String, ModelError> {
        self.tokenizer
            .decode(tokens, skip_special_tokens)
            .map_err(|error| ModelError::Tokenizer { task: "decode the tokens", reason: error.to_string() })
    }

    /// A decoder for tokens that arrive one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// The text of a token in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The number of a token with this text in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Renders a conversation for the model, up to where the assistant's answer begins.
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

/// The template that is named "default" in a list of templates.
fn default_template(several: &Value) -> Option<String> {
    let is_default = |template: &&Value| template.get("name").and_then(Value::as_str) == Some("default");
    let template = several.as_array()?.iter().find(is_default)?;
    template.get("template").and_then(Value::as_str).map(str::to_owned)
}

/// A special token. It is a text, or an object with a text. Empty if it is missing.
fn special_token(fields: &mut Fields, name: &str) -> String {
    let token = fields.take(name);
    let text = token.as_ref().and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
    text.unwrap_or_default().to_owned()
}
