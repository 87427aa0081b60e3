use serde::{Deserialize, Serialize};

use crate::models::StopReason;

/// Questions about a context.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The text that the questions are about.
    pub context: String,
    /// The questions. Each is answered as if it were the only one.
    pub questions: Vec<String>,
    /// With what each answer begins.
    #[serde(default)]
    pub answer_prefix: String,
}

/// How a request is answered, where it is not as the model's makers have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// The most tokens of an answer. Default: those of the model's generation configuration.
    pub max_new_tokens: Option<usize>,
    /// The most tokens of the context; the end of a longer one is left out. Default: no limit.
    pub max_context_length: Option<usize>,
    /// Texts at which an answer ends, beside those of the model's generation configuration.
    pub stop: Vec<String>,
}

/// Answers to a request.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Response {
    /// The text of each answer, without its prefix.
    pub responses: Vec<String>,
    /// The tokens of the context that went through the model.
    pub context: Vec<u32>,
    /// Each answer as the model gave it.
    pub answers: Vec<Answer>,
}

/// An answer as a model gave it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// The tokens of the question and the answer's prefix.
    pub question: Vec<u32>,
    /// The tokens of the answer, the one that ends it among them.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub reason: StopReason,
}
