use std::ops::Range;

/// What earlier maskers left of a row.
pub(crate) struct Residual<'a> {
    pub logits: &'a [f32],
    /// The largest visible logit; exponentials are relative to it.
    pub maximum: f32,
    /// The keys that may be drawn.
    pub population: Vec<u32>,
    /// Sum of the exponentials of the kept keys, each divided by its probability.
    pub kept_sum: f64,
}

impl<'a> Residual<'a> {
    /// From the logits of a row (minus infinity where hidden), the weights of the mask so far, and the keys that may be
    /// drawn at all.
    pub fn of(logits: &'a [f32], weights: Option<&[f32]>, range: Range<usize>) -> Self {
        let mut residual = Self {
            logits,
            maximum: logits.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            population: Vec::with_capacity(range.len()),
            kept_sum: 0.0,
        };
        for key in (0..logits.len()).filter(|&key| logits[key] > f32::NEG_INFINITY) {
            let weight = weights.map_or(0.0, |weights| weights[key]);
            if weight > 0.0 {
                residual.kept_sum += residual.exponential(key as u32) / f64::from(weight);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_residual_leaves_out_hidden_and_kept_keys() {
        let logits = [0.0, 1.0, f32::NEG_INFINITY, 1.0, 0.0];
        let residual = Residual::of(&logits, Some(&[0.5, 0.0, 1.0, 0.0, 0.0]), 1..4);
        assert_eq!(residual.population, [1, 3]);
        assert!((residual.kept_sum - 2.0 * (-1.0f64).exp()).abs() < 1e-12);
        assert_eq!(residual.mean_and_deviation(&[1, 3]), (1.0, 0.0));
    }
}
