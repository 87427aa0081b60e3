use burn::{
    config::Config,
    module::Initializer,
    nn::{LinearConfig, RmsNormConfig},
    tensor::backend::Backend,
};

use super::{
    GroupedQueryAttention, OptionalRecord, RotaryEncodingConfig,
    forward_counter::ForwardCounter,
    mha_config::{validate_matrix, validate_size},
};
use crate::{config::ConfigError, method::MaskerChainConfig};

/// Configuration of [GroupedQueryAttention].
#[derive(Config, Debug)]
pub struct GroupedQueryAttentionConfig {
    /// The size of the vectors that go in and come out.
    pub d_model: usize,
    /// The number of query heads.
    pub n_heads: usize,
    /// The number of key-value heads, of which `n_heads` must be a multiple.
    pub n_kv_heads: usize,
    /// The size of a head. Default: `d_model / n_heads`.
    pub head_dim: Option<usize>,
    /// Whether the projections of queries, keys and values have a bias (Qwen2). Default: false.
    #[config(default = false)]
    pub bias: bool,
    /// Whether the output projection has a bias. Default: false.
    #[config(default = false)]
    pub output_bias: bool,
    /// The rotary position encoding of queries and keys. Default: none.
    pub rotary: Option<RotaryEncodingConfig>,
    /// The epsilon of an RMS norm over each query and each key, before the rotation (Qwen3). Default: no norm.
    pub norm_epsilon: Option<f64>,
    /// How many keys up to its own a query sees (Mistral, and every other layer of Gemma 2). Default: all.
    pub sliding_window: Option<usize>,
    /// What bounds the logits, [as described](crate::attention::AttentionInputs::with_softcap) (Gemma 2). Default: nothing.
    pub softcap: Option<f64>,
    /// Whether each query head has a learned [sink](crate::attention::AttentionInputs::with_sink_logits) (GPT-OSS). Default: false.
    #[config(default = false)]
    pub sink_logits: bool,
    /// What the products of queries and keys are multiplied with. Default: `1 / sqrt(head_dim)`.
    pub scale: Option<f64>,
    /// The index of the layer in its model, for methods with weights by layer. Default: 0.
    #[config(default = 0)]
    pub layer: usize,
    /// The method. Default: none, dense attention.
    #[config(default = "MaskerChainConfig::default()")]
    pub maskers: MaskerChainConfig,
    /// The seed of what the method draws where there is no cache. Default: 0.
    #[config(default = 0)]
    pub seed: u64,
    /// How the weights of the projections begin.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/3f64.sqrt(), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl GroupedQueryAttentionConfig {
    /// The layer.
    ///
    /// # Errors
    /// If a value makes no sense, or the method cannot be built; the error names the field, the value and what is
    /// allowed.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Result<GroupedQueryAttention<B>, ConfigError> {
        self.init_with(self.maskers.init_for_layer(self.layer, device)?, device)
    }

    /// The layer with a method of your own in place of the configured one.
    ///
    /// # Errors
    /// If a value makes no sense; the error names the field, the value and what is allowed.
    pub fn init_with<B: Backend, M>(
        &self,
        maskers: M,
        device: &B::Device,
    ) -> Result<GroupedQueryAttention<B, M>, ConfigError> {
        let head_dim = self.validate()?;
        let linear = |from: usize, to: usize, bias: bool| {
            LinearConfig::new(from, to).with_bias(bias).with_initializer(self.initializer.clone()).init(device)
        };
        let norm = || self.norm_epsilon.map(|epsilon| RmsNormConfig::new(head_dim).with_epsilon(epsilon).init(device));
        let (of_queries, of_keys) = (self.n_heads * head_dim, self.n_kv_heads * head_dim);
        Ok(GroupedQueryAttention {
            query: linear(self.d_model, of_queries, self.bias),
            key: linear(self.d_model, of_keys, self.bias),
            value: linear(self.d_model, of_keys, self.bias),
            output: linear(of_queries, self.d_model, self.output_bias),
            query_norm: norm(),
            key_norm: norm(),
            sink_logits: self.sink_logits.then(|| Initializer::Zeros.init([self.n_heads], device)),
            maskers: OptionalRecord(maskers),
            rotary: self.rotary.as_ref().map(|rotary| rotary.init(head_dim)).transpose()?,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim,
            sliding_window: self.sliding_window,
            softcap: self.softcap,
            scale: self.scale.unwrap_or(1.0 / (head_dim as f64).sqrt()),
            layer: self.layer,
            seed: self.seed,
            forward_counter: ForwardCounter::default(),
        })
    }

    /// The size of a head, once every value makes sense.
    fn validate(&self) -> Result<usize, ConfigError> {
        for (field, value) in [("d_model", self.d_model), ("n_heads", self.n_heads), ("n_kv_heads", self.n_kv_heads)] {
            validate_size(field, value)?;
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(ConfigError::value("n_heads", self.n_heads, "a multiple of `n_kv_heads`"));
        }
        let head_dim = match self.head_dim {
            Some(0) => return Err(ConfigError::value("head_dim", 0, "at least 1")),
            Some(head_dim) => head_dim,
            None if self.d_model.is_multiple_of(self.n_heads) => self.d_model / self.n_heads,
            None => {
                let allowed = "a multiple of `n_heads`, unless `head_dim` is given";
                return Err(ConfigError::value("d_model", self.d_model, allowed));
            }
        };
        validate_matrix("head_dim", self.d_model.saturating_mul(self.n_heads), head_dim)?;
        let above_zero = |value: f64| value as f32 > 0.0 && (value as f32).is_finite();
        for (field, value) in [("norm_epsilon", self.norm_epsilon), ("softcap", self.softcap)] {
            if let Some(value) = value.filter(|value| !above_zero(*value)) {
                return Err(ConfigError::value(field, value, "a finite number above 0 in f32"));
            }
        }
        if let Some(scale) = self.scale.filter(|scale| !(*scale as f32).is_finite()) {
            return Err(ConfigError::value("scale", scale, "a finite number in f32"));
        }
        match self.sliding_window {
            Some(0) => Err(ConfigError::value("sliding_window", 0, "at least 1")),
            _ => Ok(head_dim),
        }
    }
}
