use std::f64::consts::TAU;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::rope_parameters::RopeParameters;
use crate::config::ConfigError;

/// How rotary wavelengths are stretched. It has the names of HuggingFace's `rope_scaling` and can be read from it.
///
/// A table that also has a `rope_theta` or a `partial_rotary_factor` is read as [RopeParameters].
///
/// ```
/// use sparse_attention_hub::nn::RotaryScaling;
///
/// let text = r#"{"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
///                "original_max_position_embeddings": 8192}"#;
/// assert!(matches!(serde_json::from_str(text), Ok(RotaryScaling::Llama3 { factor: 32.0, .. })));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum RotaryScaling {
    /// Nothing is stretched.
    Default,
    /// Positions are divided by a factor ([position interpolation](https://arxiv.org/abs/2306.15595)).
    Linear {
        /// The factor, at least 1.
        factor: f64,
    },
    /// The base grows with the length of the sequence, once it is longer than the training sequences (*dynamic NTK*).
    ///
    /// Here and in [Self::LongRope] the rotation depends on the length of the sequence. Keys in a cache keep the
    /// rotation that they had when they were appended, as in HuggingFace. So the output with a cache differs from the
    /// output without a cache.
    Dynamic {
        /// How fast the base grows, at least 1.
        factor: f64,
        /// The length of the longest training sequence. Default: that of the
        /// [model](super::RotaryEncodingConfig::max_position_embeddings).
        #[serde(skip_serializing_if = "Option::is_none")]
        original_max_position_embeddings: Option<usize>,
    },
    /// Short wavelengths do not change. Long wavelengths are multiplied by a factor. Between them, the frequencies are
    /// interpolated ([Llama 3.1](https://arxiv.org/abs/2407.21783)).
    Llama3 {
        /// By how much the long wavelengths are stretched, at least 1.
        factor: f64,
        /// Wavelengths of more than `original_max_position_embeddings / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths of less than `original_max_position_embeddings / high_freq_factor` are short. It must be above
        /// `low_freq_factor`.
        high_freq_factor: f64,
        /// The length of the longest training sequence. Default: that of the model.
        #[serde(skip_serializing_if = "Option::is_none")]
        original_max_position_embeddings: Option<usize>,
    },
    /// As in [Self::Llama3], but the interpolation goes over the channels instead of their wavelengths, and queries and
    /// keys are multiplied by a length factor ([YaRN](https://arxiv.org/abs/2309.00071)).
    ///
    /// The length factor is `attention_factor`, if it is given. Otherwise, with `mscale` or `mscale_all_dim`, it is
    /// `0.1 mscale ln(factor) + 1` divided by `0.1 mscale_all_dim ln(factor) + 1`
    /// ([DeepSeek-V2](https://arxiv.org/abs/2405.04434)). Without any of them, it is `0.1 ln(factor) + 1`.
    Yarn {
        /// By how much the long wavelengths are stretched, at least 1.
        factor: f64,
        /// The length of the longest training sequence. Default: that of the model.
        #[serde(skip_serializing_if = "Option::is_none")]
        original_max_position_embeddings: Option<usize>,
        /// Channels that turn at least this many times over the longest training sequence do not change. Default: 32.
        beta_fast: f64,
        /// Channels that turn at most this many times are stretched by the full factor. It must be above 0 and below
        /// `beta_fast`. Default: 1.
        beta_slow: f64,
        /// The factor of cosines and sines, above 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f64>,
        /// The coefficient in the dividend of the length factor, at least 0. Default: 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        mscale: Option<f64>,
        /// The coefficient in the divisor of the length factor, at least 0. The model applies this part in the scale of
        /// its scores. Default: 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        mscale_all_dim: Option<f64>,
        /// Whether the interpolation begins and ends at a whole channel pair. Default: true.
        truncate: bool,
    },
    /// Each wavelength is multiplied by its own factor. There is one list of factors for sequences up to the training
    /// length, and another for longer sequences ([LongRoPE](https://arxiv.org/abs/2402.13753)).
    LongRope {
        /// The factors for short sequences, one for each pair of rotated channels.
        short_factor: Vec<f64>,
        /// The factors for long sequences.
        long_factor: Vec<f64>,
        /// The length of the longest sequence divided by that of the longest training sequence. Default: this ratio
        /// from the lengths of the model.
        #[serde(skip_serializing_if = "Option::is_none")]
        factor: Option<f64>,
        /// The length of the longest training sequence. Default: that of the model.
        #[serde(skip_serializing_if = "Option::is_none")]
        original_max_position_embeddings: Option<usize>,
        /// The factor of cosines and sines, above 0. Default: `sqrt(1 + ln(factor) / ln(original))`, or 1 if `factor`
        /// is not above 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f64>,
    },
}

impl<'de> Deserialize<'de> for RotaryScaling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RopeParameters { scaling, rope_theta, partial_rotary_factor } = RopeParameters::deserialize(deserializer)?;
        let elsewhere = [("rope_theta", rope_theta), ("partial_rotary_factor", partial_rotary_factor)];
        match elsewhere.iter().find(|(_, value)| value.is_some()) {
            None => Ok(scaling),
            Some((field, _)) => Err(D::Error::custom(format!(
                "`{field}` is no part of the scaling: read the table as `RopeParameters`, and give it to \
                 `RotaryEncodingConfig::with_rope_parameters`"
            ))),
        }
    }
}

/// The lengths in the configuration of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    /// The length of the longest sequence.
    pub model: Option<usize>,
    /// The length of the longest training sequence, if the configuration of the model has it.
    pub original: Option<usize>,
}

/// The frequencies of an encoding. They may depend on the length of the sequence.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stretched {
    theta: f64,
    /// How many channels are rotated.
    rotated: usize,
    /// Radians per position, for each pair of channels.
    frequencies: Vec<f64>,
    /// How the frequencies change in long sequences.
    long: Option<Long>,
    /// The factor of cosines and sines.
    pub length: f64,
}

#[derive(Debug, Clone, PartialEq)]
enum Long {
    /// In sequences longer than `original`, the base grows with the length.
    Growing { factor: f64, original: usize },
    /// Sequences longer than `original` have other frequencies.
    Other { frequencies: Vec<f64>, original: usize },
}

impl Stretched {
    /// The frequencies in a sequence of `length` positions.
    pub fn frequencies(&self, length: usize) -> Vec<f64> {
        match &self.long {
            Some(Long::Growing { factor, original }) if length > *original && self.rotated > 2 => {
                let growth = factor * length as f64 / *original as f64 - (factor - 1.0);
                let power = self.rotated as f64 / (self.rotated - 2) as f64;
                plain(self.theta * growth.powf(power), self.rotated)
            }
            Some(Long::Other { frequencies, original }) if length > *original => frequencies.clone(),
            _ => self.frequencies.clone(),
        }
    }
}

/// `theta^(-2 i / rotated)` for each pair of channels.
fn plain(theta: f64, rotated: usize) -> Vec<f64> {
    (0..rotated / 2).map(|pair| theta.powf(-((2 * pair) as f64) / rotated as f64)).collect()
}

impl RotaryScaling {
    /// The frequencies of heads with `rotated` rotated channels.
    ///
    /// # Errors
    /// If a value is not allowed or missing.
    pub(super) fn stretch(&self, theta: f64, rotated: usize, lengths: Lengths) -> Result<Stretched, ConfigError> {
        self.validate()?;
        let mut frequencies = plain(theta, rotated);
        let (mut long, mut length) = (None, 1.0);
        match self {
            Self::Default => {}
            Self::Linear { factor } => frequencies.iter_mut().for_each(|frequency| *frequency /= factor),
            Self::Dynamic { factor, original_max_position_embeddings } => {
                let original = lengths.original(*original_max_position_embeddings)?;
                long = Some(Long::Growing { factor: *factor, original });
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = lengths.original(*original_max_position_embeddings)?;
                for frequency in &mut frequencies {
                    let turns = original as f64 * *frequency / TAU;
                    let share = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    *frequency = mix(*frequency / factor, *frequency, share);
                }
            }
            Self::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } => {
                let original = lengths.original(*original_max_position_embeddings)? as f64;
                let ramp = Ramp::of(theta, rotated, original, [*beta_fast, *beta_slow], *truncate);
                for (pair, frequency) in frequencies.iter_mut().enumerate() {
                    *frequency = mix(*frequency / factor, *frequency, ramp.share_of_plain(pair));
                }
                length = self.yarn_length()?;
            }
            Self::LongRope {
                short_factor,
                long_factor,
                factor,
                original_max_position_embeddings,
                attention_factor,
            } => {
                let original = lengths.original(*original_max_position_embeddings)?;
                let stretched = |field: &'static str, factors: &[f64]| match factors.len() == frequencies.len() {
                    true => Ok(frequencies.iter().zip(factors).map(|(frequency, factor)| frequency / factor).collect()),
                    false => {
                        let value = format!("a list of {} factors for {rotated} channels", factors.len());
                        Err(ConfigError::value(field, value, "a list of one factor for two rotated channels"))
                    }
                };
                let others = stretched("long_factor", long_factor)?;
                frequencies = stretched("short_factor", short_factor)?;
                long = Some(Long::Other { frequencies: others, original });
                let factor = factor.unwrap_or_else(|| lengths.model.unwrap_or(original) as f64 / original as f64);
                let by_length = || if factor > 1.0 { (1.0 + factor.ln() / (original as f64).ln()).sqrt() } else { 1.0 };
                length = attention_factor.unwrap_or_else(by_length);
                if !length.is_finite() {
                    let allowed = "at least 2, whose logarithm is a divisor";
                    return Err(ConfigError::value("original_max_position_embeddings", original, allowed));
                }
            }
        }
        Ok(Stretched { theta, rotated, frequencies, long, length })
    }

    /// The factor of cosines and sines in YaRN.
    fn yarn_length(&self) -> Result<f64, ConfigError> {
        let Self::Yarn { factor, attention_factor, mscale, mscale_all_dim, .. } = self else { return Ok(1.0) };
        let scale = |mscale: f64| 0.1 * mscale * factor.ln() + 1.0;
        let ratio = (mscale.is_some() || mscale_all_dim.is_some())
            .then(|| scale(mscale.unwrap_or(1.0)) / scale(mscale_all_dim.unwrap_or(0.0)));
        match (*attention_factor, ratio) {
            (Some(length), Some(ratio)) if (length / ratio - 1.0).abs() > 1e-6 => {
                let value = format!("{length}, and {ratio} by `mscale` and `mscale_all_dim`");
                Err(ConfigError::value("attention_factor", value, "the same where both are given"))
            }
            (length, ratio) => Ok(length.or(ratio).unwrap_or_else(|| scale(1.0))),
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        // Cosines and sines are multiplied in f32.
        let above_zero = |value: f64| value as f32 > 0.0 && (value as f32).is_finite();
        let check = |field, value: f64, holds: bool, allowed| match holds {
            true => Ok(()),
            false => Err(ConfigError::value(field, value, allowed)),
        };
        let check_factor =
            |factor: f64| check("factor", factor, factor >= 1.0 && factor.is_finite(), "a finite number of at least 1");
        let check_attention_factor = |factor: Option<f64>| match factor {
            Some(factor) => check("attention_factor", factor, above_zero(factor), "a finite number above 0 in f32"),
            None => Ok(()),
        };
        match self {
            Self::Default => Ok(()),
            Self::Linear { factor } | Self::Dynamic { factor, .. } => check_factor(*factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => {
                check_factor(*factor)?;
                let (low, high) = (*low_freq_factor, *high_freq_factor);
                check("low_freq_factor", low, above_zero(low), "a finite number above 0 in f32")?;
                let holds = high > low && high.is_finite();
                check("high_freq_factor", high, holds, "a finite number above `low_freq_factor`")
            }
            Self::Yarn { factor, beta_fast, beta_slow, attention_factor, mscale, mscale_all_dim, .. } => {
                check_factor(*factor)?;
                check("beta_slow", *beta_slow, above_zero(*beta_slow), "a finite number above 0 in f32")?;
                let holds = beta_fast > beta_slow && beta_fast.is_finite();
                check("beta_fast", *beta_fast, holds, "a finite number above `beta_slow`")?;
                for (field, scale) in [("mscale", *mscale), ("mscale_all_dim", *mscale_all_dim)] {
                    let scale = scale.unwrap_or(0.0);
                    check(field, scale, (0.0..=LARGEST_MSCALE).contains(&scale), "in 0..=1000000")?;
                }
                check_attention_factor(*attention_factor)
            }
            Self::LongRope { short_factor, long_factor, factor, attention_factor, .. } => {
                for (field, factors) in [("short_factor", short_factor), ("long_factor", long_factor)] {
                    factors
                        .iter()
                        .try_for_each(|&factor| check(field, factor, above_zero(factor), "finite numbers above 0"))?;
                }
                factor.map_or(Ok(()), check_factor)?;
                check_attention_factor(*attention_factor)
            }
        }
    }
}

/// The largest `mscale` and `mscale_all_dim`. Models have values of about 1. The product with the logarithm of a factor
/// must be finite in f32.
const LARGEST_MSCALE: f64 = 1e6;

impl Lengths {
    /// The length of the longest training sequence: from the table, from the configuration of the model, or the longest
    /// sequence of the model.
    fn original(&self, in_table: Option<usize>) -> Result<usize, ConfigError> {
        const FIELD: &str = "original_max_position_embeddings";
        match (in_table, self.original, self.model) {
            (Some(table), Some(model), _) if table != model => {
                let value = format!("{table} in the scaling and {model} in the model");
                Err(ConfigError::value(FIELD, value, "the same where both say it"))
            }
            (Some(0), ..) | (None, Some(0), _) => Err(ConfigError::value(FIELD, 0, "at least 1")),
            (Some(original), ..) | (None, Some(original), _) => Ok(original),
            (None, None, Some(0)) => Err(ConfigError::value("max_position_embeddings", 0, "at least 1")),
            (None, None, Some(model)) => Ok(model),
            (None, None, None) => {
                let allowed = "given, in the scaling or as `max_position_embeddings` of the model";
                Err(ConfigError::value(FIELD, "missing", allowed))
            }
        }
    }
}

/// The pairs of channels between which YaRN goes from the plain frequencies to the stretched ones.
struct Ramp {
    first: f64,
    end: f64,
}

impl Ramp {
    fn of(theta: f64, rotated: usize, original: f64, [fast, slow]: [f64; 2], truncate: bool) -> Self {
        // The index of the pair of channels that turns `turns` times over the longest training sequence.
        let pair = |turns: f64| rotated as f64 * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (first, end) = (pair(fast), pair(slow));
        let (first, end) = if truncate { (first.floor(), end.ceil()) } else { (first, end) };
        let (first, end) = (first.max(0.0), end.min((rotated - 1) as f64));
        // If both ends are equal, the ramp is a step. The small width prevents a division by 0.
        Self { first, end: if first == end { end + 1e-3 } else { end } }
    }

    fn share_of_plain(&self, pair: usize) -> f64 {
        1.0 - (pair as f64 - self.first) / (self.end - self.first)
    }
}

/// Interpolates between two frequencies. `share` is the weight of `plain` and is clamped to `0..=1`.
fn mix(stretched: f64, plain: f64, share: f64) -> f64 {
    let share = share.clamp(0.0, 1.0);
    (1.0 - share) * stretched + share * plain
}
