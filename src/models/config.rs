use std::path::Path;

use serde_json::{Value, json};

use super::{ModelError, fields::Fields, rotary_parameters::rotary};
use crate::nn::{GroupedQueryAttentionConfig, RotaryEncodingConfig};

/// The supported architectures. Their names are those in HuggingFace's configuration files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// `LlamaForCausalLM`: [Llama](https://arxiv.org/abs/2407.21783) 2, 3 and 3.x.
    Llama,
    /// `MistralForCausalLM`: [Mistral](https://arxiv.org/abs/2310.06825), with a sliding window.
    Mistral,
    /// `Qwen2ForCausalLM`: [Qwen2](https://arxiv.org/abs/2407.10671), with biases for queries, keys and values.
    Qwen2,
    /// `Qwen3ForCausalLM`: [Qwen3](https://arxiv.org/abs/2505.09388), with norms for queries and keys.
    Qwen3,
    /// `Gemma2ForCausalLM`: [Gemma 2](https://arxiv.org/abs/2408.00118), with softcaps, alternating sliding windows,
    /// and norms also after attention and the feed-forward network.
    Gemma2,
}

impl Architecture {
    /// All architectures.
    pub const ALL: [Self; 5] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Gemma2];

    /// The name in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gemma2 => "Gemma2ForCausalLM",
        }
    }

    /// The name in the older field `model_type`.
    fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma2 => "gemma2",
        }
    }
}

/// The activation function of a gated feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateActivation {
    /// `silu`: the network is a [SwiGLU](https://arxiv.org/abs/2002.05202).
    Silu,
    /// `gelu`: the network is a GeGLU.
    Gelu,
    /// `gelu_pytorch_tanh`: a GeGLU with the tanh approximation of GELU.
    GeluTanh,
}

/// The configuration of a [LanguageModel](super::LanguageModel), as a `config.json` describes it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LanguageModelConfig {
    /// The architecture.
    pub architecture: Architecture,
    /// The size of the vocabulary.
    pub vocab_size: usize,
    /// The size of the hidden vectors between the layers.
    pub hidden_size: usize,
    /// The size of the hidden vectors inside the feed-forward networks.
    pub intermediate_size: usize,
    /// The number of query heads of a layer.
    pub heads: usize,
    /// The number of key-value heads of a layer.
    pub kv_heads: usize,
    /// The size of a head.
    pub head_dim: usize,
    /// For each layer, the size of the sliding window: the number of keys up to its position that a query sees. `None`:
    /// all keys.
    pub windows: Vec<Option<usize>>,
    /// The number of positions, which is the length of the longest sequence.
    pub max_positions: usize,
    /// The rotary positions.
    pub rotary: RotaryEncodingConfig,
    /// The epsilon of all norms.
    pub norm_epsilon: f64,
    /// Whether queries and keys have norms.
    pub query_key_norm: bool,
    /// Whether the projections of queries, keys and values have a bias.
    pub attention_bias: bool,
    /// Whether the projection of the attention output has a bias.
    pub attention_output_bias: bool,
    /// Whether the projections of the feed-forward networks have a bias.
    pub feed_forward_bias: bool,
    /// The activation function of the feed-forward networks.
    pub activation: GateActivation,
    /// The factor of the products of queries and keys. `None`: `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f64>,
    /// The softcap of the attention logits.
    pub attention_softcap: Option<f64>,
    /// The softcap of the model's logits.
    pub final_softcap: Option<f64>,
    /// Whether the logits are computed with the embedding matrix instead of a separate matrix.
    pub tied_embeddings: bool,
    /// The token that begins a sequence, if the configuration names one.
    pub begin_token: Option<u32>,
    /// The tokens that end a sequence.
    pub end_tokens: Vec<u32>,
}

/// The largest number of layers that a configuration may have. It stops a wrong number from filling the memory.
const MOST_LAYERS: usize = 4096;

/// Fields that do not change the model's output here: they describe training, storage, or the behaviour of other
/// programs.
const WITHOUT_EFFECT: &[&str] = &[
    "add_cross_attention",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "cache_implementation",
    "chunk_size_feed_forward",
    "do_sample",
    "dtype",
    "embd_pdrop",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "license",
    "max_length",
    "max_new_tokens",
    "max_window_layers",
    "min_length",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "sliding_window",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
    "use_mrope",
];

impl LanguageModelConfig {
    /// Reads the `config.json` of a folder.
    ///
    /// # Errors
    /// If the file cannot be read, is of another architecture, has a field with a value that is not supported, or has a
    /// field whose effect is not known.
    pub fn from_directory(directory: impl AsRef<Path>) -> Result<Self, ModelError> {
        Self::from_fields(Fields::open(&directory.as_ref().join("config.json"))?)
    }

    /// Parses the configuration from a text. Error messages name it by `origin`.
    ///
    /// # Errors
    /// As [from_directory](Self::from_directory).
    pub fn from_json(origin: impl AsRef<Path>, json: &str) -> Result<Self, ModelError> {
        Self::from_fields(Fields::parse(origin.as_ref(), json)?)
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.windows.len()
    }

    /// The configuration of a layer's attention, without a sparse method.
    pub(super) fn attention(&self, layer: usize) -> GroupedQueryAttentionConfig {
        GroupedQueryAttentionConfig::new(self.hidden_size, self.heads, self.kv_heads)
            .with_head_dim(Some(self.head_dim))
            .with_bias(self.attention_bias)
            .with_output_bias(self.attention_output_bias)
            .with_rotary(Some(self.rotary.clone()))
            .with_norm_epsilon(self.query_key_norm.then_some(self.norm_epsilon))
            .with_sliding_window(self.windows.get(layer).copied().flatten())
            .with_softcap(self.attention_softcap)
            .with_scale(self.attention_scale)
            .with_layer(layer)
    }

    fn from_fields(mut fields: Fields) -> Result<Self, ModelError> {
        use Architecture::{Gemma2, Llama, Mistral, Qwen2, Qwen3};
        let architecture = architecture(&mut fields)?;
        let layers = fields.needed_count("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            return Err(fields.error("num_hidden_layers", layers, format!("at most {MOST_LAYERS}")));
        }
        let (hidden_size, heads) = (fields.needed_count("hidden_size")?, fields.needed_count("num_attention_heads")?);
        let kv_heads = fields.count("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = head_dim(&mut fields, architecture, hidden_size, heads)?;
        let max_positions = fields.needed_count("max_position_embeddings")?;
        fields.only("quantization_config", &Value::Null)?;
        // In Llama, one flag covers all four projections. Qwen2 has fixed biases.
        let bias = match architecture {
            Llama | Qwen3 => fields.flag("attention_bias", false)?,
            Mistral | Qwen2 | Gemma2 => {
                fields.only("attention_bias", &json!(false))?;
                false
            }
        };
        let config = Self {
            architecture,
            vocab_size: fields.needed_count("vocab_size")?,
            hidden_size,
            intermediate_size: fields.needed_count("intermediate_size")?,
            heads,
            kv_heads,
            head_dim,
            windows: windows(&mut fields, architecture, layers)?,
            max_positions,
            rotary: rotary(&mut fields, 10_000.0, max_positions)?,
            norm_epsilon: fields.positive("rms_norm_eps")?.unwrap_or(1e-6),
            query_key_norm: architecture == Qwen3,
            attention_bias: bias || architecture == Qwen2,
            attention_output_bias: bias,
            feed_forward_bias: architecture == Llama && fields.flag("mlp_bias", false)?,
            activation: activation(&mut fields, architecture)?,
            attention_scale: match architecture {
                Gemma2 => Some(1.0 / fields.positive("query_pre_attn_scalar")?.unwrap_or(256.0).sqrt()),
                _ => None,
            },
            attention_softcap: softcap(&mut fields, architecture, "attn_logit_softcapping", 50.0)?,
            final_softcap: softcap(&mut fields, architecture, "final_logit_softcapping", 30.0)?,
            tied_embeddings: fields.flag("tie_word_embeddings", architecture == Gemma2)?,
            begin_token: fields.tokens("bos_token_id")?.first().copied(),
            end_tokens: fields.tokens("eos_token_id")?,
        };
        fields.finish(WITHOUT_EFFECT)?;
        Ok(config)
    }
}

fn architecture(fields: &mut Fields) -> Result<Architecture, ModelError> {
    let known = Architecture::ALL.map(Architecture::name).join(", ");
    let named = match fields.take("architectures") {
        Some(Value::Array(names)) => names.first().and_then(Value::as_str).map(str::to_owned),
        Some(other) => return Err(fields.error("architectures", other, format!("a list with one of {known}"))),
        None => None,
    };
    let found = match named {
        Some(name) => Architecture::ALL.into_iter().find(|architecture| architecture.name() == name).ok_or(name),
        None => {
            let model_type = fields.text("model_type")?.unwrap_or_else(|| "no name".to_owned());
            let is_it = |architecture: &Architecture| architecture.model_type() == model_type;
            Architecture::ALL.into_iter().find(is_it).ok_or(model_type)
        }
    };
    found.map_err(|found| ModelError::Architecture { path: fields.path().to_owned(), found, known })
}

fn head_dim(
    fields: &mut Fields,
    architecture: Architecture,
    hidden_size: usize,
    heads: usize,
) -> Result<usize, ModelError> {
    match (fields.count("head_dim")?, architecture) {
        (Some(head_dim), _) => Ok(head_dim),
        (None, Architecture::Gemma2) => Ok(256),
        (None, Architecture::Qwen3) => Ok(128),
        (None, _) if hidden_size.is_multiple_of(heads) => Ok(hidden_size / heads),
        (None, _) => {
            let allowed = format!("a multiple of `num_attention_heads`, {heads}, unless `head_dim` is given");
            Err(fields.error("hidden_size", hidden_size, allowed))
        }
    }
}

fn activation(fields: &mut Fields, architecture: Architecture) -> Result<GateActivation, ModelError> {
    // Gemma 2 has its own field. Its files also contain the common field, which has no effect.
    let common = fields.text("hidden_act")?;
    let (field, name, default) = match architecture {
        Architecture::Gemma2 => ("hidden_activation", fields.text("hidden_activation")?, "gelu_pytorch_tanh"),
        _ => ("hidden_act", common, "silu"),
    };
    match name.as_deref().unwrap_or(default) {
        "silu" | "swish" => Ok(GateActivation::Silu),
        "gelu" => Ok(GateActivation::Gelu),
        "gelu_pytorch_tanh" => Ok(GateActivation::GeluTanh),
        other => Err(fields.error(field, other, "silu, gelu or gelu_pytorch_tanh")),
    }
}

/// A softcap of Gemma 2. `null` means that there is none.
fn softcap(
    fields: &mut Fields,
    architecture: Architecture,
    field: &str,
    default: f64,
) -> Result<Option<f64>, ModelError> {
    match (architecture, fields.has(field)) {
        (Architecture::Gemma2, true) => fields.positive(field),
        (Architecture::Gemma2, false) => Ok(Some(default)),
        // The field stays in the map and is refused later as an unknown field.
        _ => Ok(None),
    }
}

/// The sliding window of each layer.
fn windows(fields: &mut Fields, architecture: Architecture, layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    use Architecture::{Gemma2, Llama, Mistral, Qwen2, Qwen3};
    let given = fields.has("sliding_window");
    let size = match architecture {
        Llama => {
            fields.only("sliding_window", &Value::Null)?;
            None
        }
        Mistral | Gemma2 if !given => Some(4096),
        Mistral | Gemma2 => fields.count("sliding_window")?,
        Qwen2 | Qwen3 => {
            let size = fields.count("sliding_window")?;
            fields.flag("use_sliding_window", false)?.then_some(size.unwrap_or(4096))
        }
    };
    let first_with_window = match architecture {
        Qwen2 | Qwen3 => fields.take("max_window_layers").and_then(|layer| layer.as_u64()).unwrap_or(28),
        _ => 0,
    };
    let is_windowed = |layer: usize| match architecture {
        Gemma2 => layer.is_multiple_of(2),
        _ => layer as u64 >= first_with_window,
    };
    let Some(types) = fields.take("layer_types") else {
        return Ok((0..layers).map(|layer| size.filter(|_| is_windowed(layer))).collect());
    };
    let window = |layer_type: &Value| match (layer_type.as_str(), size) {
        (Some("full_attention"), _) => Some(None),
        (Some("sliding_attention"), Some(size)) => Some(Some(size)),
        _ => None,
    };
    let windows = types.as_array().and_then(|types| types.iter().map(window).collect::<Option<Vec<_>>>());
    windows.filter(|windows| windows.len() == layers).ok_or_else(|| {
        let allowed = format!(
            "a list of {layers} of \"full_attention\" and, with a `sliding_window` in use, \"sliding_attention\""
        );
        fields.error("layer_types", types, allowed)
    })
}
