//! The rotary positions of a configuration file, in the two formats that HuggingFace has used.

use super::{ModelError, fields::Fields};
use crate::nn::{RopeParameters, RotaryEncodingConfig};

/// Takes `rope_parameters` (transformers 5), or `rope_theta`, `rope_scaling` and `partial_rotary_factor` (earlier
/// versions). `default_theta` is used if neither gives a theta. `max_positions` is used if a scaling does not give the
/// original sequence length of the training.
pub(super) fn rotary(
    fields: &mut Fields,
    default_theta: f64,
    max_positions: usize,
) -> Result<RotaryEncodingConfig, ModelError> {
    let outer_theta = fields.positive("rope_theta")?;
    let outer_share = fields.positive("partial_rotary_factor")?;
    let (newer, older) = (fields.object("rope_parameters")?, fields.object("rope_scaling")?);
    let config = RotaryEncodingConfig::new().with_max_position_embeddings(Some(max_positions));
    let Some(parameters) = newer.or(older) else {
        let config = config.with_theta(outer_theta.unwrap_or(default_theta));
        return Ok(config.with_partial_factor(outer_share.unwrap_or(1.0)));
    };
    let value = parameters.to_value();
    let table = RopeParameters::from_json(&value.to_string()).map_err(|error| {
        parameters.error("rope_type", &value, format!("a scaling of rotary positions that is supported ({error})"))
    })?;
    let theta = table.rope_theta.or(outer_theta).unwrap_or(default_theta);
    let share = table.partial_rotary_factor.or(outer_share).unwrap_or(1.0);
    Ok(config.with_theta(theta).with_partial_factor(share).with_scaling(Some(table.scaling)))
}
