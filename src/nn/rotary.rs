use std::ops::Range;

use burn::{
    config::Config,
    tensor::{DType, Tensor, TensorData, backend::Backend},
};

use super::{
    RopeParameters, RotaryScaling,
    rotary_scaling::{Lengths, Stretched},
};
use crate::{
    config::ConfigError,
    kernels::reference::scores::{accumulation_dtype, cast},
};

/// Configuration of a [RotaryEncoding].
#[derive(Config, Debug, PartialEq)]
pub struct RotaryEncodingConfig {
    /// The base of the wavelengths, above 1. Default: 10000.
    #[config(default = 10_000.0)]
    pub theta: f64,
    /// The share of the channels of a head that is rotated, in (0, 1]. The first channels are rotated. Default: 1, all
    /// channels.
    #[config(default = 1.0)]
    pub partial_factor: f64,
    /// How the wavelengths are stretched for sequences that are longer than the training sequences. Default: they are
    /// not stretched.
    pub scaling: Option<RotaryScaling>,
    /// The length of the longest sequence of the model. Scalings without a length use it. Default: not known.
    pub max_position_embeddings: Option<usize>,
    /// The length of the longest training sequence, if the configuration of the model has it outside of the scaling
    /// (Phi-3). Default: not known.
    pub original_max_position_embeddings: Option<usize>,
}

/// Rotary position encoding ([RoFormer](https://arxiv.org/abs/2104.09864)) in the convention of HuggingFace's models:
/// channel `i` of the first half is rotated together with channel `i` of the second half. (burn's
/// [RotaryEncoding](burn::nn::RotaryEncoding) rotates neighbours.)
///
/// Sequences may have any length: the angles are computed for the positions of each call. They are computed in f32 as
/// in HuggingFace, and half-precision heads are rotated in f32.
///
/// Should be created with [RotaryEncodingConfig].
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryEncoding {
    /// How many channels are rotated, an even number.
    rotated: usize,
    stretched: Stretched,
}

impl RotaryEncodingConfig {
    /// The same configuration with the rotary parameters of a model.
    ///
    /// # Errors
    /// If the parameters and this configuration differ in the base or in the share of rotated channels, and the value
    /// of the configuration is not the default.
    pub fn with_rope_parameters(self, parameters: RopeParameters) -> Result<Self, ConfigError> {
        let RopeParameters { scaling, rope_theta, partial_rotary_factor } = parameters;
        let default = Self::new();
        let one_of = |field, here: f64, default: f64, in_table: Option<f64>| match in_table {
            Some(table) if here != default && here != table => {
                let value = format!("{here} in the configuration and {table} in the table");
                Err(ConfigError::value(field, value, "the same where both say it"))
            }
            table => Ok(table.unwrap_or(here)),
        };
        Ok(Self {
            theta: one_of("rope_theta", self.theta, default.theta, rope_theta)?,
            partial_factor: one_of(
                "partial_rotary_factor",
                self.partial_factor,
                default.partial_factor,
                partial_rotary_factor,
            )?,
            scaling: Some(scaling),
            ..self
        })
    }

    /// The encoding for heads with `head_dim` channels.
    ///
    /// # Errors
    /// If the number of rotated channels is 0 or odd, or a value is not allowed or missing.
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
        // A share such as 0.3 is not exact in f64. The small term prevents that the product is rounded down by one
        // channel.
        let rotated = (head_dim as f64 * self.partial_factor + 1e-6) as usize;
        if rotated == 0 || !rotated.is_multiple_of(2) {
            let allowed = "even and at least 2, after the multiplication with `partial_factor`";
            return Err(ConfigError::value("head_dim", head_dim, allowed));
        }
        let lengths = Lengths { model: self.max_position_embeddings, original: self.original_max_position_embeddings };
        let scaling = self.scaling.as_ref().unwrap_or(&RotaryScaling::Default);
        Ok(RotaryEncoding { rotated, stretched: scaling.stretch(self.theta, rotated, lengths)? })
    }
}

impl RotaryEncoding {
    /// Rotates queries or keys. The first one stands at `position`, and the others follow it.
    ///
    /// # Shapes
    /// - heads: `[batch, heads, length, head_dim]`, with the head dimension of the configuration
    /// - output: the same
    pub fn forward<B: Backend>(&self, heads: Tensor<B, 4>, position: usize) -> Tensor<B, 4> {
        let positions = (0..heads.dims()[2]).map(|at| position.saturating_add(at)).collect();
        let angles = self.angles(&[positions], heads.dtype(), &heads.device());
        self.rotate(heads, &angles)
    }

    /// The cosines and sines of `positions`, for queries and keys of type `dtype`. There is one list of positions for
    /// each sequence, or one list for all sequences.
    pub(super) fn angles<B: Backend>(&self, positions: &[Vec<usize>], dtype: DType, device: &B::Device) -> Angles<B> {
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        for positions in positions {
            let length = positions.iter().max().map_or(0, |last| last.saturating_add(1));
            let frequencies = self.stretched.frequencies(length);
            for &position in positions {
                for &frequency in &frequencies {
                    // The product is rounded to f32, as in the training of these models.
                    let angle = f64::from(position as f32 * frequency as f32);
                    cosines.push(angle.cos() * self.stretched.length);
                    sines.push(angle.sin() * self.stretched.length);
                }
            }
        }
        let dims = [positions.len(), 1, positions.first().map_or(0, Vec::len), self.rotated / 2];
        let tensor =
            |numbers: Vec<f64>| Tensor::from_data(TensorData::new(numbers, dims), (device, accumulation_dtype(dtype)));
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
}

/// Cosines and sines, `[batch or 1, 1, length, pairs]`.
pub(super) struct Angles<B: Backend> {
    cosines: Tensor<B, 4>,
    sines: Tensor<B, 4>,
}
