//! Methods with phases and layers.

use serde_json::{Map, Value, json};

use super::{SIZES, check_both, check_text, refusal};
use crate::generators::{
    Checked, Source,
    fault::hold,
    methods::{Wanted, method},
};

/// A list, which may be empty.
fn list(source: &mut Source) -> Value {
    if source.once_in(5) { json!([]) } else { method(source, &SIZES, Wanted::Any).json }
}

/// A valid method with phases or layers. The layer that is asked is 0.
pub fn phases(source: &mut Source) -> Value {
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

/// A method with phases, of which one thing may be wrong.
///
/// # Errors
/// If a valid one is refused, or a wrong one is accepted or refused without the name of what is wrong.
pub fn check(source: &mut Source) -> Checked {
    let mut method = phases(source);
    let (list, key) = (list(source), *source.pick(&["prefill", "decode"]));
    let says = match source.below(8) {
        0..3 => {
            let text = method.to_string();
            let accepted = check_text(&text, source)?;
            hold!(accepted, "a valid method is accepted", "{text}: {}", refusal(&text));
            return Ok(());
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
