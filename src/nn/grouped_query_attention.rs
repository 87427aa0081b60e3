use burn::{
    config::Config,
    module::{Content, DisplaySettings, Initializer, Module, ModuleDisplay, Param},
    nn::{Linear, LinearConfig, RmsNorm, RmsNormConfig},
    tensor::{Tensor, backend::Backend},
};

use super::{
    AttentionHook, AttentionMode, KvCache, OptionalRecord, RotaryEncoding, RotaryEncodingConfig, attend::join_heads,
    calls::Calls,
};
use crate::{
    attention::{AttentionError, AttentionInputs, Visibility},
    masker::{ConfigError, LayerState, Masker, MaskerChain, MaskerChainConfig},
};

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
    /// What bounds the logits, [as described](AttentionInputs::with_softcap) (Gemma 2). Default: nothing.
    pub softcap: Option<f64>,
    /// Whether each query head has a learned [sink](AttentionInputs::with_sinks) (GPT-OSS). Default: false.
    #[config(default = false)]
    pub sinks: bool,
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

/// Causal self-attention of today's language models (Llama, Mistral, Qwen, Gemma, GPT-OSS) through a sparse method:
/// fewer key-value heads than query heads ([GQA](https://arxiv.org/abs/2305.13245)), rotary positions, and a cache for
/// generation.
///
/// The method is a type, by default a [MaskerChain] of the library's maskers; any [Masker] that is a burn module can
/// stand in its place. It chooses among the keys that a query may see, which are those of the sliding window, if there is
/// one. Gradients flow to all parameters through attention over the keys that were kept; the choice gets none.
///
/// # Params
///
/// - query: [Linear] with `d_model` input and `n_heads * head_dim` output features.
/// - key, value: [Linear] with `d_model` input and `n_kv_heads * head_dim` output features.
/// - output: [Linear] with `n_heads * head_dim` input and `d_model` output features.
/// - query_norm, key_norm: [RmsNorm] over `head_dim` features, if configured.
/// - sinks: `[n_heads]`, if configured.
///
/// Should be created with [GroupedQueryAttentionConfig].
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Distribution, Tensor};
/// use burn_flex::Flex;
/// use sparse_attention_hub::{
///     masker::MaskerChainConfig,
///     nn::{GroupedQueryAttentionConfig, KvCache, RotaryEncodingConfig},
/// };
///
/// let device = Default::default();
/// let method = r#"[{"type": "sink", "sink_size": 4}, {"type": "oracle_top_k", "heavy_size": 16}]"#;
/// let attention = GroupedQueryAttentionConfig::new(64, 8, 2)
///     .with_rotary(Some(RotaryEncodingConfig::new().with_theta(500_000.0)))
///     .with_maskers(MaskerChainConfig::from_json(method)?)
///     .init::<Flex>(&device)?;
/// let tokens = |count| Tensor::random([1, count, 64], Distribution::Default, &device);
/// let mut cache = KvCache::new(42);
/// let prompt = attention.forward_cache(tokens(100), &mut cache)?;
/// let next = attention.forward_cache(tokens(1), &mut cache)?;
/// assert_eq!((prompt.dims(), next.dims(), cache.len()), ([1, 100, 64], [1, 1, 64], 101));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct GroupedQueryAttention<B: Backend, M = MaskerChain<B>> {
    /// From the input to the queries.
    pub query: Linear<B>,
    /// From the input to the keys.
    pub key: Linear<B>,
    /// From the input to the values.
    pub value: Linear<B>,
    /// From what the heads gathered to the output.
    pub output: Linear<B>,
    /// The norm of each query.
    pub query_norm: Option<RmsNorm<B>>,
    /// The norm of each key.
    pub key_norm: Option<RmsNorm<B>>,
    /// The logit of each query head's sink.
    pub sinks: Option<Param<Tensor<B, 1>>>,
    /// The method.
    pub maskers: OptionalRecord<M>,
    #[module(skip)]
    rotary: Option<RotaryEncoding>,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    sliding_window: Option<usize>,
    softcap: Option<f64>,
    scale: f64,
    layer: usize,
    seed: u64,
    calls: Calls,
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

    /// The layer with a method of one's own in place of the configured one.
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
            sinks: self.sinks.then(|| Initializer::Zeros.init([self.n_heads], device)),
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
            calls: Calls::default(),
        })
    }

    /// The size of a head, once every value makes sense.
    fn validate(&self) -> Result<usize, ConfigError> {
        for (field, value) in [("d_model", self.d_model), ("n_heads", self.n_heads), ("n_kv_heads", self.n_kv_heads)] {
            if value == 0 {
                return Err(ConfigError::value(field, value, "at least 1"));
            }
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
        let above_zero = |value: f64| value > 0.0 && value.is_finite();
        for (field, value) in [("norm_epsilon", self.norm_epsilon), ("softcap", self.softcap)] {
            if let Some(value) = value.filter(|value| !above_zero(*value)) {
                return Err(ConfigError::value(field, value, "a finite number above 0"));
            }
        }
        if let Some(scale) = self.scale.filter(|scale| !scale.is_finite()) {
            return Err(ConfigError::value("scale", scale, "a finite number"));
        }
        match self.sliding_window {
            Some(0) => Err(ConfigError::value("sliding_window", 0, "at least 1")),
            _ => Ok(head_dim),
        }
    }
}

/// Queries, keys and values by head.
struct Projected<B: Backend> {
    queries: Tensor<B, 4>,
    keys: Tensor<B, 4>,
    values: Tensor<B, 4>,
}

impl<B: Backend, M: Masker<B>> GroupedQueryAttention<B, M> {
    /// Attention over a whole sequence, for training or where nothing follows. What the method draws is drawn from the
    /// layer's seed: under autodiff anew at each call, otherwise the same.
    ///
    /// # Shapes
    /// - input: `[batch, length, d_model]`
    /// - output: the same
    ///
    /// # Errors
    /// If the input is not of this shape, or the method cannot work with it.
    pub fn forward(&self, input: Tensor<B, 3>) -> Result<Tensor<B, 3>, AttentionError> {
        let mut state = LayerState::new(self.calls.seed::<B>(self.seed, &input.device()));
        let Projected { queries, keys, values } = self.project(input, 0)?;
        self.attend(queries, keys, values, 0, &mut state, &mut AttentionMode::Sparse)
    }

    /// Attention of the next tokens, one or many, over themselves and all in the cache, into which they go: a prefill, a
    /// chunk of one, or a step of decoding.
    ///
    /// # Shapes
    /// - input: `[batch, tokens, d_model]`
    /// - output: the same
    ///
    /// # Errors
    /// If the input is not of this shape, does not fit what is cached, or the method cannot work with it. The cache then
    /// holds what it held before.
    pub fn forward_cache(&self, input: Tensor<B, 3>, cache: &mut KvCache<B>) -> Result<Tensor<B, 3>, AttentionError> {
        self.forward_hooked(input, cache, &mut AttentionMode::Sparse)
    }

    /// The same with attention itself left to a hook: dense attention for once, or one that records or measures.
    ///
    /// # Shapes
    /// - input: `[batch, tokens, d_model]`
    /// - output: the same
    ///
    /// # Errors
    /// As [forward_cache](Self::forward_cache), or if the hook fails.
    pub fn forward_hooked(
        &self,
        input: Tensor<B, 3>,
        cache: &mut KvCache<B>,
        hook: &mut dyn AttentionHook<B>,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        let position = cache.len();
        let Projected { queries, keys, values } = self.project(input, position)?;
        cache.append(keys, values)?;
        let output = match (cache.keys(), cache.values()) {
            (Some(keys), Some(values)) => self.attend(queries, keys, values, position, cache.state_mut(), hook),
            _ => unreachable!("tokens have just been appended"),
        };
        if output.is_err() {
            cache.truncate(position);
        }
        output
    }

    /// The heads of tokens of which the first stands at a position.
    fn project(&self, input: Tensor<B, 3>, position: usize) -> Result<Projected<B>, AttentionError> {
        let [batch, length, width] = input.dims();
        let [d_model, _] = self.query.weight.dims();
        if batch == 0 || length == 0 || width != d_model {
            return Err(AttentionError::Shape {
                tensor: "input",
                found: input.dims().to_vec(),
                expected: format!("[batch, length, {d_model}], with at least 1 in every dimension"),
            });
        }
        let heads = |linear: &Linear<B>, norm: Option<&RmsNorm<B>>, count: usize| {
            let heads = linear.forward(input.clone()).reshape([batch, length, count, self.head_dim]);
            norm.map_or(heads.clone(), |norm| norm.forward(heads)).swap_dims(1, 2)
        };
        let queries = heads(&self.query, self.query_norm.as_ref(), self.n_heads);
        let keys = heads(&self.key, self.key_norm.as_ref(), self.n_kv_heads);
        let values = heads(&self.value, None, self.n_kv_heads);
        Ok(match &self.rotary {
            Some(rotary) => {
                let angles = rotary.angles(position, length, queries.dtype(), &input.device());
                Projected { queries: rotary.rotate(queries, &angles), keys: rotary.rotate(keys, &angles), values }
            }
            None => Projected { queries, keys, values },
        })
    }

    /// What queries of which the first stands at a position gather, through the output projection.
    fn attend(
        &self,
        queries: Tensor<B, 4>,
        keys: Tensor<B, 4>,
        values: Tensor<B, 4>,
        position: usize,
        state: &mut LayerState,
        hook: &mut dyn AttentionHook<B>,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        let visibility = match self.sliding_window {
            Some(window) => Visibility::Window { offset: position, window },
            None => Visibility::Causal { offset: position },
        };
        let mut inputs = AttentionInputs::new(queries, keys, values)?
            .with_scale(self.scale)?
            .with_visibility(visibility)?
            .with_layer(self.layer);
        if let Some(cap) = self.softcap {
            inputs = inputs.with_softcap(cap)?;
        }
        if let Some(sinks) = &self.sinks {
            inputs = inputs.with_sinks(sinks.val())?;
        }
        let heads = hook.attend(&self.maskers.0, &inputs, state)?;
        Ok(self.output.forward(join_heads(heads)))
    }
}

impl<B: Backend, M: Module<B> + ModuleDisplay> ModuleDisplay for GroupedQueryAttention<B, M> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let [d_model, _] = self.query.weight.dims();
        content
            .add("d_model", &d_model)
            .add("n_heads", &self.n_heads)
            .add("n_kv_heads", &self.n_kv_heads)
            .add("head_dim", &self.head_dim)
            .add("layer", &self.layer)
            .add("maskers", &self.maskers)
            .optional()
    }
}
