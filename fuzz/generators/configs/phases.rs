//! Methods with phases and layers.

use burn::tensor::DType;
use serde_json::{Map, Value, json};
use sparse_attention_hub::{
    attention::Phase,
    method::MaskerChainConfig,
    nn::{GqaInput, GroupedQueryAttentionConfig, KvCache},
};

use super::{SIZES, check_both, check_text, refusal};
use crate::generators::{
    B, Checked, Fault, Source, device,
    drawn::with_drawn_weights,
    fault::hold,
    methods::{Wanted, method},
    mutations,
    numbers::{numbers, tensor},
};

/// A list, which may be empty.
fn list(source: &mut Source) -> Value {
    if source.once_in(5) { json!([]) } else { method(source, &SIZES, Wanted::Any).json }
}

/// A valid method with phases or layers. The layer that is asked is 0.
fn phases(source: &mut Source) -> Value {
    let mut fields = Map::new();
    for key in ["prefill", "decode"] {
        if !source.once_in(3) {
            fields.insert(key.to_owned(), list(source));
        }
    }
    if source.once_in(3) {
        let all = [json!([]), json!([0]), json!([3, 0]), json!([1, 2, 40])];
        fields.insert("dense_layers".to_owned(), source.pick(&all).clone());
    }
    if source.once_in(3) || fields.is_empty() {
        let mut layers = Map::new();
        for key in ["0", "07", "18446744073709551615"] {
            if source.once_in(2) {
                let mut phases = Map::new();
                let first = *source.pick(&["prefill", "decode"]);
                phases.insert(first.to_owned(), list(source));
                if source.once_in(2) {
                    phases.insert(if first == "decode" { "prefill" } else { "decode" }.to_owned(), list(source));
                }
                layers.insert(key.to_owned(), if source.once_in(2) { list(source) } else { phases.into() });
            }
        }
        fields.insert("layers".to_owned(), layers.into());
    }
    fields.into()
}

/// A layer attends through the method, to a prompt and in steps, or says why not.
fn in_a_layer(source: &mut Source, text: &str) -> Checked {
    let maskers = MaskerChainConfig::from_json(text);
    let maskers = maskers.map_err(|error| Fault::new("a valid method is accepted", error.to_string()))?;
    let config = GroupedQueryAttentionConfig::new(6, SIZES.heads, SIZES.kv_heads)
        .with_head_dim(Some(SIZES.head_dim))
        .with_layer(*source.pick(&[0, 1, 7]))
        .with_maskers(maskers);
    // Weights of a file may be of other layers than this one.
    let Ok(layer) = config.init::<B>(&device()) else { return Ok(()) };
    let layer = with_drawn_weights(source, layer);
    let mut cache = KvCache::new(1);
    for count in [3, 1, 2, 1] {
        let tokens = tensor(&vec![0.5; 6 * count], [1, count, 6], DType::F32);
        let input = GqaInput::new(tokens);
        let input = if source.once_in(4) { input.phase(*source.pick(&Phase::ALL)) } else { input };
        if let Ok(output) = layer.forward_cache(input, &mut cache) {
            let numbers = numbers(&output);
            hold!(numbers.iter().all(|x| x.is_finite()), "a layer's output is finite", "{text}: {numbers:?}");
        }
    }
    Ok(())
}

/// A method with phases, of which one thing may be wrong.
///
/// # Errors
/// If a valid one is refused, or a wrong one is accepted or refused without the name of what is wrong.
pub fn check(source: &mut Source) -> Checked {
    let mut method = phases(source);
    let (list, key) = (list(source), *source.pick(&["prefill", "decode"]));
    let says = match source.below(9) {
        0..3 => {
            let text = method.to_string();
            let accepted = check_text(&text, source)?;
            hold!(accepted, "a valid method is accepted", "{text}: {}", refusal(&text));
            return in_a_layer(source, &text);
        }
        8 => {
            let text = mutations::of_text(source, &method.to_string());
            return check_text(&text, source).map(|_| ());
        }
        3 => {
            method["nonsense"] = list;
            "nonsense"
        }
        4 => {
            method["layers"] = json!({"5": list, "05": list});
            "layer 5 twice"
        }
        5 => {
            let layer = source.below(5);
            method["dense_layers"] = json!([layer, 7, layer]);
            "twice"
        }
        6 => {
            let wrong = [json!({"x": list}), json!({"-1": list}), json!({"1.5": list}), json!([list]), json!(3)];
            method["layers"] = source.pick(&wrong).clone();
            "`layers`"
        }
        _ => {
            let wrong = [json!({}), json!(null), json!("causal"), json!(2), json!([{"type": "nonsense"}]), json!([[]])];
            method[key] = source.pick(&wrong).clone();
            key
        }
    };
    let text = method.to_string();
    let accepted = check_both(&text)?;
    hold!(!accepted, "a wrong method is refused", "{text}, wrong in `{says}`");
    let error = refusal(&text);
    hold!(error.contains(says), "an error names what is wrong", "{text}, wrong in `{says}`: {error}");
    Ok(())
}
