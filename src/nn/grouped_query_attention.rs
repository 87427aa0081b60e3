use burn::{
    module::{Content, DisplaySettings, Module, ModuleDisplay, Param},
    nn::{Linear, RmsNorm},
    tensor::{Tensor, backend::Backend},
};

use super::{
    AttentionHook, AttentionMode, GqaInput, KvCache, OptionalRecord, RotaryEncoding,
    attend::{check_input, join_heads},
    forward_counter::ForwardCounter,
    kv_cache::Cached,
    unpadded_tokens::{UnpaddedTokens, pick, spread},
};
use crate::{
    masker::Masker,
    method::{MaskerChain, RecordError},
    problem::{AttentionError, AttentionInputs, Phase, Visibility},
    state::LayerState,
};

/// Causal self-attention of today's language models (Llama, Mistral, Qwen, Gemma, GPT-OSS) through a sparse method:
/// fewer key-value heads than query heads ([GQA](https://arxiv.org/abs/2305.13245)), rotary positions, and a cache for
/// generation.
///
/// The method is a type, by default a [MaskerChain] of the library's maskers; any [Masker] that is a burn module can
/// stand in its place. It chooses among the keys that a query may see, which are those of the sliding window, if there is
/// one. Gradients flow to all parameters through attention over the keys that were kept; the choice gets none.
///
/// Batches of sequences of unequal lengths say with a [GqaInput] what is padding.
///
/// # Params
///
/// - query: [Linear] with `d_model` input and `n_heads * head_dim` output features.
/// - key, value: [Linear] with `d_model` input and `n_kv_heads * head_dim` output features.
/// - output: [Linear] with `n_heads * head_dim` input and `d_model` output features.
/// - query_norm, key_norm: [RmsNorm] over `head_dim` features, if configured.
/// - sinks: `[n_heads]`, if configured.
///
/// Should be created with [GroupedQueryAttentionConfig](super::GroupedQueryAttentionConfig).
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Distribution, Tensor};
/// use burn_flex::Flex;
/// use sparse_attention_hub::{
///     method::MaskerChainConfig,
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
    pub sink_logits: Option<Param<Tensor<B, 1>>>,
    /// The method.
    pub maskers: OptionalRecord<M>,
    #[module(skip)]
    pub(super) rotary: Option<RotaryEncoding>,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) sliding_window: Option<usize>,
    pub(super) softcap: Option<f64>,
    pub(super) scale: f64,
    pub(super) layer: usize,
    pub(super) seed: u64,
    pub(super) forward_counter: ForwardCounter,
}

/// Queries, keys and values by head.
struct Projected<B: Backend> {
    queries: Tensor<B, 4>,
    keys: Tensor<B, 4>,
    values: Tensor<B, 4>,
}

impl<B: Backend> GroupedQueryAttention<B> {
    /// The layer with what a record holds. `load_record` does the same, and panics where this returns an error.
    ///
    /// A record that has nothing for the method leaves the method as it is.
    ///
    /// # Errors
    /// If the record is that of a layer with another chain; the error names both.
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

impl<B: Backend, M> GroupedQueryAttention<B, M> {
    /// The same layer with another method.
    pub fn with_maskers<N>(self, maskers: N) -> GroupedQueryAttention<B, N> {
        GroupedQueryAttention {
            query: self.query,
            key: self.key,
            value: self.value,
            output: self.output,
            query_norm: self.query_norm,
            key_norm: self.key_norm,
            sink_logits: self.sink_logits,
            maskers: OptionalRecord(maskers),
            rotary: self.rotary,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            sliding_window: self.sliding_window,
            softcap: self.softcap,
            scale: self.scale,
            layer: self.layer,
            seed: self.seed,
            forward_counter: self.forward_counter,
        }
    }
}

impl<B: Backend, M: Masker<B>> GroupedQueryAttention<B, M> {
    /// Attention over whole sequences, for training or where nothing follows. What the method draws is drawn from the
    /// layer's seed: under autodiff anew at each call, otherwise the same.
    ///
    /// # Shapes
    /// - input: `[batch, length, d_model]`, a tensor or a [GqaInput] with padding and positions.
    /// - output: the same
    ///
    /// # Errors
    /// If the input or what it says of its tokens is not of this shape, it has another float type than the layer's
    /// weights, or the method cannot work with it.
    pub fn forward(&self, input: impl Into<GqaInput<B>>) -> Result<Tensor<B, 3>, AttentionError> {
        let input = input.into();
        check_input("input", &input.tensor, &self.query)?;
        let seed = self.forward_counter.seed::<B>(self.seed, &input.tensor.device());
        let real = input.real()?;
        let positions = self.positions(&input, real.as_ref(), |_| 0)?;
        let Projected { queries, keys, values } = self.project(input.tensor, &positions);
        let heads = match real {
            None => {
                let heads = [queries, keys, values];
                self.attend(heads, 0, Phase::Prefill, &mut LayerState::new(seed), &mut AttentionMode::Sparse)?
            }
            Some(real) => each_sequence(&real, queries, |sequence, queries| {
                let of_sequence = |tensor: &Tensor<B, 4>| {
                    pick(tensor.clone().slice_dim(0, sequence..sequence + 1), 2, real.row(sequence))
                };
                let heads = [queries, of_sequence(&keys), of_sequence(&values)];
                self.attend(heads, 0, Phase::Prefill, &mut LayerState::new(seed), &mut AttentionMode::Sparse)
            })?,
        };
        Ok(self.output.forward(join_heads(heads)))
    }

    /// Attention of the next tokens, one or many, over themselves and all in the cache, into which they go: a prefill, a
    /// chunk of one, or a step of decoding. For methods with phases, [GqaInput::phase] says which of these it is.
    ///
    /// # Shapes
    /// - input: `[batch, tokens, d_model]`, a tensor or a [GqaInput] with padding and positions.
    /// - output: the same
    ///
    /// # Errors
    /// If the input or what it says of its tokens is not of this shape, it has another float type than the layer's
    /// weights, does not fit what is cached, or the method cannot work with it. The cache then holds what it held before.
    pub fn forward_cache(
        &self,
        input: impl Into<GqaInput<B>>,
        cache: &mut KvCache<B>,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        self.forward_hooked(input, cache, &mut AttentionMode::Sparse)
    }

    /// The same with attention itself left to a hook: dense attention for once, or one that records or measures.
    ///
    /// # Shapes
    /// As [forward_cache](Self::forward_cache).
    ///
    /// # Errors
    /// As [forward_cache](Self::forward_cache), or if the hook fails.
    pub fn forward_hooked(
        &self,
        input: impl Into<GqaInput<B>>,
        cache: &mut KvCache<B>,
        hook: &mut dyn AttentionHook<B>,
    ) -> Result<Tensor<B, 3>, AttentionError> {
        let input = input.into();
        check_input("input", &input.tensor, &self.query)?;
        let [batch, tokens, _] = input.tensor.dims();
        if let Some(cached) = cache.batch()
            && cached != batch
        {
            let expected = format!("[{cached}, _, _], as in the cache");
            return Err(AttentionError::Shape { tensor: "input", found: input.tensor.dims().to_vec(), expected });
        }
        let phase = input.phase.unwrap_or_else(|| Phase::of_call(cache.is_empty(), tokens));
        let real = input.real()?;
        let positions = self.positions(&input, real.as_ref(), |sequence| cache.real_len(sequence))?;
        let first = (0..batch).map(|sequence| cache.real_len(sequence)).collect::<Vec<_>>();
        let Projected { queries, keys, values } = self.project(input.tensor, &positions);
        let undo = cache.take_in(keys, values, real.as_ref())?;
        let mut attend = |cache: &mut KvCache<B>, part: usize, queries: Tensor<B, 4>| match cache.cached(part) {
            Some(Cached { keys, values, start, state }) => {
                // Among the keys that are there.
                self.attend([queries, keys, values], first[part] - start, phase, state, hook)
            }
            None => unreachable!("tokens have just been taken in"),
        };
        let heads = match cache.is_apart() {
            false => attend(cache, 0, queries),
            true => {
                let real = real.unwrap_or_else(|| UnpaddedTokens::all(batch, tokens));
                each_sequence(&real, queries, |sequence, queries| attend(cache, sequence, queries))
            }
        };
        let heads = match heads {
            Ok(heads) => heads,
            Err(error) => {
                cache.undo(undo);
                return Err(error);
            }
        };
        if let (Some(window), Some(before)) = (self.sliding_window, self.maskers.0.keys_before_window()) {
            cache.give_up_before_window(window, before);
        }
        Ok(self.output.forward(join_heads(heads)))
    }

    /// The positions at which tokens are rotated: those that are given, or those after the ones that came before. Of all
    /// sequences together, if they are the same in each.
    fn positions(
        &self,
        input: &GqaInput<B>,
        real: Option<&UnpaddedTokens>,
        before: impl Fn(usize) -> usize,
    ) -> Result<Vec<Vec<usize>>, AttentionError> {
        let [batch, tokens, _] = input.tensor.dims();
        let all;
        let real = match real {
            Some(real) => real,
            None => {
                all = UnpaddedTokens::all(batch, tokens);
                &all
            }
        };
        let given = input.given_positions(real)?;
        let mut positions = given.unwrap_or_else(|| {
            let of_row = |row| {
                let mut positions = vec![0; tokens];
                let columns = real.row(row).iter().cloned().flatten();
                columns.enumerate().for_each(|(at, column)| positions[column] = before(row) + at);
                positions
            };
            (0..batch).map(of_row).collect()
        });
        if positions.iter().all(|row| *row == positions[0]) {
            positions.truncate(1);
        }
        Ok(positions)
    }

    /// The heads of tokens, rotated at their positions in each sequence.
    fn project(&self, input: Tensor<B, 3>, positions: &[Vec<usize>]) -> Projected<B> {
        let [batch, length, _] = input.dims();
        let heads = |linear: &Linear<B>, norm: Option<&RmsNorm<B>>, count: usize| {
            let heads = linear.forward(input.clone()).reshape([batch, length, count, self.head_dim]);
            norm.map_or(heads.clone(), |norm| norm.forward(heads)).swap_dims(1, 2)
        };
        let queries = heads(&self.query, self.query_norm.as_ref(), self.n_heads);
        let keys = heads(&self.key, self.key_norm.as_ref(), self.n_kv_heads);
        let values = heads(&self.value, None, self.n_kv_heads);
        match &self.rotary {
            Some(rotary) => {
                let angles = rotary.angles(positions, queries.dtype(), &input.device());
                Projected { queries: rotary.rotate(queries, &angles), keys: rotary.rotate(keys, &angles), values }
            }
            None => Projected { queries, keys, values },
        }
    }

    /// What queries, keys and values by head come to, where the first query stands at a position among the keys.
    fn attend(
        &self,
        [queries, keys, values]: [Tensor<B, 4>; 3],
        position: usize,
        phase: Phase,
        state: &mut LayerState,
        hook: &mut dyn AttentionHook<B>,
    ) -> Result<Tensor<B, 4>, AttentionError> {
        let visibility = match self.sliding_window {
            Some(window) => Visibility::Window { offset: position, window },
            None => Visibility::Causal { offset: position },
        };
        let mut inputs = AttentionInputs::new(queries, keys, values)?
            .with_scale(self.scale)?
            .with_visibility(visibility)?
            .with_layer(self.layer)
            .with_phase(phase);
        if let Some(cap) = self.softcap {
            inputs = inputs.with_softcap(cap)?;
        }
        if let Some(sink_logits) = &self.sink_logits {
            inputs = inputs.with_sink_logits(sink_logits.val())?;
        }
        hook.attend(&self.maskers.0, &inputs, state)
    }
}

/// What the real queries of each sequence gather, with 0 at padded positions.
///
/// # Shapes
/// - queries: `[batch, heads, tokens, head_dim]`
/// - output: the same
fn each_sequence<B: Backend>(
    real: &UnpaddedTokens,
    queries: Tensor<B, 4>,
    mut attend: impl FnMut(usize, Tensor<B, 4>) -> Result<Tensor<B, 4>, AttentionError>,
) -> Result<Tensor<B, 4>, AttentionError> {
    let tokens = real.columns();
    let sequences = (0..real.batch()).map(|sequence| {
        let queries = queries.clone().slice_dim(0, sequence..sequence + 1);
        match real.row(sequence) {
            [] => Ok(queries.zeros_like()),
            ranges => Ok(spread(attend(sequence, pick(queries, 2, ranges))?, 2, ranges, tokens)),
        }
    });
    Ok(Tensor::cat(sequences.collect::<Result<_, AttentionError>>()?, 0))
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
