use std::path::Path;

use serde_json::{Value, json};

use super::{LanguageModelConfig, ModelError, fields::Fields};

/// How text is generated: the content of a `generation_config.json`, with defaults for missing fields.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// The largest number of new tokens.
    pub max_new_tokens: usize,
    /// The tokens that end generation.
    pub end_tokens: Vec<u32>,
    /// The stop strings, which end generation. They are not part of the returned text.
    pub stop: Vec<String>,
    /// How tokens are sampled. `None`: greedy decoding.
    pub sampling: Option<SamplingConfig>,
    /// The repetition penalty ([CTRL](https://arxiv.org/abs/1909.05858)). Logits of tokens that the text already
    /// contains are divided by it if they are above 0, and multiplied by it if they are below 0. 1 changes nothing.
    pub repetition_penalty: f64,
    /// The seed of sampling.
    pub seed: u64,
}

/// How the next token is sampled.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SamplingConfig {
    /// The temperature, by which the logits are divided, above 0. Default: 1.
    pub temperature: f64,
    /// The number of most likely tokens to sample from. Default: all.
    pub top_k: Option<usize>,
    /// Samples from the most likely tokens whose probabilities together reach this value, in (0, 1] ([nucleus
    /// sampling](https://arxiv.org/abs/1904.09751)). Default: 1, all tokens.
    pub top_p: f64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, top_p: 1.0 }
    }
}

impl Default for GenerationConfig {
    /// Greedy decoding of 64 tokens.
    fn default() -> Self {
        Self {
            max_new_tokens: 64,
            end_tokens: Vec::new(),
            stop: Vec::new(),
            sampling: None,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

/// Fields that do not change which tokens are generated, either in general or in this library.
const WITHOUT_EFFECT: &[&str] = &[
    "bos_token_id",
    "cache_implementation",
    "decoder_start_token_id",
    "early_stopping",
    "length_penalty",
    "max_length",
    "max_time",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "return_dict_in_generate",
    "transformers_version",
    "use_cache",
];

impl GenerationConfig {
    /// Reads the `generation_config.json` of a folder, if it exists. If it names no tokens that end a sequence, those
    /// of the model are taken.
    ///
    /// # Errors
    /// If the file cannot be read, a value is not allowed, or it asks for a way of generation that is not supported.
    pub fn from_directory(directory: impl AsRef<Path>, model: &LanguageModelConfig) -> Result<Self, ModelError> {
        let path = directory.as_ref().join("generation_config.json");
        let mut config = match path.exists() {
            true => Self::from_fields(Fields::open(&path)?)?,
            false => Self::default(),
        };
        if config.end_tokens.is_empty() {
            config.end_tokens.clone_from(&model.end_tokens);
        }
        Ok(config)
    }

    /// Sets the largest number of new tokens.
    pub fn with_max_new_tokens(self, max_new_tokens: usize) -> Self {
        Self { max_new_tokens, ..self }
    }

    /// Sets the stop strings.
    pub fn with_stop(self, stop: Vec<String>) -> Self {
        Self { stop, ..self }
    }

    /// Sets how tokens are sampled.
    ///
    /// # Errors
    /// If a value is not allowed.
    pub fn with_sampling(self, sampling: Option<SamplingConfig>) -> Result<Self, ModelError> {
        if let Some(SamplingConfig { temperature, top_k, top_p }) = sampling {
            let wrong = |field, value: String, allowed: &str| {
                Err(ModelError::Value { field, value, allowed: allowed.to_owned() })
            };
            if !(temperature > 0.0 && temperature.is_finite()) {
                return wrong("temperature", temperature.to_string(), "a finite number above 0");
            }
            if !(top_p > 0.0 && top_p <= 1.0) {
                return wrong("top_p", top_p.to_string(), "a probability in (0, 1]");
            }
            if top_k == Some(0) {
                return wrong("top_k", "0".to_owned(), "at least 1");
            }
        }
        Ok(Self { sampling, ..self })
    }

    /// Sets the seed.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    fn from_fields(mut fields: Fields) -> Result<Self, ModelError> {
        let default = Self::default();
        let sampling = SamplingConfig {
            temperature: fields.positive("temperature")?.unwrap_or(1.0),
            // In Python, 0 means all tokens.
            top_k: match fields.take("top_k") {
                None => None,
                Some(value) => match value.as_u64() {
                    Some(count) => usize::try_from(count).ok().filter(|count| *count > 0),
                    None => return Err(fields.error("top_k", value, "a whole number of at least 0")),
                },
            },
            top_p: fields.positive("top_p")?.unwrap_or(1.0),
        };
        if sampling.top_p > 1.0 {
            return Err(fields.error("top_p", sampling.top_p, "a probability in (0, 1]"));
        }
        let sampling = fields.flag("do_sample", false)?.then_some(sampling);
        let stop = match fields.take("stop_strings") {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one],
            Some(value) => match serde_json::from_value(value.clone()) {
                Ok(several) => several,
                Err(_) => return Err(fields.error("stop_strings", value, "a text or a list of texts")),
            },
        };
        for field in ["num_beams", "num_return_sequences", "num_beam_groups"] {
            fields.only(field, &json!(1))?;
        }
        for field in ["typical_p", "encoder_repetition_penalty", "guidance_scale"] {
            fields.only(field, &json!(1.0))?;
        }
        let absent = ["min_p", "epsilon_cutoff", "eta_cutoff", "no_repeat_ngram_size", "diversity_penalty"];
        for field in absent.into_iter().chain(["min_length", "encoder_no_repeat_ngram_size", "penalty_alpha"]) {
            fields.only(field, &json!(0))?;
        }
        let config = Self {
            max_new_tokens: fields.count("max_new_tokens")?.unwrap_or(default.max_new_tokens),
            end_tokens: fields.tokens("eos_token_id")?,
            stop,
            sampling,
            repetition_penalty: fields.positive("repetition_penalty")?.unwrap_or(1.0),
            seed: default.seed,
        };
        fields.finish(WITHOUT_EFFECT)?;
        Ok(config)
    }
}
