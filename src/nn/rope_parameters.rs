use serde::{Deserialize, Deserializer, de::Error as _};

use super::RotaryScaling;
use crate::config::ConfigError;

/// The content of `rope_parameters`, or of the older `rope_scaling`, in the configuration of a HuggingFace model.
///
/// The kind of the scaling is `rope_type`, or the older `type`. It is an error if both are given and differ. A field
/// that is unknown to the kind is an error too. Lengths may be written as whole numbers or as floats (`32768.0`).
///
/// ```
/// use sparse_attention_hub::nn::{RopeParameters, RotaryEncodingConfig};
///
/// let table = r#"{"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0}"#;
/// let config = RotaryEncodingConfig::new().with_rope_parameters(RopeParameters::from_json(table)?)?;
/// assert_eq!(config.theta, 500_000.0);
/// # Ok::<(), sparse_attention_hub::masker::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RopeParameters {
    /// How wavelengths are stretched.
    pub scaling: RotaryScaling,
    /// The base of the wavelengths, if the table has it.
    pub rope_theta: Option<f64>,
    /// The share of the channels that is rotated, if the table has it.
    pub partial_rotary_factor: Option<f64>,
}

impl RopeParameters {
    /// The parameters from JSON text.
    ///
    /// # Errors
    /// If the text is not JSON, a field is missing, unknown or of the wrong type, or `rope_type` and `type` differ. The
    /// error names the field.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let error =
            |field: String, reason: String| ConfigError::Field { part: "rope_parameters".to_owned(), field, reason };
        let parameters = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|problem| error(problem.path().to_string(), problem.inner().to_string()))?;
        deserializer.end().map_err(|problem| error(".".to_owned(), problem.to_string()))?;
        Ok(parameters)
    }
}

/// The fields of all kinds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    older_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    original_max_position_embeddings: Option<Length>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    attention_factor: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    short_factor: Option<Vec<f64>>,
    long_factor: Option<Vec<f64>>,
}

/// A whole number that may be written as a float.
struct Length(usize);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        match number >= 1.0 && number.fract() == 0.0 && number <= LONGEST {
            true => Ok(Self(number as usize)),
            false => Err(D::Error::custom(format!("a length is {number}, but must be a whole number of at least 1"))),
        }
    }
}

/// The number up to which f64 represents all whole numbers.
const LONGEST: f64 = (1u64 << f64::MANTISSA_DIGITS) as f64;

const KINDS: &str = "default, linear, dynamic, llama3, yarn, longrope";

impl Table {
    fn kind(&self) -> Result<&str, String> {
        match (self.rope_type.as_deref(), self.older_type.as_deref()) {
            (Some(newer), Some(older)) if normal(newer) != normal(older) => {
                Err(format!("`rope_type` is \"{newer}\" and `type` is \"{older}\", but both must be the same"))
            }
            (Some(kind), _) | (None, Some(kind)) => Ok(normal(kind)),
            (None, None) => Err(format!("`rope_type` is missing; known are {KINDS}")),
        }
    }

    /// The names of the given fields that belong to a kind.
    fn fields(&self) -> impl Iterator<Item = &'static str> {
        let fields = [
            ("factor", self.factor.is_some()),
            ("original_max_position_embeddings", self.original_max_position_embeddings.is_some()),
            ("low_freq_factor", self.low_freq_factor.is_some()),
            ("high_freq_factor", self.high_freq_factor.is_some()),
            ("beta_fast", self.beta_fast.is_some()),
            ("beta_slow", self.beta_slow.is_some()),
            ("attention_factor", self.attention_factor.is_some()),
            ("mscale", self.mscale.is_some()),
            ("mscale_all_dim", self.mscale_all_dim.is_some()),
            ("truncate", self.truncate.is_some()),
            ("short_factor", self.short_factor.is_some()),
            ("long_factor", self.long_factor.is_some()),
        ];
        fields.into_iter().filter(|(_, is_there)| *is_there).map(|(field, _)| field)
    }

    fn into_scaling(self) -> Result<RotaryScaling, String> {
        let kind = self.kind()?.to_owned();
        let known: &[&str] = match kind.as_str() {
            "default" => &[],
            "linear" => &["factor"],
            "dynamic" => &["factor", "original_max_position_embeddings"],
            "llama3" => &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
            "yarn" => &[
                "factor",
                "original_max_position_embeddings",
                "beta_fast",
                "beta_slow",
                "attention_factor",
                "mscale",
                "mscale_all_dim",
                "truncate",
            ],
            "longrope" => {
                &["short_factor", "long_factor", "factor", "original_max_position_embeddings", "attention_factor"]
            }
            other => return Err(format!("there is no `rope_type` \"{other}\"; known are {KINDS}")),
        };
        if let Some(unknown) = self.fields().find(|field| !known.contains(field)) {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!("`{unknown}` is unknown to the `rope_type` \"{kind}\"; known are {known}"));
        }
        let missing = |field: &str| format!("`{field}` is missing, which the `rope_type` \"{kind}\" needs");
        let number = |field: &str, number: Option<f64>| number.ok_or_else(|| missing(field));
        let original_max_position_embeddings = self.original_max_position_embeddings.map(|Length(length)| length);
        Ok(match kind.as_str() {
            "linear" => RotaryScaling::Linear { factor: number("factor", self.factor)? },
            "dynamic" => {
                RotaryScaling::Dynamic { factor: number("factor", self.factor)?, original_max_position_embeddings }
            }
            "llama3" => RotaryScaling::Llama3 {
                factor: number("factor", self.factor)?,
                low_freq_factor: number("low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: number("high_freq_factor", self.high_freq_factor)?,
                original_max_position_embeddings,
            },
            "yarn" => RotaryScaling::Yarn {
                factor: number("factor", self.factor)?,
                original_max_position_embeddings,
                beta_fast: self.beta_fast.unwrap_or(32.0),
                beta_slow: self.beta_slow.unwrap_or(1.0),
                attention_factor: self.attention_factor,
                mscale: self.mscale,
                mscale_all_dim: self.mscale_all_dim,
                truncate: self.truncate.unwrap_or(true),
            },
            "longrope" => RotaryScaling::LongRope {
                short_factor: self.short_factor.ok_or_else(|| missing("short_factor"))?,
                long_factor: self.long_factor.ok_or_else(|| missing("long_factor"))?,
                factor: self.factor,
                original_max_position_embeddings,
                attention_factor: self.attention_factor,
            },
            _ => RotaryScaling::Default,
        })
    }
}

/// Replaces the older name of a kind. Phi-3 was published with `su` for `longrope`.
fn normal(kind: &str) -> &str {
    if kind == "su" { "longrope" } else { kind }
}

impl<'de> Deserialize<'de> for RopeParameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Table::deserialize(deserializer)?;
        let (rope_theta, partial_rotary_factor) = (table.rope_theta, table.partial_rotary_factor);
        Ok(Self { scaling: table.into_scaling().map_err(D::Error::custom)?, rope_theta, partial_rotary_factor })
    }
}
