//! Multi-head attention over padded batches, with and without a cache.

use burn::tensor::DType;
use sparse_attention_hub::{
    method::MaskerChainConfig,
    nn::{MhaCache, MhaInput, SparseMultiHeadAttention, SparseMultiHeadAttentionConfig},
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

/// A random sequence of calls over a batch.
///
/// # Errors
/// If a sequence in the batch differs from the same sequence alone.
pub fn check(source: &mut Source) -> Checked {
    let (layer, subject) = layer(source)?;
    let mut batch = Padded::draw(source, layer.d_model);
    let subject = format!("{}, {subject}", batch.summary());
    about(subject.clone());
    let of = |fault: Fault| fault.of(&subject);
    match source.below(3) {
        0 => without_cache(&layer, &batch, source.once_in(3)).map_err(of),
        1 => by_whole_sequences(source, &layer, &mut batch).map_err(of),
        _ => by_steps(source, &layer, &mut batch).map_err(of),
    }
}

/// One call over all positions.
fn without_cache(layer: &SparseMultiHeadAttention<B>, batch: &Padded, sees_all: bool) -> Checked {
    let with_causality = |input: MhaInput<B>| if sees_all { input } else { input.causal() };
    let input = with_causality(MhaInput::self_attn(batch.tokens(0..batch.length()))).mask_pad(batch.padding());
    let output = layer.try_forward(input).map_err(|error| Fault::new("a valid call works", error.to_string()))?;
    compare(layer, batch, 0, &numbers(&output.context), sees_all)
}

/// A cache that gets the whole sequences at each call.
fn by_whole_sequences(source: &mut Source, layer: &SparseMultiHeadAttention<B>, batch: &mut Padded) -> Checked {
    let mut cache = MhaCache::autoregressive();
    for _ in 0..source.between(1, 4) {
        let input = MhaInput::self_attn(batch.tokens(0..batch.length())).mask_pad(batch.padding());
        let output = layer.forward_cache(input, &mut cache);
        compare(layer, batch, 0, &numbers(&output.context), false)?;
        batch.extend(source);
    }
    Ok(())
}

/// A cache that gets only the next positions, with wrong steps among them.
fn by_steps(source: &mut Source, layer: &SparseMultiHeadAttention<B>, batch: &mut Padded) -> Checked {
    let mut cache = MhaCache::autoregressive();
    let mut done = 0;
    for _ in 0..source.between(1, 5) {
        if source.once_in(3) {
            wrong_step(source, layer, batch, &mut cache, done)?;
        }
        // The prompt may come in chunks.
        let end = if batch.length() > done + 1 { source.between(done + 1, batch.length()) } else { batch.length() };
        let now = batch.up_to(end);
        let input = MhaInput::self_attn(now.tokens(done..end)).mask_pad(now.padding());
        let output = layer.forward_step(input, &mut cache);
        let output = output.map_err(|error| Fault::new("a valid step works", format!("at {done}: {error}")))?;
        hold!(cache.len() == end, "a cache counts positions", "{} and not {end}", cache.len());
        let of = |fault: Fault| fault.of(format!("positions {done}..{end}"));
        compare(layer, &now, done, &numbers(&output.context), false).map_err(of)?;
        done = end;
        if source.once_in(8) {
            cache.reset();
            done = 0;
        }
        if done == batch.length() {
            batch.extend(source);
        }
    }
    Ok(())
}

/// A step that must be refused and must change nothing.
fn wrong_step(
    source: &mut Source,
    layer: &SparseMultiHeadAttention<B>,
    batch: &Padded,
    cache: &mut MhaCache<B>,
    done: usize,
) -> Checked {
    let sequences = batch.sequences();
    let ones = |dims: [usize; 3]| tensor(&vec![0.5; dims.iter().product()], dims, DType::F32);
    let width = layer.d_model;
    let padding = |columns: usize| tensor(&vec![0.0; sequences * columns], [sequences, columns], DType::F32).bool();
    let input = match source.below(4) {
        0 => MhaInput::self_attn(ones([sequences, 1, width])).mask_pad(padding(done + 2)),
        1 => MhaInput::self_attn(ones([sequences, 1, width + 1])),
        2 => MhaInput::new(ones([sequences, 1, width]), ones([sequences, 1, width]), ones([sequences, 2, width])),
        _ if done > 0 => MhaInput::self_attn(ones([sequences + 1, 1, width])),
        _ => MhaInput::new(ones([sequences, 2, width]), ones([sequences, 1, width]), ones([sequences, 1, width])),
    };
    let accepted = layer.forward_step(input, cache).is_ok();
    hold!(!accepted, "a wrong step is refused", "at {done}");
    hold!(cache.len() == done, "a failed step leaves nothing", "{} positions and not {done}", cache.len());
    Ok(())
}

/// Compares each sequence, from a position on, with the same sequence alone.
fn compare(
    layer: &SparseMultiHeadAttention<B>,
    batch: &Padded,
    first: usize,
    found: &[f64],
    sees_all: bool,
) -> Checked {
    let width = layer.d_model;
    let positions = batch.length() - first;
    for sequence in 0..batch.sequences() {
        let places = batch.places(sequence);
        if places.is_empty() {
            continue;
        }
        let alone = MhaInput::self_attn(batch.alone(sequence));
        let alone = layer.try_forward(if sees_all { alone } else { alone.causal() });
        let alone = alone.map_err(|error| Fault::new("a valid call works", error.to_string()))?;
        let alone = numbers(&alone.context);
        for (row, place) in places.into_iter().enumerate().filter(|(_, place)| *place >= first) {
            let found = &found[(sequence * positions + place - first) * width..][..width];
            let wanted = &alone[row * width..][..width];
            let far = first_far(found, wanted, TOLERANCE);
            hold!(
                far.is_none(),
                "a padded batch is its sequences alone",
                "sequence {sequence}, its position {row} at {place}: {found:?} and not {wanted:?}"
            );
        }
    }
    Ok(())
}

fn layer(source: &mut Source) -> Result<(SparseMultiHeadAttention<B>, String), Fault> {
    let (kv_heads, group, head_dim) = (source.between(1, 2), source.between(1, 3), source.between(1, 4));
    let heads = kv_heads * group;
    let sizes = Sizes { batch: 1, heads, kv_heads, queries: 1, keys: 12, head_dim, value_dim: head_dim };
    let text = method(source, &sizes, Wanted::Counts).text();
    let maskers = MaskerChainConfig::from_json(&text);
    let maskers = maskers.map_err(|error| Fault::new("a valid method is accepted", error.to_string()))?;
    let quiet = source.once_in(4);
    let config = SparseMultiHeadAttentionConfig::new(heads * head_dim, heads)
        .with_n_heads_kv(Some(kv_heads))
        .with_maskers(maskers)
        .with_quiet_softmax(quiet)
        .with_seed(source.bits() >> 1);
    let layer = config.try_init::<B>(&device());
    let layer = layer.map_err(|error| Fault::new("a valid layer is accepted", format!("{text}: {error}")))?;
    let layer = with_drawn_weights(source, layer);
    Ok((layer, format!("{heads}/{kv_heads} heads of {head_dim}, quiet {quiet}, {text}")))
}
