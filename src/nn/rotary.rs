use std::{f64::consts::TAU, ops::Range};

use burn::{
    config::Config,
    tensor::{DType, Tensor, TensorData, backend::Backend},
};
use serde::{Deserialize, Serialize};

use crate::{
    attention::scores::{accumulation_dtype, cast},
    masker::ConfigError,
};

/// Configuration of a [RotaryEncoding].
#[derive(Config, Debug, PartialEq)]
pub struct RotaryEncodingConfig {
    /// The base of the wavelengths, above 1. Default: 10000.
    #[config(default = 10_000.0)]
    pub theta: f64,
    /// Which share of the channels of a head is rotated, the first ones, in (0, 1]. Default: 1, all.
    #[config(default = 1.0)]
    pub partial_factor: f64,
    /// How the wavelengths are stretched for sequences that are longer than those of the training. Default: not.
    pub scaling: Option<RotaryScaling>,
}

/// How rotary wavelengths are stretched, with the names of HuggingFace's `rope_scaling`, in which it can be read.
///
/// ```
/// use sparse_attention_hub::nn::RotaryScaling;
///
/// let text = r#"{"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
///                "original_max_position_embeddings": 8192}"#;
/// assert!(matches!(serde_json::from_str(text), Ok(RotaryScaling::Llama3 { factor: 32.0, .. })));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum RotaryScaling {
    /// Positions are divided by the factor ([position interpolation](https://arxiv.org/abs/2306.15595)).
    Linear {
        /// By how much, at least 1.
        factor: f64,
    },
    /// The base grows with the sequence once it is longer than those of the training (*dynamic NTK*).
    ///
    /// It is the only variant in which the rotation depends on how long the sequence is: keys in a cache keep the
    /// rotation with which they came, as in HuggingFace, and so a cached run is not the same as one without a cache.
    Dynamic {
        /// How fast it grows, at least 1.
        factor: f64,
        /// The longest sequence of the training.
        original_max_position_embeddings: usize,
    },
    /// Short wavelengths stay, long ones are multiplied with the factor, with a ramp between them
    /// ([Llama 3.1](https://arxiv.org/abs/2407.21783)).
    Llama3 {
        /// By how much the long wavelengths are stretched, at least 1.
        factor: f64,
        /// Wavelengths of more than `original_max_position_embeddings / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths of less than `original_max_position_embeddings / high_freq_factor` are short; above
        /// `low_freq_factor`.
        high_freq_factor: f64,
        /// The longest sequence of the training.
        original_max_position_embeddings: usize,
    },
    /// As in [Self::Llama3], with the ramp over the channels instead of their wavelengths, and with queries and keys
    /// lengthened ([YaRN](https://arxiv.org/abs/2309.00071)).
    Yarn {
        /// By how much the long wavelengths are stretched, at least 1.
        factor: f64,
        /// The longest sequence of the training.
        original_max_position_embeddings: usize,
        /// Channels that turn at least so often over the training's longest sequence stay. Default: 32.
        #[serde(default = "thirty_two")]
        beta_fast: f64,
        /// Channels that turn at most so often are stretched in full, above 0 and below `beta_fast`. Default: 1.
        #[serde(default = "one")]
        beta_slow: f64,
        /// What cosines and sines are multiplied with, above 0. Default: `0.1 ln(factor) + 1`.
        #[serde(default)]
        attention_factor: Option<f64>,
        /// Whether the ramp begins and ends at whole channels. Default: true.
        #[serde(default = "yes")]
        truncate: bool,
    },
}

fn thirty_two() -> f64 {
    32.0
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

/// Rotary position encoding ([RoFormer](https://arxiv.org/abs/2104.09864)) in the convention of HuggingFace's models:
/// channel `i` of the first half is rotated together with channel `i` of the second half. (burn's
/// [RotaryEncoding](burn::nn::RotaryEncoding) rotates neighbours.)
///
/// Sequences may be of any length: the angles are those of the positions asked for. They are computed in f32 as in
/// HuggingFace, and half-precision heads are rotated in f32.
///
/// Should be created with [RotaryEncodingConfig].
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryEncoding {
    config: RotaryEncodingConfig,
    /// How many channels are rotated, an even number.
    rotated: usize,
    /// Radians a position, for each pair of channels, in a sequence that is not longer than those of the training.
    frequencies: Vec<f64>,
    /// What cosines and sines are multiplied with.
    length: f64,
}

impl RotaryEncodingConfig {
    /// The encoding of heads of a width.
    ///
    /// # Errors
    /// If the width to rotate is 0 or odd, or a value makes no sense.
    pub fn init(&self, head_dim: usize) -> Result<RotaryEncoding, ConfigError> {
        if !(self.theta > 1.0 && self.theta.is_finite()) {
            return Err(ConfigError::value("theta", self.theta, "a finite number above 1"));
        }
        if !(self.partial_factor > 0.0 && self.partial_factor <= 1.0) {
            return Err(ConfigError::value(
                "partial_factor",
                self.partial_factor,
                "a share of the channels, in (0, 1]",
            ));
        }
        // A share such as 0.3 is not exact; a whole number of channels is meant.
        let rotated = (head_dim as f64 * self.partial_factor + 1e-6) as usize;
        if rotated == 0 || !rotated.is_multiple_of(2) {
            let allowed = "even and at least 2, after the multiplication with `partial_factor`";
            return Err(ConfigError::value("head_dim", head_dim, allowed));
        }
        if let Some(scaling) = &self.scaling {
            scaling.validate()?;
        }
        let plain = frequencies(self.theta, rotated);
        let (frequencies, length) = match &self.scaling {
            Some(scaling) => (scaling.stretch(plain, self.theta, rotated), scaling.length()),
            None => (plain, 1.0),
        };
        Ok(RotaryEncoding { config: self.clone(), rotated, frequencies, length })
    }
}

/// `theta^(-2 i / rotated)` for each pair of channels.
fn frequencies(theta: f64, rotated: usize) -> Vec<f64> {
    (0..rotated / 2).map(|pair| theta.powf(-((2 * pair) as f64) / rotated as f64)).collect()
}

impl RotaryScaling {
    fn validate(&self) -> Result<(), ConfigError> {
        let (Self::Linear { factor }
        | Self::Dynamic { factor, .. }
        | Self::Llama3 { factor, .. }
        | Self::Yarn { factor, .. }) = self;
        if !(*factor >= 1.0 && factor.is_finite()) {
            return Err(ConfigError::value("factor", factor, "a finite number of at least 1"));
        }
        match *self {
            Self::Dynamic { original_max_position_embeddings: 0, .. }
            | Self::Llama3 { original_max_position_embeddings: 0, .. }
            | Self::Yarn { original_max_position_embeddings: 0, .. } => {
                Err(ConfigError::value("original_max_position_embeddings", 0, "at least 1"))
            }
            Self::Llama3 { low_freq_factor, .. } if !above_zero(low_freq_factor) => {
                Err(ConfigError::value("low_freq_factor", low_freq_factor, "a finite number above 0"))
            }
            Self::Llama3 { low_freq_factor, high_freq_factor, .. }
                if !(high_freq_factor > low_freq_factor && high_freq_factor.is_finite()) =>
            {
                Err(ConfigError::value("high_freq_factor", high_freq_factor, "a finite number above `low_freq_factor`"))
            }
            Self::Yarn { beta_slow, .. } if !above_zero(beta_slow) => {
                Err(ConfigError::value("beta_slow", beta_slow, "a finite number above 0"))
            }
            Self::Yarn { beta_fast, beta_slow, .. } if !(beta_fast > beta_slow && beta_fast.is_finite()) => {
                Err(ConfigError::value("beta_fast", beta_fast, "a finite number above `beta_slow`"))
            }
            Self::Yarn { attention_factor: Some(factor), .. } if !above_zero(factor) => {
                Err(ConfigError::value("attention_factor", factor, "a finite number above 0"))
            }
            _ => Ok(()),
        }
    }

    /// What cosines and sines are multiplied with.
    fn length(&self) -> f64 {
        match self {
            Self::Yarn { factor, attention_factor, .. } => attention_factor.unwrap_or(0.1 * factor.ln() + 1.0),
            _ => 1.0,
        }
    }

    /// The frequencies for any sequence, or for one that is no longer than those of the training.
    fn stretch(&self, mut plain: Vec<f64>, theta: f64, rotated: usize) -> Vec<f64> {
        match *self {
            Self::Linear { factor } => plain.iter_mut().for_each(|frequency| *frequency /= factor),
            Self::Dynamic { .. } => {}
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                for frequency in &mut plain {
                    let turns = original_max_position_embeddings as f64 * *frequency / TAU;
                    let share = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    *frequency = mix(*frequency / factor, *frequency, share);
                }
            }
            Self::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } => {
                let (pairs, last) = (plain.len(), (rotated - 1) as f64);
                // The pair of channels that turns so often over the training's longest sequence.
                let pair = |turns: f64| {
                    let wavelength = original_max_position_embeddings as f64 / (turns * TAU);
                    rotated as f64 * wavelength.ln() / (2.0 * theta.ln())
                };
                let (first, end) = (pair(beta_fast), pair(beta_slow));
                let (first, end) = if truncate { (first.floor(), end.ceil()) } else { (first, end) };
                let (first, end) = (first.max(0.0), end.min(last));
                // No ramp is a step.
                let end = if first == end { end + 1e-3 } else { end };
                for (frequency, pair) in plain.iter_mut().zip(0..pairs) {
                    let share = 1.0 - (pair as f64 - first) / (end - first);
                    *frequency = mix(*frequency / factor, *frequency, share);
                }
            }
        }
        plain
    }
}

fn above_zero(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

/// Between two frequencies, with a share of the second that is cut to [0, 1].
fn mix(stretched: f64, plain: f64, share: f64) -> f64 {
    let share = share.clamp(0.0, 1.0);
    (1.0 - share) * stretched + share * plain
}

impl RotaryEncoding {
    /// Rotates queries or keys of which the first stands at a position.
    ///
    /// # Shapes
    /// - heads: `[batch, heads, length, head_dim]`, with the head dimension of the configuration
    /// - output: the same
    pub fn forward<B: Backend>(&self, heads: Tensor<B, 4>, position: usize) -> Tensor<B, 4> {
        let angles = self.angles(position, heads.dims()[2], heads.dtype(), &heads.device());
        self.rotate(heads, &angles)
    }

    /// The cosines and sines of some positions, for queries and keys of a type alike.
    pub(super) fn angles<B: Backend>(
        &self,
        position: usize,
        length: usize,
        dtype: DType,
        device: &B::Device,
    ) -> Angles<B> {
        let frequencies = self.frequencies_at(position + length);
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        for position in position..position + length {
            for &frequency in &frequencies {
                // The product is rounded to f32, as it is where models of this kind are trained.
                let angle = f64::from(position as f32 * frequency as f32);
                cosines.push(angle.cos() * self.length);
                sines.push(angle.sin() * self.length);
            }
        }
        let tensor = |numbers: Vec<f64>| {
            let data = TensorData::new(numbers, [1, 1, length, self.rotated / 2]);
            Tensor::from_data(data, (device, accumulation_dtype(dtype)))
        };
        Angles { cosines: tensor(cosines), sines: tensor(sines) }
    }

    pub(super) fn rotate<B: Backend>(&self, heads: Tensor<B, 4>, angles: &Angles<B>) -> Tensor<B, 4> {
        let ([.., width], dtype, half) = (heads.dims(), heads.dtype(), self.rotated / 2);
        let part = |channels: Range<usize>| heads.clone().slice_dim(3, channels);
        let wide = |part| cast(part, accumulation_dtype(dtype));
        let (first, second) = (wide(part(0..half)), wide(part(half..self.rotated)));
        let Angles { cosines, sines } = angles;
        let rotated = [
            first.clone() * cosines.clone() - second.clone() * sines.clone(),
            second * cosines.clone() + first * sines.clone(),
        ];
        let mut parts = rotated.map(|part| cast(part, dtype)).to_vec();
        if self.rotated < width {
            parts.push(part(self.rotated..width));
        }
        Tensor::cat(parts, 3)
    }

    /// The frequencies in a sequence of a length.
    fn frequencies_at(&self, length: usize) -> Vec<f64> {
        match self.config.scaling {
            Some(RotaryScaling::Dynamic { factor, original_max_position_embeddings })
                if length > original_max_position_embeddings && self.rotated > 2 =>
            {
                let growth = factor * length as f64 / original_max_position_embeddings as f64 - (factor - 1.0);
                let power = self.rotated as f64 / (self.rotated - 2) as f64;
                frequencies(self.config.theta * growth.powf(power), self.rotated)
            }
            _ => self.frequencies.clone(),
        }
    }
}

/// Cosines and sines, `[1, 1, length, pairs]`.
pub(super) struct Angles<B: Backend> {
    cosines: Tensor<B, 4>,
    sines: Tensor<B, 4>,
}
