//! The rotary positions of a configuration file, in the two spellings that HuggingFace has used.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ModelError, fields::Fields};
use crate::nn::{RotaryEncodingConfig, RotaryScaling};

/// Takes out `rope_parameters` (transformers 5), or `rope_theta`, `rope_scaling` and `partial_rotary_factor` (before).
/// `default_theta` stands where there is neither; a scaling that does not name the longest sequence of the training gets
/// `max_positions`.
pub(super) fn rotary(
    fields: &mut Fields,
    default_theta: f64,
    max_positions: usize,
) -> Result<RotaryEncodingConfig, ModelError> {
    let outer_theta = fields.positive("rope_theta")?;
    let outer_share = fields.positive("partial_rotary_factor")?;
    let (newer, older) = (fields.object("rope_parameters")?, fields.object("rope_scaling")?);
    let Some(mut parameters) = newer.or(older) else {
        return Ok(config(outer_theta.unwrap_or(default_theta), outer_share));
    };
    let theta = parameters.positive("rope_theta")?.or(outer_theta).unwrap_or(default_theta);
    let share = parameters.positive("partial_rotary_factor")?.or(outer_share);
    let config = config(theta, share);
    // The oldest name of the field.
    let older_type = parameters.text("type")?;
    let kind = parameters.text("rope_type")?.or(older_type).unwrap_or_else(|| "default".to_owned());
    if kind == "default" {
        parameters.finish(&[])?;
        return Ok(config);
    }
    let scaling = scaling(&parameters, &kind, max_positions)?;
    Ok(config.with_scaling(Some(scaling)))
}

fn config(theta: f64, share: Option<f64>) -> RotaryEncodingConfig {
    RotaryEncodingConfig::new().with_theta(theta).with_partial_factor(share.unwrap_or(1.0))
}

fn scaling(parameters: &Fields, kind: &str, max_positions: usize) -> Result<RotaryScaling, ModelError> {
    let mut value = parameters.to_value();
    value["rope_type"] = json!(kind);
    if value.get(TRAINED).is_none_or(Value::is_null) {
        value[TRAINED] = json!(max_positions);
    }
    let refuse = |reason: String| {
        parameters.error("rope_type", &value, format!("a scaling of rotary positions that is supported ({reason})"))
    };
    let scaling = RotaryScaling::deserialize(&value).map_err(|error| refuse(error.to_string()))?;
    // What was understood is written again; a field that is not there then was not.
    let understood = serde_json::to_value(scaling).map_err(|error| refuse(error.to_string()))?;
    let is_unknown = |(field, value): &(&String, &Value)| {
        !value.is_null() && understood.get(field.as_str()).is_none() && field.as_str() != TRAINED
    };
    let given = value.as_object().into_iter().flatten();
    let unknown = given.filter(is_unknown).map(|(field, _)| format!("`{field}`")).collect::<Vec<_>>();
    match unknown.is_empty() {
        true => Ok(scaling),
        false => Err(refuse(format!("without {}", unknown.join(", ")))),
    }
}

/// The field for the longest sequence of the training.
const TRAINED: &str = "original_max_position_embeddings";
