use std::ops::Range;

use burn::tensor::backend::Backend;

use super::{report::RowSample, rows::host};
use crate::{attention::AttentionInputs, mask::Kept};

/// What earlier maskers left of a row.
pub(crate) struct Residual<'a> {
    pub logits: &'a [f32],
    /// The largest visible logit, or that of the sink; exponentials are relative to it.
    pub maximum: f32,
    /// The keys that may be drawn.
    pub population: Vec<u32>,
    /// The keys kept already, each with the inverse of its probability.
    pub kept: Vec<(u32, f64)>,
    /// Sum of the exponentials of the kept keys, each divided by its probability, and of the sink.
    pub kept_sum: f64,
}

impl<'a> Residual<'a> {
    /// From the logits of a row (minus infinity where hidden), the weights of the mask so far, the keys that may be
    /// drawn at all, and the logit of the sink.
    pub fn of(logits: &'a [f32], weights: Option<&[f32]>, range: Range<usize>, sink: Option<f32>) -> Self {
        let maximum = logits.iter().copied().fold(sink.unwrap_or(f32::NEG_INFINITY), f32::max);
        let mut residual = Self {
            logits,
            maximum,
            population: Vec::with_capacity(range.len()),
            kept: Vec::new(),
            kept_sum: sink.map_or(0.0, |sink| f64::from(sink - maximum).exp()),
        };
        for key in (0..logits.len()).filter(|&key| logits[key] != f32::NEG_INFINITY) {
            let weight = weights.map_or(0.0, |weights| weights[key]);
            if weight > 0.0 {
                let times = 1.0 / f64::from(weight);
                residual.kept.push((key as u32, times));
                residual.kept_sum += residual.exponential(key as u32) * times;
            } else if range.contains(&key) {
                residual.population.push(key as u32);
            }
        }
        residual
    }

    /// The exponential of a key's logit, relative to the largest visible one.
    pub fn exponential(&self, key: u32) -> f64 {
        f64::from(self.logits[key as usize] - self.maximum).exp()
    }

    /// Mean and sample standard deviation of the exponentials of some keys, of which there are at least two.
    pub fn mean_and_deviation(&self, keys: &[u32]) -> (f64, f64) {
        let count = keys.len() as f64;
        let mean = keys.iter().map(|&key| self.exponential(key)).sum::<f64>() / count;
        let squares = keys.iter().map(|&key| (self.exponential(key) - mean).powi(2)).sum::<f64>();
        (mean, (squares / (count - 1.0)).sqrt())
    }
}

impl Residual<'_> {
    /// The whole population for certain: nothing is estimated.
    pub fn keep_all(&self) -> (Vec<Kept>, RowSample) {
        let population = self.population.len();
        let report = RowSample { population, drawn: population, standard_error: 0.0, half_width: 0.0 };
        (self.population.iter().copied().map(Kept::certainly).collect(), report)
    }
}

/// The logit of the sink of each row.
pub(crate) struct Sinks {
    logits: Option<Vec<f32>>,
    queries: usize,
}

impl Sinks {
    /// The sinks of the inputs, if there are any.
    pub fn of<B: Backend>(inputs: &AttentionInputs<B>) -> Self {
        let logits = inputs.sinks().map(|sinks| sinks.to_data().convert::<f32>().iter::<f32>().collect());
        Self { logits, queries: inputs.mask_shape().queries }
    }

    /// The sink of a row, counted over batch, heads and queries.
    pub fn row(&self, row: usize) -> Option<f32> {
        let logits = self.logits.as_ref()?;
        logits.get(row / self.queries % logits.len()).copied()
    }
}

/// The values of all heads on the host.
pub(crate) struct Values {
    values: Vec<f32>,
    width: usize,
    keys: usize,
    /// Rows of the mask for each key-value head.
    rows: usize,
}

impl Values {
    /// The values, or none if they are not `wanted`.
    pub fn of<B: Backend>(inputs: &AttentionInputs<B>, wanted: bool) -> Self {
        let [_, kv_heads, keys, width] = inputs.values().dims();
        let shape = inputs.mask_shape();
        let values = if wanted { host(inputs.values().clone()) } else { Vec::new() };
        Self { values, width, keys, rows: shape.heads / kv_heads * shape.queries }
    }

    /// The values of a row's key-value head.
    pub fn row(&self, row: usize) -> RowValues<'_> {
        let size = self.keys * self.width;
        let head = row / self.rows;
        RowValues { values: self.values.get(head * size..(head + 1) * size).unwrap_or(&[]), width: self.width }
    }
}

/// The values that a row averages.
pub(crate) struct RowValues<'a> {
    values: &'a [f32],
    width: usize,
}

impl RowValues<'_> {
    /// How many keys there are.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The value of a key.
    pub fn of(&self, key: u32) -> &[f32] {
        &self.values[key as usize * self.width..][..self.width]
    }

    /// Adds a multiple of a key's value.
    pub fn add_to(&self, sum: &mut [f64], key: u32, times: f64) {
        for (sum, &value) in sum.iter_mut().zip(self.of(key)) {
            *sum += times * f64::from(value);
        }
    }

    /// The kept keys' part of the numerator.
    pub fn kept_numerator(&self, residual: &Residual) -> Vec<f64> {
        let mut sum = vec![0.0; self.width];
        for &(key, times) in &residual.kept {
            self.add_to(&mut sum, key, residual.exponential(key) * times);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_residual_leaves_out_hidden_and_kept_keys() {
        let logits = [0.0, 1.0, f32::NEG_INFINITY, 1.0, 0.0];
        let residual = Residual::of(&logits, Some(&[0.5, 0.0, 1.0, 0.0, 0.0]), 1..4, None);
        assert_eq!(residual.population, [1, 3]);
        assert!((residual.kept_sum - 2.0 * (-1.0f64).exp()).abs() < 1e-12);
        assert_eq!(residual.mean_and_deviation(&[1, 3]), (1.0, 0.0));
    }

    #[test]
    fn a_sink_is_part_of_what_is_kept() {
        let logits = [0.0, 1.0];
        let residual = Residual::of(&logits, Some(&[1.0, 0.0]), 0..2, Some(3.0));
        assert!((residual.kept_sum - (1.0 + (-3.0f64).exp())).abs() < 1e-12);
        assert!((residual.exponential(1) - (-2.0f64).exp()).abs() < 1e-12);
    }
}
