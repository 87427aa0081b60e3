use burn::tensor::{Bool, Tensor, backend::Backend, ops::AttentionModuleOptions};

use crate::{
    attention::masked_attention,
    masker::Masker,
    problem::{AttentionError, AttentionInputs, Requested, Visibility},
    state::LayerState,
};

/// Scaled dot-product attention over the keys that a method keeps, for models that compute attention in their own code.
/// Its arguments are those of [burn's function](burn::tensor::module::attention), the method, and what the method
/// remembers of the layer.
///
/// Keys and values may have fewer heads than queries (GQA) and need not be repeated. Gradients flow through attention
/// over the kept keys. The choice of the keys has no gradient. The state belongs to one layer and one sequence (or
/// batch). For methods with weights or maskers by layer, it has the [index of the layer](LayerState::with_layer). For
/// methods with phases, the first call with a state is a prefill. A later call is decoding if it has one query, and a
/// prefill if it has more. [LayerState::set_phase] sets another phase.
///
/// # Shapes
/// - query: `[batch, heads, queries, head_dim]`
/// - key: `[batch, kv_heads, keys, head_dim]`
/// - value: `[batch, kv_heads, keys, value_dim]`
/// - mask: `[batch or 1, heads or 1, queries, keys]`, `true` = hidden
/// - attn_bias: `[batch or 1, heads or 1, queries, keys]`, added to the scores
/// - output: `[batch, heads, queries, value_dim]`
///
/// With `is_causal` the queries are the last positions of the keys: a whole prompt, a chunk of a prompt, or a decode
/// step. Use `is_causal` instead of a causal `mask`. A mask tensor costs time and memory for all pairs of queries and
/// keys, even if the method keeps few keys.
///
/// # Errors
/// If the shapes or types do not fit, an option has a value that is not allowed, there are more queries than keys and
/// `is_causal` is set, the state belongs to another sequence, or the method cannot work with the inputs.
///
/// # Example
/// The attention of a Llama block with a cache:
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Distribution, Tensor, ops::AttentionModuleOptions};
/// use burn_flex::Flex;
/// use sparse_attention_hub::{
///     method::{MaskerChain, MaskerChainConfig},
///     nn::{KvCache, sparse_attention},
/// };
///
/// let device = Default::default();
/// let method = r#"[{"type": "sink", "sink_size": 4}, {"type": "oracle_top_k", "heavy_size": 16}]"#;
/// let method: MaskerChain<Flex> = MaskerChainConfig::from_json(method)?.init(&device)?;
/// let mut cache = KvCache::new(42);
///
/// // Projected and rotated: 8 query heads over 2 key-value heads.
/// let heads = |heads, tokens| Tensor::random([1, heads, tokens, 64], Distribution::Default, &device);
/// for tokens in [100, 1, 1] {
///     let (q, k, v) = (heads(8, tokens), heads(2, tokens), heads(2, tokens));
///     cache.append(k, v)?;
///     let (Some(k), Some(v)) = (cache.keys(), cache.values()) else { unreachable!("tokens were appended") };
///     // Before: k and v repeated for every query head, a mask, q.matmul(k) / sqrt(d), softmax, matmul(v).
///     let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
///     let output = sparse_attention(q, k, v, None, None, options, &method, cache.state_mut())?;
///     assert_eq!(output.dims(), [1, 8, tokens, 64]);
/// }
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[allow(clippy::too_many_arguments)] // Burn's arguments, and two more.
pub fn sparse_attention<B: Backend, M: Masker<B> + ?Sized>(
    query: Tensor<B, 4>,
    key: Tensor<B, 4>,
    value: Tensor<B, 4>,
    mask: Option<Tensor<B, 4, Bool>>,
    attn_bias: Option<Tensor<B, 4>>,
    options: AttentionModuleOptions,
    method: &M,
    state: &mut LayerState,
) -> Result<Tensor<B, 4>, AttentionError> {
    let phase = state.phase_of_call(query.dims()[2]);
    let mut inputs = AttentionInputs::new(query, key, value)?.with_layer(state.layer()).with_phase(phase);
    if let Some(scale) = options.scale {
        inputs = inputs.with_scale(scale)?;
    }
    if let Some(cap) = options.softcap {
        inputs = inputs.with_softcap(cap)?;
    }
    let inputs = with_masks(inputs, mask, attn_bias, options.is_causal)?;
    // The choice of keys has no gradient, so autodiff must not track it.
    let kept = method.mask(&inputs.clone().detach(), state)?;
    let output = masked_attention(&inputs, &kept, Requested::default())?.output;
    state.call_is_done(inputs.mask_shape().keys);
    Ok(output)
}

/// The inputs with the visibility of a mask, a bias and causality.
fn with_masks<B: Backend>(
    inputs: AttentionInputs<B>,
    mask: Option<Tensor<B, 4, Bool>>,
    bias: Option<Tensor<B, 4>>,
    is_causal: bool,
) -> Result<AttentionInputs<B>, AttentionError> {
    // The shape of each is checked before they are joined.
    let inputs = if is_causal { inputs.causal()? } else { inputs };
    let causal = is_causal.then_some(inputs.offset());
    let inputs = match &mask {
        Some(mask) => inputs.with_visibility(Visibility::Masked(mask.clone()))?,
        None => inputs,
    };
    let inputs = match &bias {
        Some(bias) => inputs.with_visibility(Visibility::Biased(bias.clone()))?,
        None => inputs,
    };
    if mask.is_none() && bias.is_none() {
        return Ok(inputs);
    }
    let shape = inputs.mask_shape();
    let after = causal.map(|offset| {
        let after = Tensor::<B, 2, Bool>::tril_mask([shape.queries, shape.keys], offset as i64, &inputs.device());
        after.reshape([1, 1, shape.queries, shape.keys])
    });
    let hidden = match (mask, after) {
        (Some(mask), Some(after)) => {
            let dims = mask.dims();
            Some(mask.bool_or(after.expand(dims)))
        }
        (mask, after) => mask.or(after),
    };
    match (bias, hidden) {
        (None, Some(hidden)) => inputs.with_visibility(Visibility::Masked(hidden)),
        (Some(bias), None) => inputs.with_visibility(Visibility::Biased(bias)),
        (Some(bias), Some(hidden)) => {
            let ([batch, heads, queries, keys], other) = (bias.dims(), hidden.dims());
            let dims = [batch.max(other[0]), heads.max(other[1]), queries, keys];
            let bias = bias.expand(dims).mask_fill(hidden.expand(dims), f32::NEG_INFINITY);
            inputs.with_visibility(Visibility::Biased(bias))
        }
        (None, None) => Ok(inputs),
    }
}
