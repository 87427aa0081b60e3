//! Configurations of layers.

use burn::tensor::DType;
use sparse_attention_hub::{
    method::MaskerChainConfig,
    nn::{GroupedQueryAttentionConfig, KvCache, MhaInput, SparseMultiHeadAttentionConfig},
};

use crate::generators::{
    B, Checked, Fault, Source, about, device,
    drawn::with_drawn_weights,
    fault::hold,
    methods::{Wanted, method},
    numbers::{numbers, tensor},
    problem::Sizes,
};

/// A layer with random sizes is refused, or it attends.
///
/// # Errors
/// If it does neither.
pub fn check(source: &mut Source) -> Checked {
    match source.once_in(2) {
        true => grouped(source),
        false => multi_head(source),
    }
}

/// A length of a layer: small, 0 or very large.
fn length(source: &mut Source) -> usize {
    match source.below(30) {
        0 => 0,
        1 => *source.pick(&[usize::MAX, 1 << 62, usize::MAX / 2 + 1]),
        _ => source.between(1, 8),
    }
}

/// A method for heads of this size, or no method.
fn maskers(source: &mut Source, heads: usize, head_dim: usize) -> Result<MaskerChainConfig, Fault> {
    let sizes = Sizes { batch: 1, heads, kv_heads: 1, queries: 3, keys: 3, head_dim, value_dim: head_dim };
    let fits = (1..=64).contains(&heads) && (1..=64).contains(&head_dim);
    let text = if fits { method(source, &sizes, Wanted::Any).text() } else { "[]".to_owned() };
    MaskerChainConfig::from_json(&text).map_err(|error| Fault::new("a valid method is accepted", error.to_string()))
}

fn grouped(source: &mut Source) -> Checked {
    let (n_heads, n_kv_heads, head_dim) = (length(source), length(source), length(source));
    let n_heads = if source.once_in(2) { n_heads.saturating_mul(n_kv_heads) } else { n_heads };
    let odd = [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300, 1e300, 1.0];
    let mut config = GroupedQueryAttentionConfig::new(length(source), n_heads, n_kv_heads)
        .with_head_dim(Some(head_dim))
        .with_maskers(maskers(source, n_heads, head_dim)?)
        .with_sink_logits(source.once_in(3));
    if source.once_in(3) {
        config = config.with_sliding_window(Some(length(source)));
    }
    if source.once_in(4) {
        config = config.with_softcap(Some(*source.pick(&odd)));
    }
    if source.once_in(4) {
        config = config.with_scale(Some(*source.pick(&odd)));
    }
    if source.once_in(4) {
        config = config.with_norm_epsilon(Some(*source.pick(&odd)));
    }
    about(config.to_string());
    let Ok(layer) = config.init::<B>(&device()) else { return Ok(()) };
    let layer = with_drawn_weights(source, layer);
    let tokens = tensor(&vec![0.5; 3 * config.d_model], [1, 3, config.d_model], DType::F32);
    let mut cache = KvCache::new(1);
    let step = layer.forward_cache(tokens.clone(), &mut cache);
    let whole = layer.forward(tokens);
    let finite = config.scale.is_none_or(|scale| scale.abs() < 1e9);
    for output in [step, whole].into_iter().flatten() {
        let numbers = numbers(&output);
        hold!(!finite || numbers.iter().all(|x| x.is_finite()), "a layer's output is finite", "{config}: {numbers:?}");
    }
    Ok(())
}

fn multi_head(source: &mut Source) -> Checked {
    let n_heads = length(source);
    let d_model = if source.once_in(2) { length(source) } else { n_heads.saturating_mul(source.between(1, 4)) };
    let heads = n_heads.max(1);
    let config = SparseMultiHeadAttentionConfig::new(d_model, n_heads)
        .with_maskers(maskers(source, n_heads, d_model / heads)?)
        .with_dropout(*source.pick(&[0.0, 0.5, 1.0, -0.1, f64::NAN]))
        .with_n_heads_kv(source.once_in(2).then(|| length(source)))
        .with_quiet_softmax(source.once_in(4))
        .with_burn_conventions(source.once_in(4))
        .with_fill_weights(source.once_in(4));
    about(config.to_string());
    let Ok(layer) = config.try_init::<B>(&device()) else { return Ok(()) };
    let layer = with_drawn_weights(source, layer);
    let tokens = tensor(&vec![0.5; 3 * d_model], [1, 3, d_model], DType::F32);
    let Ok(output) = layer.try_forward(MhaInput::self_attn(tokens).causal()) else { return Ok(()) };
    let numbers = numbers(&output.context);
    hold!(numbers.iter().all(|x| x.is_finite()), "a layer's output is finite", "{config}: {numbers:?}");
    Ok(())
}
