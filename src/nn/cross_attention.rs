use burn::{
    config::Config,
    module::{Content, DisplaySettings, Initializer, Module, ModuleDisplay},
    nn::{Dropout, DropoutConfig, Linear, LinearConfig},
    tensor::{Bool, Tensor, backend::Backend},
};

use super::{
    OptionalRecord,
    attend::{Attend, join_heads, or_panic, split_heads},
    calls::Calls,
    mha_config::{init_or_panic, validate_dropout, validate_heads_kv},
    mha_input::InputMasks,
    padding::SeenKeys,
};
use crate::{
    attention::AttentionError,
    masker::{ConfigError, LayerState, Masker, MaskerChain, MaskerChainConfig},
};

/// Configuration to create a [SparseCrossAttention] layer using the [init function](Self::init).
///
/// It has the fields of burn's `CrossAttentionConfig`, but for `min_float`, which nothing here needs, and those of the
/// method.
#[derive(Config, Debug)]
pub struct SparseCrossAttentionConfig {
    /// The size of the queries' sequence.
    pub d_model: usize,
    /// The size of the context, of which keys and values are made.
    pub d_context: usize,
    /// The number of heads.
    pub n_heads: usize,
    /// The number of heads of keys and values, of which the number of heads is a multiple.
    pub n_heads_kv: usize,
    /// The size of one head.
    pub d_head: usize,
    /// The dropout rate of the weights, in [0, 1). Default: 0.1
    #[config(default = 0.1)]
    pub dropout: f64,
    /// Use the *quiet softmax*, with which a head can attend to nothing. Default: false
    #[config(default = false)]
    pub quiet_softmax: bool,
    /// The method. Default: none, dense attention.
    #[config(default = "MaskerChainConfig::default()")]
    pub maskers: MaskerChainConfig,
    /// The seed of methods that draw. Default: 0
    #[config(default = 0)]
    pub seed: u64,
    /// The index of the layer in its model, by which methods have their weights. Default: 0
    #[config(default = 0)]
    pub layer: usize,
}

impl SparseCrossAttentionConfig {
    /// The layer.
    ///
    /// # Panics
    /// Where [try_init](Self::try_init) returns an error.
    #[track_caller]
    pub fn init<B: Backend>(&self, device: &B::Device) -> SparseCrossAttention<B> {
        init_or_panic(self.try_init(device))
    }

    /// The layer.
    ///
    /// # Errors
    /// If a size is 0, the heads do not divide, the dropout rate is not in [0, 1), or the method cannot be built.
    pub fn try_init<B: Backend>(&self, device: &B::Device) -> Result<SparseCrossAttention<B>, ConfigError> {
        for (field, size) in [("d_model", self.d_model), ("d_context", self.d_context), ("d_head", self.d_head)] {
            if size == 0 {
                return Err(ConfigError::value(field, size, "at least 1"));
            }
        }
        if self.n_heads == 0 {
            return Err(ConfigError::value("n_heads", 0, "at least 1"));
        }
        validate_heads_kv(self.n_heads, self.n_heads_kv)?;
        validate_dropout(self.dropout)?;
        let initializer = Initializer::KaimingUniform { gain: 1.0 / (self.d_head as f64).sqrt(), fan_out_only: false };
        let linear = |from, to| LinearConfig::new(from, to).with_initializer(initializer.clone()).init(device);
        Ok(SparseCrossAttention {
            query: linear(self.d_model, self.n_heads * self.d_head),
            key: linear(self.d_context, self.n_heads_kv * self.d_head),
            value: linear(self.d_context, self.n_heads_kv * self.d_head),
            output: linear(self.n_heads * self.d_head, self.d_model),
            dropout: DropoutConfig::new(self.dropout).init(),
            n_heads: self.n_heads,
            n_heads_kv: self.n_heads_kv,
            d_head: self.d_head,
            quiet_softmax: self.quiet_softmax,
            seed: self.seed,
            layer: self.layer,
            maskers: OptionalRecord(self.maskers.init_for_layer(self.layer, device)?),
            calls: Calls::default(),
        })
    }
}

/// Attention of one sequence over another, the *context*, by the keys that a sparse method keeps, in the place of burn's
/// `CrossAttention`: the same parameters under the same names.
///
/// Queries have no position among the keys of another sequence, so that methods by score are what suits it: a `local`
/// window takes the queries for the last positions of the context. A query that sees no key gets 0.
///
/// # Params
/// - query: linear layer from `d_model` to `n_heads * d_head`.
/// - key, value: linear layers from `d_context` to `n_heads_kv * d_head`.
/// - output: linear layer from `n_heads * d_head` to `d_model`.
/// - maskers: what the method learns, if it does.
///
/// Should be created with [SparseCrossAttentionConfig].
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct SparseCrossAttention<B: Backend, M = MaskerChain<B>> {
    /// Makes queries of the sequence.
    pub query: Linear<B>,
    /// Makes keys of the context.
    pub key: Linear<B>,
    /// Makes values of the context.
    pub value: Linear<B>,
    /// Makes the output of the joined heads.
    pub output: Linear<B>,
    /// Dropout of the weights.
    pub dropout: Dropout,
    /// The number of heads.
    pub n_heads: usize,
    /// The number of heads of keys and values.
    pub n_heads_kv: usize,
    /// The size of one head.
    pub d_head: usize,
    /// Whether the softmax is quiet.
    pub quiet_softmax: bool,
    /// The seed of what is drawn.
    pub seed: u64,
    /// The index of the layer in its model.
    pub layer: usize,
    /// The method.
    pub maskers: OptionalRecord<M>,
    calls: Calls,
}

/// Keys and values of a context, made once, and what selectors remember of them.
#[derive(Debug)]
pub struct SparseCrossAttentionCache<B: Backend> {
    /// Keys and values, `[batch, kv_heads, keys, d_head]`.
    memory: Option<[Tensor<B, 4>; 2]>,
    state: Option<LayerState>,
}

impl<B: Backend> SparseCrossAttentionCache<B> {
    /// An empty cache.
    pub fn new() -> Self {
        Self { memory: None, state: None }
    }
}

impl<B: Backend> Default for SparseCrossAttentionCache<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend, M: Module<B> + ModuleDisplay> ModuleDisplay for SparseCrossAttention<B, M> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content
            .add("n_heads", &self.n_heads)
            .add("n_heads_kv", &self.n_heads_kv)
            .add("d_head", &self.d_head)
            .add("dropout", &self.dropout.prob)
            .add("quiet_softmax", &self.quiet_softmax)
            .add("maskers", &self.maskers)
            .optional()
    }
}

impl<B: Backend, M> SparseCrossAttention<B, M> {
    /// The same layer with another method.
    pub fn with_maskers<N>(self, maskers: N) -> SparseCrossAttention<B, N> {
        SparseCrossAttention {
            query: self.query,
            key: self.key,
            value: self.value,
            output: self.output,
            dropout: self.dropout,
            n_heads: self.n_heads,
            n_heads_kv: self.n_heads_kv,
            d_head: self.d_head,
            quiet_softmax: self.quiet_softmax,
            seed: self.seed,
            layer: self.layer,
            maskers: OptionalRecord(maskers),
            calls: self.calls,
        }
    }
}

impl<B: Backend, M: Masker<B>> SparseCrossAttention<B, M> {
    /// Attention of the queries over the context.
    ///
    /// # Shapes
    /// - query: `[batch, queries, d_model]`
    /// - context: `[batch, keys, d_context]`
    /// - mask: `[batch, keys]`, `true` = hidden.
    /// - output: `[batch, queries, d_model]`
    ///
    /// # Panics
    /// Where [try_forward](Self::try_forward) returns an error.
    #[track_caller]
    pub fn forward(
        &self,
        query: Tensor<B, 3>,
        context: Tensor<B, 3>,
        mask: Option<Tensor<B, 2, Bool>>,
    ) -> Tensor<B, 3> {
        or_panic(self.try_forward(query, context, mask))
    }

    /// Attention of the queries over the context.
    ///
    /// # Shapes
    /// As [forward](Self::forward).
    ///
    /// # Errors
    /// If a tensor does not have the shape that the others and the layer ask for, or the method cannot work with them.
    pub fn try_forward(
        &self,
        query: Tensor<B, 3>,
        context: Tensor<B, 3>,
        mask: Option<Tensor<B, 2, Bool>>,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        check("query", &query, &self.query)?;
        check("context", &context, &self.key)?;
        let ([batch, queries, _], [_, keys, _], device) = (query.dims(), context.dims(), query.device());
        let masks = SeenKeys::of(InputMasks::padding(mask), [batch, queries, keys], false, &device)?;
        let [key, value] = self.memory(context)?;
        let query = split_heads(self.query.forward(query), self.n_heads);
        let seed = self.calls.seed::<B>(self.seed, &device);
        let (context, _) = masks.attend(&self.core(), [query, key, value], seed)?;
        Ok(self.output.forward(join_heads(context)))
    }

    /// The same with keys and values of the context made in the first call only; later calls do not look at it.
    ///
    /// # Shapes
    /// As [forward](Self::forward).
    ///
    /// # Panics
    /// Where [try_forward](Self::try_forward) returns an error.
    #[track_caller]
    pub fn forward_cache(
        &self,
        query: Tensor<B, 3>,
        context: Tensor<B, 3>,
        mask: Option<Tensor<B, 2, Bool>>,
        cache: &mut SparseCrossAttentionCache<B>,
    ) -> Tensor<B, 3> {
        let memory = match &cache.memory {
            Some(memory) => memory.clone(),
            None => cache.memory.insert(or_panic(self.memory(context))).clone(),
        };
        let state = cache.state.get_or_insert_with(|| LayerState::new(self.seed));
        or_panic(self.attend(query, memory, mask, state))
    }

    fn memory(&self, context: Tensor<B, 3>) -> Result<[Tensor<B, 4>; 2], AttentionError> {
        check("context", &context, &self.key)?;
        Ok([&self.key, &self.value].map(|linear| split_heads(linear.forward(context.clone()), self.n_heads_kv)))
    }

    fn attend(
        &self,
        query: Tensor<B, 3>,
        [key, value]: [Tensor<B, 4>; 2],
        mask: Option<Tensor<B, 2, Bool>>,
        state: &mut LayerState,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        check("query", &query, &self.query)?;
        let ([batch, queries, _], [_, _, keys, _]) = (query.dims(), key.dims());
        let visibility = InputMasks::padding(mask).visibility([batch, queries, keys], &query.device())?;
        let query = split_heads(self.query.forward(query), self.n_heads);
        let (context, _) = self.core().forward([query, key, value], visibility, state)?;
        Ok(self.output.forward(join_heads(context)))
    }

    fn core(&self) -> Attend<'_, M> {
        Attend {
            maskers: &self.maskers.0,
            dropout: &self.dropout,
            quiet_softmax: self.quiet_softmax,
            fill_weights: false,
            burn_min_float: None,
            layer: self.layer,
        }
    }
}

fn check<B: Backend>(tensor: &'static str, x: &Tensor<B, 3>, linear: &Linear<B>) -> Result<(), AttentionError> {
    let [width, _] = linear.weight.dims();
    let found = x.dims();
    match found[2] == width && !found.contains(&0) {
        true => Ok(()),
        false => {
            let expected = format!("[batch, length, {width}], none of them 0");
            Err(AttentionError::Shape { tensor, found: found.to_vec(), expected })
        }
    }
}
