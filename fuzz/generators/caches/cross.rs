//! Cross attention over padded contexts, with and without a cache.

use burn::tensor::DType;
use sparse_attention_hub::{
    method::MaskerChainConfig,
    nn::{SparseCrossAttention, SparseCrossAttentionCache, SparseCrossAttentionConfig},
};

use super::padded::Padded;
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

/// Several calls over one context.
///
/// # Errors
/// If a sequence in the batch differs from the same sequence alone, with or without a cache.
pub fn check(source: &mut Source) -> Checked {
    let (layer, subject) = layer(source)?;
    about(subject.clone());
    let [width, _] = layer.query.weight.dims();
    let [context_width, _] = layer.key.weight.dims();
    let context = Padded::draw(source, context_width);
    let subject = format!("{}, {subject}", context.summary());
    let failed = |error| Fault::new("a valid call works", format!("{subject}: {error}"));
    let mut cache = SparseCrossAttentionCache::new();
    for call in 0..source.between(1, 3) {
        let (batch, queries) = (context.sequences(), source.between(1, 3));
        let values = (0..batch * queries * width).map(|_| source.normal()).collect::<Vec<_>>();
        let query = tensor(&values, [batch, queries, width], DType::F32);
        let (all, padding) = (context.tokens(0..context.length()), Some(context.padding()));
        let plain = numbers(&layer.try_forward(query.clone(), all.clone(), padding.clone()).map_err(failed)?);
        let cached = numbers(&layer.forward_cache(query.clone(), all, padding, &mut cache));
        for sequence in 0..batch {
            let query = query.clone().slice_dim(0, sequence..sequence + 1);
            let alone = numbers(&layer.try_forward(query, context.alone(sequence), None).map_err(failed)?);
            let rows = sequence * queries * width..(sequence + 1) * queries * width;
            for (how, found) in [("without", &plain[rows.clone()]), ("with", &cached[rows])] {
                let far = first_far(found, &alone, TOLERANCE);
                hold!(
                    far.is_none(),
                    "cross attention over a padded context is that over its own",
                    "{subject}, call {call} {how} a cache, sequence {sequence}: {found:?} and not {alone:?}"
                );
            }
        }
    }
    Ok(())
}

fn layer(source: &mut Source) -> Result<(SparseCrossAttention<B>, String), Fault> {
    let (kv_heads, group, head_dim) = (source.between(1, 2), source.between(1, 3), source.between(1, 4));
    let heads = kv_heads * group;
    let sizes = Sizes { batch: 1, heads, kv_heads, queries: 1, keys: 7, head_dim, value_dim: head_dim };
    let text = method(source, &sizes, Wanted::Counts).text();
    let maskers = MaskerChainConfig::from_json(&text);
    let maskers = maskers.map_err(|error| Fault::new("a valid method is accepted", error.to_string()))?;
    let (width, context) = (source.between(1, 5), source.between(1, 5));
    let config = SparseCrossAttentionConfig::new(width, context, heads, kv_heads, head_dim)
        .with_maskers(maskers)
        .with_quiet_softmax(source.once_in(4))
        .with_seed(source.bits() >> 1);
    let layer = config.try_init::<B>(&device());
    let layer = layer.map_err(|error| Fault::new("a valid layer is accepted", format!("{text}: {error}")))?;
    let layer = with_drawn_weights(source, layer);
    Ok((layer, format!("{heads}/{kv_heads} heads of {head_dim}, {text}")))
}
