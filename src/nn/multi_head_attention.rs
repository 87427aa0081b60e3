use burn::{
    module::{Content, DisplaySettings, Module, ModuleDisplay},
    nn::{Dropout, Linear, attention::MultiHeadAttention},
    tensor::{Tensor, backend::Backend},
};

use super::{
    KvCache, MhaCache, MhaInput, MhaOutput, OptionalRecord,
    attend::{Attend, Attended, check_input, join_heads, or_panic, split_heads},
    forward_counter::ForwardCounter,
    kv_cache::Cached,
    mha_cache::{UndoPast, UndoStep},
    mha_input::{InputMasks, causal_offset},
    padding::{Apart, Place, SeenKeys},
    unpadded_tokens::UnpaddedTokens,
};
use crate::{
    masker::Masker,
    method::{MaskerChain, RecordError},
    problem::{AttentionError, Phase},
    state::LayerState,
};

/// Multi-head attention over the keys that a sparse method keeps. It replaces burn's `MultiHeadAttention`.
///
/// Its parameters have the same names as in burn's layer, so named records and safetensors of either layer load into
/// the other. Without a method, its output is that of burn's layer, except for the differences that
/// [burn_conventions](super::SparseMultiHeadAttentionConfig::burn_conventions) lists.
///
/// The type of the method is by default a [MaskerChain] of the library's maskers. Any [Masker] that is a burn module
/// can be used instead ([with_maskers](Self::with_maskers)). The choice of keys has no gradient, so the parameters of
/// the method are trained separately. A method that draws takes its random numbers from [seed](Self::seed). In training
/// each forward pass draws other numbers. In inference all passes draw the same numbers.
///
/// # Params
/// - query: linear layer from `d_model` to `d_model`.
/// - key, value: linear layers from `d_model` to `n_heads_kv * d_k`, which is `d_model` by default.
/// - output: linear layer from `d_model` to `d_model`.
/// - maskers: the learned parameters of the method, if it has any.
///
/// Should be created with [SparseMultiHeadAttentionConfig](super::SparseMultiHeadAttentionConfig), or from burn's
/// layer.
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::nn::attention::MultiHeadAttentionConfig;
/// use burn_flex::Flex;
/// use sparse_attention_hub::{method::MaskerChainConfig, nn::SparseMultiHeadAttention};
///
/// let device = Default::default();
/// let dense = MultiHeadAttentionConfig::new(64, 8).init::<Flex>(&device);
/// let method = MaskerChainConfig::from_json(r#"[{"type": "oracle_top_k", "heavy_size": 32}]"#)?;
/// let sparse = SparseMultiHeadAttention::from(dense).with_maskers(method.init::<Flex>(&device)?);
/// # }
/// # Ok::<(), sparse_attention_hub::masker::ConfigError>(())
/// ```
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct SparseMultiHeadAttention<B: Backend, M = MaskerChain<B>> {
    /// Projects the input to queries.
    pub query: Linear<B>,
    /// Projects the input to keys.
    pub key: Linear<B>,
    /// Projects the input to values.
    pub value: Linear<B>,
    /// Projects the joined heads to the output.
    pub output: Linear<B>,
    /// Dropout, of the weights or, under burn's conventions, of the scores.
    pub dropout: Dropout,
    /// The size of the input and of the output.
    pub d_model: usize,
    /// The number of heads.
    pub n_heads: usize,
    /// The number of key-value heads.
    pub n_heads_kv: usize,
    /// The size of a query, a key and a value in one head.
    pub d_k: usize,
    /// The score of a hidden key under burn's conventions.
    pub min_float: f64,
    /// Whether the softmax is quiet.
    pub quiet_softmax: bool,
    /// Whether the output has the weights.
    pub fill_weights: bool,
    /// Whether dropout and hidden keys follow burn's conventions.
    pub burn_conventions: bool,
    /// The seed of all random draws.
    pub seed: u64,
    /// The index of the layer in its model.
    pub layer: usize,
    /// The method.
    pub maskers: OptionalRecord<M>,
    pub(super) forward_counter: ForwardCounter,
}

impl<B: Backend, M: Module<B> + ModuleDisplay> ModuleDisplay for SparseMultiHeadAttention<B, M> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content
            .add("d_model", &self.d_model)
            .add("n_heads", &self.n_heads)
            .add("n_heads_kv", &self.n_heads_kv)
            .add("d_k", &self.d_k)
            .add("dropout", &self.dropout.prob)
            .add("quiet_softmax", &self.quiet_softmax)
            .add("burn_conventions", &self.burn_conventions)
            .add("maskers", &self.maskers)
            .optional()
    }
}

/// The same layer, dense until it is given a [method](SparseMultiHeadAttention::with_maskers).
impl<B: Backend> From<MultiHeadAttention<B>> for SparseMultiHeadAttention<B> {
    fn from(dense: MultiHeadAttention<B>) -> Self {
        Self {
            query: dense.query,
            key: dense.key,
            value: dense.value,
            output: dense.output,
            dropout: dense.dropout,
            d_model: dense.d_model,
            n_heads: dense.n_heads,
            n_heads_kv: dense.n_heads,
            d_k: dense.d_k,
            min_float: dense.min_float,
            quiet_softmax: dense.quiet_softmax,
            fill_weights: false,
            burn_conventions: false,
            seed: 0,
            layer: 0,
            maskers: OptionalRecord(MaskerChain::dense()),
            forward_counter: ForwardCounter::default(),
        }
    }
}

impl<B: Backend, M> SparseMultiHeadAttention<B, M> {
    /// The same layer with another method.
    pub fn with_maskers<N>(self, maskers: N) -> SparseMultiHeadAttention<B, N> {
        SparseMultiHeadAttention {
            query: self.query,
            key: self.key,
            value: self.value,
            output: self.output,
            dropout: self.dropout,
            d_model: self.d_model,
            n_heads: self.n_heads,
            n_heads_kv: self.n_heads_kv,
            d_k: self.d_k,
            min_float: self.min_float,
            quiet_softmax: self.quiet_softmax,
            fill_weights: self.fill_weights,
            burn_conventions: self.burn_conventions,
            seed: self.seed,
            layer: self.layer,
            maskers: OptionalRecord(maskers),
            forward_counter: self.forward_counter,
        }
    }
}

impl<B: Backend> SparseMultiHeadAttention<B> {
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

    pub(super) fn check_record(&self, record: &<Self as Module<B>>::Record) -> Result<(), RecordError> {
        match &record.maskers {
            Some(chain) => self.maskers.0.check_record(chain),
            None => Ok(()),
        }
    }
}

impl<B: Backend, M: Masker<B>> SparseMultiHeadAttention<B, M> {
    /// Attention of the queries over the keys.
    ///
    /// # Shapes
    /// - query: `[batch, queries, d_model]`
    /// - key, value: `[batch, keys, d_model]`
    /// - context: `[batch, queries, d_model]`
    ///
    /// # Panics
    /// If [try_forward](Self::try_forward) returns an error.
    #[track_caller]
    pub fn forward(&self, input: MhaInput<B>) -> MhaOutput<B> {
        or_panic(self.try_forward(input))
    }

    /// Attention of the queries over the keys.
    ///
    /// # Shapes
    /// As [forward](Self::forward).
    ///
    /// # Errors
    /// If the shape of a tensor does not fit the other tensors and the layer, its float type is not that of the layer's
    /// weights, or the method cannot work with the tensors.
    pub fn try_forward(&self, input: MhaInput<B>) -> Result<MhaOutput<B>, AttentionError> {
        self.check(&input)?;
        let MhaInput { query, key, value, masks, phase: _ } = input;
        let ([batch, queries, _], [_, keys, _], device) = (query.dims(), key.dims(), query.device());
        // Errors in the masks are found before the projections are computed.
        let masks = SeenKeys::of(masks, [batch, queries, keys], self.burn_conventions, &device)?;
        let query = split_heads(self.query.forward(query), self.n_heads);
        let key = split_heads(self.key.forward(key), self.n_heads_kv);
        let value = split_heads(self.value.forward(value), self.n_heads_kv);
        let seed = self.forward_counter.seed::<B>(self.seed, &device);
        Ok(self.finish(masks.attend(&self.core(Phase::Prefill), [query, key, value], seed)?))
    }

    /// Causal attention with a cache, with the interface of burn: the input is the whole sequence so far, and the
    /// output has the context of the whole sequence.
    ///
    /// Only new positions are computed. The context of earlier positions comes from the cache.
    /// [forward_step](Self::forward_step) takes the new positions only.
    ///
    /// # Shapes
    /// - query: `[batch, queries, d_model]`. The queries of earlier calls come first.
    /// - key, value: as query. With a cross-attention cache, all keys and values of the context, which are read in the
    ///   first call only.
    /// - context: `[batch, queries, d_model]`
    /// - weights, if filled: the weights of the new queries only.
    ///
    /// # Panics
    /// If there is no new query, if [forward_step](Self::forward_step) was called with the cache before, or if
    /// `forward_step` returns an error. The cache does not change.
    #[track_caller]
    pub fn forward_cache(&self, input: MhaInput<B>, cache: &mut MhaCache<B>) -> MhaOutput<B> {
        let [batch, queries, _] = input.query.dims();
        let done = cache.queries;
        assert!(
            cache.context.len() == done,
            "the cache has seen {done} queries and has the context of {}: `forward_step` and `forward_cache` do not share one",
            cache.context.len()
        );
        if queries <= done {
            let expected = format!("[{batch}, more than {done}, d_model]: the sequence so far, with what is new");
            or_panic(Err(AttentionError::Shape { tensor: "query", found: input.query.dims().to_vec(), expected }))
        }
        let new = |tensor: Tensor<B, 3>| {
            let [_, length, _] = tensor.dims();
            tensor.slice_dim(1, done.min(length)..length)
        };
        let (key, value) = match cache.fixed {
            true => (input.key, input.value),
            false => (new(input.key), new(input.value)),
        };
        let masks = input.masks.of_queries_from(done);
        let step = MhaInput { query: new(input.query), key, value, masks, phase: input.phase };
        let output = or_panic(self.forward_step(step, cache));
        cache.context.append(output.context.clone());
        MhaOutput { context: cache.context.all().unwrap_or(output.context), weights: output.weights }
    }

    /// Causal attention of the next positions over the cached positions and themselves: a prefill, a chunk of a
    /// prefill, or a decode step. For methods with phases, [MhaInput::phase] sets the phase.
    ///
    /// # Shapes
    /// - query, key, value: `[batch, new, d_model]`. With a cross-attention cache, key and value are read in the first
    ///   call only.
    /// - mask_pad: `[batch, cached + new]`
    /// - mask_attn: `[batch, new, cached + new]`
    /// - context: `[batch, new, d_model]`
    ///
    /// # Errors
    /// If the shape of a tensor does not fit the other tensors and the layer, or does not fit the cache, if its float
    /// type is not that of the layer's weights, if the padding contradicts that of an earlier step, or if the method
    /// cannot work with the tensors. An error does not change the cache.
    pub fn forward_step(&self, input: MhaInput<B>, cache: &mut MhaCache<B>) -> Result<MhaOutput<B>, AttentionError> {
        Ok(self.forward_step_or_undo(input, cache)?.0)
    }

    /// The same. The result also has what is needed to undo the step, in case a later layer fails.
    pub(super) fn forward_step_or_undo(
        &self,
        input: MhaInput<B>,
        cache: &mut MhaCache<B>,
    ) -> Result<(MhaOutput<B>, UndoStep<B>), AttentionError> {
        self.check(&input)?;
        let MhaInput { query, key, value, masks, phase } = input;
        let ([batch, queries, _], device) = (query.dims(), query.device());
        if let Some(cached) = cache.past.as_ref().and_then(KvCache::batch)
            && cached != batch
        {
            let expected = format!("[{cached}, _, _], as in the cache");
            return Err(AttentionError::Shape { tensor: "query", found: query.dims().to_vec(), expected });
        }
        let appends = !cache.fixed || cache.is_empty();
        let keys = cache.len() + if appends { key.dims()[1] } else { 0 };
        // Errors in the masks are found before anything is appended to the cache.
        let masks = InputMasks { causal: !cache.fixed, ..masks };
        let seen = self.seen_with_cache(masks, [batch, queries, keys], cache, &device)?;
        let query = split_heads(self.query.forward(query), self.n_heads);
        let dropout_seed = self.forward_counter.seed::<B>(self.seed, &device);
        let phase = phase.unwrap_or_else(|| Phase::of_call(cache.queries == 0, queries));
        let is_new = cache.past.is_none();
        let mut undo = UndoStep { queries: cache.queries, past: UndoPast::Kept };
        if is_new {
            undo.past = UndoPast::Made;
        }
        let past = cache.past.get_or_insert_with(|| KvCache::new(self.seed));
        let result = (|| {
            if appends {
                let new = match &seen {
                    SeenKeys::Together(_) => None,
                    SeenKeys::Apart(apart) => Some(apart.real.from(past.len())),
                };
                let key = split_heads(self.key.forward(key), self.n_heads_kv);
                let value = split_heads(self.value.forward(value), self.n_heads_kv);
                let grown = past.take_in(key, value, new.as_ref())?;
                if !is_new {
                    undo.past = UndoPast::Grew(grown);
                }
            }
            let core = self.core(phase);
            match seen {
                SeenKeys::Together(visibility) => {
                    let Some(Cached { keys, values, state, .. }) = past.cached(0) else {
                        let expected = "at least one position".to_owned();
                        let found = vec![batch, 0, self.d_model];
                        return Err(AttentionError::Shape { tensor: "key", found, expected });
                    };
                    core.forward([query, keys, values], visibility, state)
                }
                SeenKeys::Apart(apart) => {
                    apart.attend_each(&core, query, dropout_seed, |core, sequence, query| match past.cached(sequence) {
                        Some(Cached { keys, values, state, .. }) => {
                            apart.attend_sequence(core, sequence, query, Some([keys, values]), state)
                        }
                        None => apart.attend_sequence(core, sequence, query, None, &mut LayerState::new(self.seed)),
                    })
                }
            }
        })();
        match result {
            Ok(attended) => {
                cache.queries += queries;
                Ok((self.finish(attended), undo))
            }
            Err(error) => {
                cache.undo(undo);
                Err(error)
            }
        }
    }

    /// The keys that a step sees. If there is padding in the cache or in the new positions, each sequence sees its real
    /// keys. Otherwise all sequences are computed together.
    fn seen_with_cache(
        &self,
        mut masks: InputMasks<B>,
        shape: [usize; 3],
        cache: &MhaCache<B>,
        device: &B::Device,
    ) -> Result<SeenKeys<B>, AttentionError> {
        let ([batch, queries, keys], known) = (shape, cache.len());
        masks.expect(shape)?;
        if masks.causal {
            causal_offset(batch, queries, keys)?;
        }
        if self.burn_conventions {
            return Ok(SeenKeys::Together(masks.visibility(shape, device)?));
        }
        let cached = cache.past.as_ref().and_then(KvCache::real).cloned();
        let is_apart = cached.is_some();
        let cached = cached.unwrap_or_else(|| UnpaddedTokens::all(batch, known));
        let real = match masks.pad.take() {
            Some(pad) => {
                let real = UnpaddedTokens::of_mask(&pad, [batch, keys])?;
                real.check_continues(&cached)?;
                real
            }
            None => {
                let mut real = cached;
                real.extend(&UnpaddedTokens::all(batch, keys - known));
                real
            }
        };
        if !is_apart && real.are_all() {
            return Ok(SeenKeys::Together(masks.visibility(shape, device)?));
        }
        let place = if masks.causal { Place::AmongRealKeys } else { Place::Elsewhere };
        Ok(SeenKeys::Apart(Apart { real, mask: masks.attention, place, causal: masks.causal }))
    }

    fn core(&self, phase: Phase) -> Attend<'_, M> {
        Attend {
            maskers: &self.maskers.0,
            dropout: &self.dropout,
            quiet_softmax: self.quiet_softmax,
            fill_weights: self.fill_weights,
            burn_min_float: self.burn_conventions.then_some(self.min_float),
            layer: self.layer,
            phase,
            dropout_seed: None,
        }
    }

    fn finish(&self, (context, weights): Attended<B>) -> MhaOutput<B> {
        MhaOutput { context: self.output.forward(join_heads(context)), weights }
    }

    fn check(&self, MhaInput { query, key, value, .. }: &MhaInput<B>) -> Result<(), AttentionError> {
        let [batch, queries, _] = query.dims();
        let [_, keys, _] = key.dims();
        let wanted = [[batch, queries, self.d_model], [batch, keys, self.d_model], [batch, keys, self.d_model]];
        for ((tensor, found), wanted) in
            [("query", query.dims()), ("key", key.dims()), ("value", value.dims())].into_iter().zip(wanted)
        {
            if found != wanted || found.contains(&0) {
                let expected = format!("{wanted:?}, none of them 0");
                return Err(AttentionError::Shape { tensor, found: found.to_vec(), expected });
            }
        }
        check_input("query", query, &self.query)?;
        check_input("key", key, &self.key)?;
        check_input("value", value, &self.value)
    }
}
