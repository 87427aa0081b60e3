//! Grouped-query attention with a cache.

use burn::tensor::{DType, Tensor};
use sparse_attention_hub::{
    method::MaskerChainConfig,
    nn::{GroupedQueryAttention, GroupedQueryAttentionConfig, KvCache, RotaryEncodingConfig},
};

use super::Cut;
use crate::generators::{
    B, Checked, Fault, Source, about, device,
    drawn::with_drawn_weights,
    fault::hold,
    methods::{Wanted, method},
    numbers::{first_far, numbers, tensor},
    problem::Sizes,
};

/// The tolerance between two ways to compute the same result, relative to the largest number.
const TOLERANCE: f64 = 1e-4;

/// A random sequence of calls.
///
/// # Errors
/// If a step differs from the same positions of the whole sequence.
pub fn check(source: &mut Source) -> Checked {
    let (layer, seed, subject) = layer(source)?;
    about(subject.clone());
    let [width, _] = layer.query.weight.dims();
    let batch = source.between(1, 2);
    let mut cache = KvCache::<B>::new(seed);
    // `[positions][batch * width]`
    let mut history: Vec<Vec<f64>> = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..source.between(1, 8) {
        match source.below(8) {
            0..5 => {
                let count = if history.is_empty() { source.between(1, 9) } else { source.between(1, 3) };
                calls.push(format!("{count} tokens"));
                let new = || (0..batch * width).map(|_| f64::from(source.normal() as f32)).collect::<Vec<_>>();
                history.extend(std::iter::repeat_with(new).take(count));
                let of = |fault: Fault| fault.of(format!("{subject}, {batch} sequences, {calls:?}"));
                step(&layer, &mut cache, &history, count, [batch, width]).map_err(of)?;
            }
            5 => {
                calls.push("a wrong step".to_owned());
                let dims = match source.below(3) {
                    0 => [batch, 1, width + 1],
                    1 if !history.is_empty() => [batch + 1, 1, width],
                    _ => [batch, 0, width],
                };
                let tokens = tensor(&vec![1.0; dims.iter().product()], dims, DType::F32);
                let accepted = layer.forward_cache(tokens, &mut cache).is_ok();
                hold!(!accepted, "a wrong step is refused", "{subject}: {dims:?} after {}", history.len());
            }
            6 => {
                let length = source.below(history.len() + 1);
                calls.push(format!("back to {length}"));
                if cache.truncate(length).done() {
                    history.truncate(length);
                }
            }
            _ => {
                calls.push("reset".to_owned());
                cache.reset();
                history.clear();
            }
        }
        let length = cache.len();
        hold!(length == history.len(), "a cache counts positions", "{subject}, {calls:?}: {length}");
    }
    Ok(())
}

/// Compares new positions through the cache with the last positions of the whole sequence.
fn step(
    layer: &GroupedQueryAttention<B>,
    cache: &mut KvCache<B>,
    history: &[Vec<f64>],
    count: usize,
    [batch, width]: [usize; 2],
) -> Checked {
    let first = history.len() - count;
    let tokens = |positions: &[Vec<f64>]| -> Tensor<B, 3> {
        let of_sequence = |sequence: usize| {
            positions.iter().flat_map(move |tokens| tokens[sequence * width..][..width].iter().copied())
        };
        let values = (0..batch).flat_map(of_sequence).collect::<Vec<_>>();
        tensor(&values, [batch, positions.len(), width], DType::F32)
    };
    let failed = |error: sparse_attention_hub::attention::AttentionError| {
        Fault::new("a valid step works", format!("position {first}: {error}"))
    };
    let found = numbers(&layer.forward_cache(tokens(&history[first..]), cache).map_err(failed)?);
    let whole = layer.forward(tokens(history)).map_err(failed)?;
    let wanted = numbers(&whole.slice_dim(1, first..history.len()));
    let far = first_far(&found, &wanted, TOLERANCE);
    hold!(
        far.is_none(),
        "a step is a row of the whole",
        "positions {first}..{}: {found:?} and not {wanted:?}",
        history.len()
    );
    Ok(())
}

/// A random layer, the seed of its method, and its description.
fn layer(source: &mut Source) -> Result<(GroupedQueryAttention<B>, u64, String), Fault> {
    let (kv_heads, group, head_dim) = (source.between(1, 2), source.between(1, 3), 2 * source.between(1, 3));
    let heads = kv_heads * group;
    let sizes = Sizes { batch: 1, heads, kv_heads, queries: 1, keys: 12, head_dim, value_dim: head_dim };
    let method = method(source, &sizes, Wanted::Counts);
    let seed = source.bits() >> 1;
    let maskers = MaskerChainConfig::from_json(&method.text());
    let maskers = maskers.map_err(|error| Fault::new("a valid method is accepted", error.to_string()))?;
    let config = GroupedQueryAttentionConfig::new(source.between(2, 6), heads, kv_heads)
        .with_head_dim(Some(head_dim))
        .with_maskers(if source.once_in(6) { MaskerChainConfig::default() } else { maskers })
        .with_seed(seed)
        .with_bias(source.once_in(2))
        .with_sink_logits(source.once_in(4))
        .with_rotary(source.once_in(2).then(RotaryEncodingConfig::new))
        .with_sliding_window(source.once_in(3).then(|| source.between(1, 7)))
        .with_softcap(source.once_in(4).then_some(2.0))
        .with_norm_epsilon(source.once_in(4).then_some(1e-5));
    let layer = config
        .init::<B>(&device())
        .map_err(|error| Fault::new("a valid layer is accepted", format!("{config}: {error}")))?;
    let layer = with_drawn_weights(source, layer);
    let window = config.sliding_window;
    Ok((layer, seed, format!("{heads}/{kv_heads} heads of {head_dim}, window {window:?}, {}", method.text())))
}
