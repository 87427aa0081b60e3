use burn::{
    config::Config,
    module::{Content, DisplaySettings, Initializer, Module, ModuleDisplay},
    nn::{Dropout, DropoutConfig, Linear, LinearConfig},
    tensor::{Bool, Tensor, backend::Backend},
};

use super::{
    KvCache, OptionalRecord,
    attend::{Attend, check_input, join_heads, or_panic, split_heads},
    forward_counter::ForwardCounter,
    kv_cache::Cached,
    mha_config::{init_or_panic, validate_dropout, validate_heads_kv, validate_matrix, validate_size},
    mha_input::InputMasks,
    padding::{Apart, Place, SeenKeys},
    unpadded_tokens::UnpaddedTokens,
};
use crate::{
    config::ConfigError,
    masker::Masker,
    method::{MaskerChain, MaskerChainConfig, RecordError},
    problem::{AttentionError, Phase, Visibility},
    state::{LayerState, check_indices},
};

/// Configuration to create a [SparseCrossAttention] layer using the [init function](Self::init).
///
/// It has the fields of burn's `CrossAttentionConfig` except `min_float`, which is not needed here, and the fields of
/// the method.
#[derive(Config, Debug)]
pub struct SparseCrossAttentionConfig {
    /// The width of the query sequence.
    pub d_model: usize,
    /// The width of the context, from which keys and values are computed.
    pub d_context: usize,
    /// The number of heads.
    pub n_heads: usize,
    /// The number of key-value heads, a divisor of the number of heads.
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
    /// The index of the layer in its model. Methods with weights use the weights of this layer. Default: 0
    #[config(default = 0)]
    pub layer: usize,
}

impl SparseCrossAttentionConfig {
    /// The layer.
    ///
    /// # Panics
    /// If [try_init](Self::try_init) returns an error.
    #[track_caller]
    pub fn init<B: Backend>(&self, device: &B::Device) -> SparseCrossAttention<B> {
        init_or_panic(self.try_init(device))
    }

    /// The layer.
    ///
    /// # Errors
    /// If a size is 0, `n_heads_kv` does not divide `n_heads`, the dropout rate is not in [0, 1), or the method cannot
    /// be built.
    pub fn try_init<B: Backend>(&self, device: &B::Device) -> Result<SparseCrossAttention<B>, ConfigError> {
        let sizes = [
            ("d_model", self.d_model),
            ("d_context", self.d_context),
            ("n_heads", self.n_heads),
            ("d_head", self.d_head),
        ];
        for (field, size) in sizes {
            validate_size(field, size)?;
        }
        for (field, size) in [("d_model", self.d_model), ("d_context", self.d_context)] {
            validate_matrix(field, self.n_heads.saturating_mul(self.d_head), size)?;
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
            forward_counter: ForwardCounter::default(),
        })
    }
}

/// Attention of a query sequence over another sequence, the *context*. Each query attends to the keys that a sparse
/// method keeps. The layer replaces burn's `CrossAttention` and has the same parameters with the same names.
///
/// Queries have no position among the keys of another sequence, so methods that select keys by score fit best. A
/// `local` window treats the queries of a call as the last positions of the context, without its padding. Padding is
/// removed before the method sees the keys. Each sequence of a batch is computed as if it were alone. If a query sees
/// no key, its heads give 0.
///
/// # Params
/// - query: linear layer from `d_model` to `n_heads * d_head`.
/// - key, value: linear layers from `d_context` to `n_heads_kv * d_head`.
/// - output: linear layer from `n_heads * d_head` to `d_model`.
/// - maskers: the learned parameters of the method, if it has any.
///
/// Should be created with [SparseCrossAttentionConfig].
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct SparseCrossAttention<B: Backend, M = MaskerChain<B>> {
    /// Projects the sequence to queries.
    pub query: Linear<B>,
    /// Projects the context to keys.
    pub key: Linear<B>,
    /// Projects the context to values.
    pub value: Linear<B>,
    /// Projects the joined heads to the output.
    pub output: Linear<B>,
    /// Dropout of the weights.
    pub dropout: Dropout,
    /// The number of heads.
    pub n_heads: usize,
    /// The number of key-value heads.
    pub n_heads_kv: usize,
    /// The size of one head.
    pub d_head: usize,
    /// Whether the softmax is quiet.
    pub quiet_softmax: bool,
    /// The seed of all random draws.
    pub seed: u64,
    /// The index of the layer in its model.
    pub layer: usize,
    /// The method.
    pub maskers: OptionalRecord<M>,
    forward_counter: ForwardCounter,
}

/// The keys and values of a context, which are computed once, and what selectors remember of them. A call that fails
/// does not change the cache.
///
/// A clone shares keys and values for good, because they never change. What selectors remember is copied.
#[derive(Debug, Clone)]
pub struct SparseCrossAttentionCache<B: Backend> {
    memory: Option<KvCache<B>>,
    /// The phase of the next calls, if it was set.
    phase: Option<Phase>,
}

impl<B: Backend> SparseCrossAttentionCache<B> {
    /// An empty cache.
    pub fn new() -> Self {
        Self { memory: None, phase: None }
    }

    /// Sets the phase of the next calls, for methods with phases. With `None`, the default, the first call is a
    /// prefill. A later call is decoding if it has one query, and a prefill if it has more.
    pub fn set_phase(&mut self, phase: Option<Phase>) {
        self.phase = phase;
    }

    /// Makes sequence `i` of the batch what sequence `indices[i]` was, as [KvCache::reorder] does.
    ///
    /// # Errors
    /// As [KvCache::reorder]. The cache is then as before.
    pub fn reorder(&mut self, indices: &[usize]) -> Result<(), AttentionError> {
        match &mut self.memory {
            Some(memory) => memory.reorder(indices),
            None => check_indices(indices, usize::MAX),
        }
    }

    /// How many keys and values it holds of each context, padding included.
    pub fn len(&self) -> usize {
        self.memory.as_ref().map_or(0, KvCache::len)
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
            forward_counter: self.forward_counter,
        }
    }
}

impl<B: Backend> SparseCrossAttention<B> {
    /// The layer with the contents of a record. `load_record` does the same, but panics instead of returning an error.
    ///
    /// A record without an entry for the method, such as a record of burn's layer, does not change the method.
    ///
    /// # Errors
    /// If the record belongs to a layer with another chain. The error names both chains.
    pub fn try_load_record(self, record: <Self as Module<B>>::Record) -> Result<Self, RecordError> {
        self.check_record(&record)?;
        Ok(self.load_record(record))
    }

    fn check_record(&self, record: &<Self as Module<B>>::Record) -> Result<(), RecordError> {
        match &record.maskers {
            Some(chain) => self.maskers.0.check_record(chain),
            None => Ok(()),
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
    /// If [try_forward](Self::try_forward) returns an error.
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
    /// If the shape of a tensor does not fit the other tensors and the layer, its float type is not that of the layer's
    /// weights, or the method cannot work with the tensors.
    pub fn try_forward(
        &self,
        query: Tensor<B, 3>,
        context: Tensor<B, 3>,
        mask: Option<Tensor<B, 2, Bool>>,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        check_input("query", &query, &self.query)?;
        check_input("context", &context, &self.key)?;
        check_batch(&query, &context)?;
        let ([batch, queries, _], [_, keys, _], device) = (query.dims(), context.dims(), query.device());
        let masks = SeenKeys::of(InputMasks::padding(mask), [batch, queries, keys], false, &device)?;
        let [key, value] = self.memory(context);
        let query = split_heads(self.query.forward(query), self.n_heads);
        let seed = self.forward_counter.seed::<B>(self.seed, &device);
        let (context, _) = masks.attend(&self.core(Phase::Prefill), [query, key, value], seed)?;
        Ok(self.output.forward(join_heads(context)))
    }

    /// The same, but keys and values of the context are computed in the first call only. Later calls ignore `context`.
    /// They need the batch size of the first call, and the mask of the first call or no mask.
    ///
    /// # Shapes
    /// As [forward](Self::forward).
    ///
    /// # Panics
    /// If [try_forward_cache](Self::try_forward_cache) returns an error.
    #[track_caller]
    pub fn forward_cache(
        &self,
        query: Tensor<B, 3>,
        context: Tensor<B, 3>,
        mask: Option<Tensor<B, 2, Bool>>,
        cache: &mut SparseCrossAttentionCache<B>,
    ) -> Tensor<B, 3> {
        or_panic(self.try_forward_cache(query, context, mask, cache))
    }

    /// As [forward_cache](Self::forward_cache).
    ///
    /// # Shapes
    /// As [forward](Self::forward).
    ///
    /// # Errors
    /// If the shape of a tensor does not fit the other tensors and the layer, or does not fit the cache, if its float
    /// type is not that of the layer's weights, if the mask is not that of the first call, or if the method cannot work
    /// with the tensors. An error does not change the cache.
    pub fn try_forward_cache(
        &self,
        query: Tensor<B, 3>,
        context: Tensor<B, 3>,
        mask: Option<Tensor<B, 2, Bool>>,
        cache: &mut SparseCrossAttentionCache<B>,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        check_input("query", &query, &self.query)?;
        let phase = cache.phase.unwrap_or_else(|| Phase::of_call(cache.is_empty(), query.dims()[1]));
        if let Some(memory) = &mut cache.memory {
            return self.attend_cached(query, mask, memory, phase);
        }
        check_input("context", &context, &self.key)?;
        check_batch(&query, &context)?;
        let [batch, keys, _] = context.dims();
        let real = mask.as_ref().map(|mask| UnpaddedTokens::of_mask(mask, [batch, keys])).transpose()?;
        let [key, value] = self.memory(context);
        let mut memory = KvCache::new(self.seed);
        memory.take_in(key, value, real.as_ref())?;
        let output = self.attend_cached(query, mask, &mut memory, phase)?;
        cache.memory = Some(memory);
        Ok(output)
    }

    fn memory(&self, context: Tensor<B, 3>) -> [Tensor<B, 4>; 2] {
        [&self.key, &self.value].map(|linear| split_heads(linear.forward(context.clone()), self.n_heads_kv))
    }

    fn attend_cached(
        &self,
        query: Tensor<B, 3>,
        mask: Option<Tensor<B, 2, Bool>>,
        memory: &mut KvCache<B>,
        phase: Phase,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        let ([batch, ..], keys) = (query.dims(), memory.len());
        if let Some(cached) = memory.batch()
            && cached != batch
        {
            let expected = format!("[{cached}, _, _], as in the cache");
            return Err(AttentionError::Shape { tensor: "query", found: query.dims().to_vec(), expected });
        }
        let cached = memory.real().cloned();
        if let Some(mask) = &mask {
            let all = || UnpaddedTokens::all(batch, keys);
            UnpaddedTokens::of_mask(mask, [batch, keys])?.check_continues(&cached.clone().unwrap_or_else(all))?;
        }
        let dropout_seed = self.forward_counter.seed::<B>(self.seed, &query.device());
        let query = split_heads(self.query.forward(query), self.n_heads);
        let core = self.core(phase);
        let (context, _) = match cached {
            None => match memory.cached(0) {
                Some(Cached { keys, values, state, .. }) => {
                    core.forward([query, keys, values], Visibility::Full, state)?
                }
                None => unreachable!("a context without keys was refused"),
            },
            Some(real) => {
                let apart = Apart { real, mask: None, place: Place::Elsewhere, causal: false };
                apart.attend_each(&core, query, dropout_seed, |core, sequence, query| {
                    match memory.cached(sequence) {
                        Some(Cached { keys, values, state, .. }) => {
                            apart.attend_sequence(core, sequence, query, Some([keys, values]), state)
                        }
                        None => apart.attend_sequence(core, sequence, query, None, &mut LayerState::new(self.seed)),
                    }
                })?
            }
        };
        Ok(self.output.forward(join_heads(context)))
    }

    fn core(&self, phase: Phase) -> Attend<'_, M> {
        Attend {
            maskers: &self.maskers.0,
            dropout: &self.dropout,
            quiet_softmax: self.quiet_softmax,
            fill_weights: false,
            burn_min_float: None,
            layer: self.layer,
            phase,
            dropout_seed: None,
        }
    }
}

/// Checks that there is a context for each sequence of queries.
fn check_batch<B: Backend>(query: &Tensor<B, 3>, context: &Tensor<B, 3>) -> Result<(), AttentionError> {
    let (batch, found) = (query.dims()[0], context.dims());
    match found[0] == batch {
        true => Ok(()),
        false => {
            let expected = format!("[{batch}, _, _], as the queries");
            Err(AttentionError::Shape { tensor: "context", found: found.to_vec(), expected })
        }
    }
}
