//! Configurations of rotary encodings.

use burn::tensor::DType;
use serde_json::{Value, json};
use sparse_attention_hub::nn::{RotaryEncodingConfig, RotaryScaling};

use crate::generators::{
    Checked, Source,
    fault::hold,
    numbers::{numbers, tensor},
};

/// A configuration with random values is refused, or rotates by finite angles.
///
/// # Errors
/// If it does neither.
pub fn check(source: &mut Source) -> Checked {
    let (table, valid) = table(source);
    let text = table.to_string();
    let scaling = serde_json::from_str::<RotaryScaling>(&text);
    hold!(scaling.is_ok() || !valid, "a valid rotary table is read", "{text}: {scaling:?}");
    if source.once_in(4) {
        let mut unknown = table.clone();
        unknown["nonsense"] = json!(1);
        let read = serde_json::from_str::<RotaryScaling>(&unknown.to_string());
        hold!(read.is_err(), "a field that no table knows is refused", "{unknown}");
    }
    let Ok(scaling) = scaling else { return Ok(()) };
    let width = source.between(1, 5) * 2;
    let config = RotaryEncodingConfig::new().with_scaling(Some(scaling));
    let config = match source.once_in(3) {
        true => config.with_theta(*source.pick(&[0.0, 1.0, 1.5, 1e300, f64::NAN, f64::INFINITY])),
        false => config,
    };
    let config = config.with_partial_factor(*source.pick(&[1.0, 0.5, 0.0, 1.5, f64::NAN]));
    let Ok(rotary) = config.init(width) else { return Ok(()) };
    let position = *source.pick(&[0, 1, 100, 5_000, 100_000]);
    let vectors = tensor(&vec![1.0; 2 * width], [1, 1, 2, width], DType::F32);
    let rotated = numbers(&rotary.forward(vectors, position));
    hold!(rotated.iter().all(|x| x.is_finite()), "rotated heads are finite", "{config}: {rotated:?}");
    Ok(())
}

/// A configuration, and whether it is certainly valid.
fn table(source: &mut Source) -> (Value, bool) {
    let kind = *source.pick(&["linear", "dynamic", "llama3", "yarn", "default"]);
    let length = *source.pick(&[1, 8, 4096, 131_072]);
    let mut table = match kind {
        "linear" => json!({"factor": 2.0}),
        "dynamic" => json!({"factor": 4.0, "original_max_position_embeddings": length}),
        "llama3" => json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                           "original_max_position_embeddings": length}),
        "yarn" => json!({"factor": 40, "original_max_position_embeddings": length, "beta_fast": 32, "beta_slow": 1}),
        _ => json!({}),
    };
    let tag = if source.once_in(4) { "type" } else { "rope_type" };
    table[tag] = json!(kind);
    if kind == "yarn" && source.once_in(2) {
        (table["mscale"], table["mscale_all_dim"]) = (json!(0.707), json!(0.707));
    }
    if source.once_in(2) {
        return (table, true);
    }
    let fields = table.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let field = source.pick(&fields).clone();
    let values =
        [json!(0), json!(-1), json!(1e308), json!(5e-324), json!(u64::MAX), json!(null), json!("text"), json!(0.5)];
    table[&field] = source.pick(&values).clone();
    (table, false)
}
