use serde::{Deserialize, Serialize};

use crate::models::StopReason;

/// Questions about a context.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The text that the questions are about.
    pub context: String,
    /// The questions. Each is answered as if it were the only one.
    pub questions: Vec<String>,
    /// The text that each answer begins with.
    #[serde(default)]
    pub answer_prefix: String,
}

/// Options of a request, which override the model's generation configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// The largest number of tokens of an answer. Default: that of the model's generation configuration.
    pub max_new_tokens: Option<usize>,
    /// The largest number of tokens of the context. Tokens after it are cut off. Default: no limit.
    pub max_context_length: Option<usize>,
    /// Stop strings, in addition to those of the model's generation configuration.
    pub stop: Vec<String>,
}

/// The answers to a request.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Response {
    /// The text of each answer, without its prefix.
    pub responses: Vec<String>,
    /// The tokens of the context that went through the model.
    pub context: Vec<u32>,
    /// The details of each answer.
    pub answers: Vec<Answer>,
}

/// One answer with its tokens.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// The tokens of the question, including the prefix of the answer.
    pub question: Vec<u32>,
    /// The tokens of the answer, including the token that ends it.
    pub tokens: Vec<u32>,
    /// Why the answer ended.
    pub reason: StopReason,
}
