//! The transformer encoder with a cache in each layer.

use burn::tensor::{DType, Tensor};
use serde_json::json;
use sparse_attention_hub::{
    method::MaskerChainConfig,
    nn::{
        SparseTransformerEncoder, SparseTransformerEncoderAutoregressiveCache, SparseTransformerEncoderConfig,
        TransformerEncoderInput,
    },
};

use crate::generators::{
    B, Checked, Fault, Source, device,
    drawn::with_drawn_weights,
    fault::hold,
    methods::{Wanted, method},
    numbers::{first_far, numbers, tensor},
    problem::Sizes,
    weights,
};

/// The tolerance between two ways to compute the same result, relative to the largest number.
const TOLERANCE: f64 = 1e-3;

/// Several steps, including wrong ones.
///
/// # Errors
/// If a step differs from the whole sequence, or a failed step changes a layer.
pub fn check(source: &mut Source) -> Checked {
    let (heads, head_dim) = (source.between(1, 2), source.between(1, 3));
    let width = heads * head_dim;
    let sizes = Sizes { batch: 1, heads, kv_heads: heads, queries: 1, keys: 9, head_dim, value_dim: head_dim };
    // The weights fit the first layer but not the second, so that a step fails after the first layer has finished.
    let fails_late = source.once_in(4);
    let text = match fails_late {
        true => {
            let mut hash = weights::hash(&sizes);
            (hash["type"], hash["heavy_size"]) = (json!("hash_attention_top_k"), json!(1));
            json!([hash]).to_string()
        }
        false => method(source, &sizes, Wanted::Counts).text(),
    };
    let layers = if fails_late || !text.contains("hat_") && !text.contains("channel") { 2 } else { 1 };
    let maskers = MaskerChainConfig::from_json(&text);
    let maskers = maskers.map_err(|error| Fault::new("a valid method is accepted", error.to_string()))?;
    let config = SparseTransformerEncoderConfig::new(width, source.between(1, 4), heads, layers)
        .with_dropout(0.0)
        .with_maskers(maskers)
        .with_norm_first(source.once_in(2));
    let Ok(encoder) = config.try_init::<B>(&device()) else {
        hold!(fails_late, "a valid layer is accepted", "{layers} layers, {text}");
        return Ok(());
    };
    let encoder = with_drawn_weights(source, encoder);
    let mut cache = encoder.new_autoregressive_cache();
    let mut history: Vec<f64> = Vec::new();
    for _ in 0..source.between(1, 5) {
        let count = source.between(1, 4);
        let done = history.len() / width;
        let new = (0..count * width).map(|_| source.normal()).collect::<Vec<_>>();
        let subject = format!("{layers} layers of {heads} heads of {head_dim}, {text}, {count} after {done}");
        if source.once_in(3) {
            let padding = tensor(&vec![0.0; done + count + 1], [1, done + count + 1], DType::F32).bool();
            let input = TransformerEncoderInput::new(tokens(&new, width)).mask_pad(padding);
            let accepted = encoder.forward_step(input, &mut cache).is_ok();
            hold!(!accepted, "a wrong step is refused", "{subject}");
            check_lengths(&cache, done).map_err(|fault| fault.of(&subject))?;
        }
        let found = encoder.forward_step(TransformerEncoderInput::new(tokens(&new, width)), &mut cache);
        match found {
            Ok(found) => {
                history.extend(new);
                check_lengths(&cache, done + count).map_err(|fault| fault.of(&subject))?;
                compare(&encoder, &found, &history, width).map_err(|fault| fault.of(&subject))?;
            }
            Err(error) => {
                hold!(fails_late, "a valid step works", "{subject}: {error}");
                check_lengths(&cache, done).map_err(|fault| fault.of(&subject))?;
            }
        }
    }
    Ok(())
}

fn tokens(values: &[f64], width: usize) -> Tensor<B, 3> {
    tensor(values, [1, values.len() / width, width], DType::F32)
}

/// All layers must have the same number of positions.
fn check_lengths(cache: &SparseTransformerEncoderAutoregressiveCache<B>, wanted: usize) -> Checked {
    let lengths = cache.layers().iter().map(|layer| layer.len()).collect::<Vec<_>>();
    let alike = lengths.iter().all(|length| *length == wanted);
    hold!(alike, "a failed step leaves nothing in any layer", "{lengths:?} positions and not {wanted}");
    Ok(())
}

/// The last positions from the cache must equal those of the whole sequence.
fn compare(encoder: &SparseTransformerEncoder<B>, found: &Tensor<B, 3>, history: &[f64], width: usize) -> Checked {
    let whole = encoder.try_forward(TransformerEncoderInput::new(tokens(history, width)).causal());
    let whole = numbers(&whole.map_err(|error| Fault::new("a valid call works", error.to_string()))?);
    let found = numbers(found);
    let wanted = &whole[whole.len() - found.len()..];
    let far = first_far(&found, wanted, TOLERANCE);
    hold!(far.is_none(), "a step of the encoder is a row of the whole", "{found:?} and not {wanted:?}");
    Ok(())
}
