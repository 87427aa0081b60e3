//! Methods with one thing wrong.

use serde_json::{Value, json};

use super::{SIZES, check_both, refusal};
use crate::generators::{
    Checked, Source,
    fault::hold,
    methods::{Wanted, masker, method},
};

/// Required fields.
const REQUIRED: [&str; 33] = [
    "type",
    "sink_size",
    "window_size",
    "heavy_size",
    "top_p",
    "threshold",
    "scorer",
    "page_size",
    "pq_sub_dim",
    "pq_bits",
    "sampling_rate",
    "base_rate_sampling",
    "epsilon",
    "delta",
    "init_offset",
    "local_offset",
    "target",
    "pilot_size",
    "lsh_l",
    "lsh_k",
    "k",
    "sampling_size",
    "hat_bits",
    "hat_mlp_layers",
    "hat_mlp_hidden_size",
    "hat_mlp_activation",
    "sorted_channel_file",
    "channel_selection",
    "group_factor",
    "tables",
    "bits",
    "temperature",
    "minimum_hits",
];

/// Fields that are required in some maskers only.
const WITH_DEFAULT: [(&str, &str); 3] =
    [("priority_sampling", "scorer"), ("pps_sampling", "scorer"), ("magic_pig", "minimum_hits")];

/// Fields that may be 0.
const MAY_BE_ZERO: [&str; 5] = ["base_rate_sampling", "init_offset", "local_offset", "top_p", "threshold"];

/// A method with one thing wrong.
///
/// # Errors
/// If it is accepted, or the error does not name the fault.
pub fn check(source: &mut Source) -> Checked {
    let mut method = method(source, &SIZES, Wanted::Any).json;
    let place = method.as_array().map_or(0, |list| source.below(list.len()));
    let name = method[place]["type"].as_str().unwrap_or_default().to_owned();
    let field = required(source, &method[place], &name);
    let mut says = field.clone();
    match source.below(7) {
        0 => {
            if let Some(fields) = method[place].as_object_mut() {
                fields.remove(&field);
            }
        }
        1 => {
            method[place]["nonsense"] = json!(1);
            says = "nonsense".to_owned();
        }
        2 => {
            let values = [json!(-1), json!(null), json!([]), json!({}), json!(true), json!(-0.5), json!([1, 2])];
            method[place][&field] = source.pick(&values).clone();
        }
        3 => {
            method[place]["type"] = json!("nonsense");
            says = "nonsense".to_owned();
        }
        4 if method[place][&field].is_number() && !MAY_BE_ZERO.contains(&field.as_str()) => {
            method[place][&field] = json!(0);
        }
        5 => {
            let samplers = ["random_sampling", "pps_sampling", "magic_pig"];
            let two = [0; 2].map(|_| {
                let name = *source.pick(&samplers);
                masker(source, &SIZES, Wanted::Any, name)
            });
            method = json!(two);
            says = "sample".to_owned();
        }
        _ => return twice(source, &method[place], &field),
    }
    let text = method.to_string();
    let accepted = check_both(&text)?;
    hold!(!accepted, "a wrong method is refused", "{text}, wrong in `{says}`");
    let error = refusal(&text);
    // For a field that names a file, the error is about the file.
    let named = error.contains(&says) || says == "sorted_channel_file";
    hold!(named, "an error names what is wrong", "{text}, wrong in `{says}`: {error}");
    Ok(())
}

/// One of the required fields.
fn required(source: &mut Source, masker: &Value, name: &str) -> String {
    let fields = masker.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let required = fields
        .into_iter()
        .filter(|field| REQUIRED.contains(&field.as_str()) && !WITH_DEFAULT.contains(&(name, field.as_str())));
    source.pick(&required.collect::<Vec<_>>()).clone()
}

/// A field that is given twice must be refused, even if both have the same value.
fn twice(source: &mut Source, masker: &Value, field: &str) -> Checked {
    let text = masker.to_string();
    let again = if source.once_in(2) { masker[field].clone() } else { json!(3) };
    let text = format!("[{{\"{field}\":{again},{}]", &text[1..]);
    let accepted = check_both(&text)?;
    hold!(!accepted, "a field that stands twice is refused", "{text}");
    Ok(())
}
