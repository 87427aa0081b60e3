//! The keys of a row that earlier maskers did not keep, and estimates of the row's sums from a sample of these keys.

use std::ops::Range;

use burn::tensor::backend::Backend;

use super::{exact_logits::ExactLogits, population::Population};
use crate::{
    kernels::{Heads, HostTensor, host_tensor},
    mask::Kept,
    problem::{AttentionInputs, RowKeys},
    scorer::Host,
    state::RowSample,
};

/// The keys of a row that earlier maskers did not keep, with what is known of the kept keys.
#[derive(Debug)]
pub(crate) struct Residual {
    /// The keys that may be drawn.
    pub population: Population,
    /// The kept keys that the row sees, each with the inverse of its probability.
    pub kept: Vec<(u32, f64)>,
    kept_logits: Vec<f32>,
    sink: Option<f32>,
}

impl Residual {
    /// The residual of a row that sees `seen` and keeps `kept`, in ascending order. Only keys of `range` may be drawn.
    /// `sink` is the logit of the row's sink. Only the logits of the kept keys are computed.
    pub fn of(
        row: usize,
        seen: &RowKeys,
        kept: &[Kept],
        range: Range<usize>,
        logits: &ExactLogits,
        sink: Option<f32>,
    ) -> Self {
        let population = Population::of(seen, range, kept.iter().map(|kept| kept.key));
        let kept = kept.iter().filter(|kept| seen.sees(kept.key as usize));
        let kept = kept.map(|kept| (kept.key, 1.0 / f64::from(kept.probability))).collect::<Vec<_>>();
        let keys = kept.iter().map(|(key, _)| *key).collect::<Vec<_>>();
        Self { population, kept_logits: logits.row(row, &keys), kept, sink }
    }

    /// Estimates the sums of a row from the logits of a sample of its population.
    pub fn sums(&self, sample: &[f32]) -> Sums {
        let first = self.sink.unwrap_or(f32::NEG_INFINITY);
        let maximum = self.kept_logits.iter().chain(sample).copied().fold(first, f32::max);
        let exponential = |logit: &f32| f64::from(logit - maximum).exp();
        let kept = self.kept_logits.iter().zip(&self.kept).map(|(logit, (_, times))| exponential(logit) * times);
        let kept = kept.collect::<Vec<_>>();
        let sink = self.sink.map_or(0.0, |sink| exponential(&sink));
        let sample = sample.iter().map(exponential).collect::<Vec<_>>();
        let count = sample.len() as f64;
        let mean = sample.iter().sum::<f64>() / count;
        let squares = sample.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        Sums {
            denominator: kept.iter().sum::<f64>() + sink + self.population.len() as f64 * mean,
            deviation: (squares / (count - 1.0)).sqrt(),
            kept,
            sample,
        }
    }

    /// Keeps the whole population with certainty. Nothing is estimated.
    pub fn keep_all(&self) -> (Vec<Kept>, RowSample) {
        let population = self.population.len();
        let report = RowSample { population, drawn: population, standard_error: 0.0, half_width: 0.0 };
        (self.population.all().into_iter().map(Kept::certainly).collect(), report)
    }
}

/// The estimated sums of a row. Exponentials are relative to the largest known logit.
#[derive(Debug)]
pub(crate) struct Sums {
    /// The exponentials of the kept keys, each times the inverse of its probability.
    pub kept: Vec<f64>,
    /// The exponentials of the sampled keys.
    pub sample: Vec<f64>,
    /// The estimated sum of all exponentials, including the sink's.
    pub denominator: f64,
    /// The standard deviation of the exponentials of the population, estimated from at least two keys.
    pub deviation: f64,
}

/// The logit of the sink of each row.
pub(crate) struct SinkLogits {
    logits: Option<Vec<f32>>,
    queries: usize,
}

impl SinkLogits {
    /// The sink logits of the inputs, if there are any.
    pub fn of<B: Backend>(inputs: &AttentionInputs<B>) -> Self {
        let logits =
            inputs.sink_logits().map(|sink_logits| sink_logits.to_data().convert::<f32>().iter::<f32>().collect());
        Self { logits, queries: inputs.mask_shape().queries }
    }

    /// The sink logit of a row. Rows are counted over batch, heads and queries.
    pub fn row(&self, row: usize) -> Option<f32> {
        let logits = self.logits.as_ref()?;
        logits.get(row / self.queries % logits.len()).copied()
    }
}

/// The values of all heads in host memory. A tensor that is already in host memory is borrowed.
pub(crate) struct Values {
    tensor: Box<dyn HostTensor>,
    /// Number of rows of the mask for each key-value head.
    rows: usize,
}

impl Values {
    /// The values of some inputs.
    pub fn of<B: Backend>(inputs: &AttentionInputs<B>) -> Self {
        let shape = inputs.mask_shape();
        let tensor = host_tensor(inputs.values()).unwrap_or_else(|| Box::new(Host::of(inputs.values())));
        Self { tensor, rows: shape.heads / inputs.kv_heads() * shape.queries }
    }

    /// The values of a row's key-value head.
    pub fn row(&self, row: usize) -> RowValues<'_> {
        let [.., width] = self.tensor.dims();
        RowValues { heads: self.tensor.heads(), head: row / self.rows, width }
    }
}

/// The values that a row averages.
pub(crate) struct RowValues<'a> {
    heads: Heads<'a>,
    head: usize,
    width: usize,
}

impl RowValues<'_> {
    /// The number of channels of a value.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Calls `work` with the index and the number of each channel of a key's value.
    pub fn each(&self, key: u32, mut work: impl FnMut(usize, f64)) {
        let range = key as usize * self.width..(key as usize + 1) * self.width;
        match &self.heads {
            Heads::F32(heads) => heads[self.head][range].iter().enumerate().for_each(|(at, &x)| work(at, f64::from(x))),
            Heads::F64(heads) => heads[self.head][range].iter().enumerate().for_each(|(at, &x)| work(at, x)),
            Heads::F16(heads) => heads[self.head][range].iter().enumerate().for_each(|(at, x)| work(at, x.to_f64())),
            Heads::BF16(heads) => heads[self.head][range].iter().enumerate().for_each(|(at, x)| work(at, x.to_f64())),
        }
    }

    /// Adds a multiple of a key's value.
    pub fn add_to(&self, sum: &mut [f64], key: u32, times: f64) {
        self.each(key, |at, value| sum[at] += times * value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn residual(kept: &[Kept], range: Range<usize>, sink: Option<f32>) -> Residual {
        let logits = ExactLogits::All { logits: vec![0.0, 1.0, f32::NEG_INFINITY, 1.0, 0.0], keys: 5 };
        Residual::of(0, &RowKeys::Hidden(&[false, false, true, false, false]), kept, range, &logits, sink)
    }

    #[test]
    fn hidden_and_kept_keys_are_left_out() {
        let kept = [Kept { key: 0, probability: 0.5 }, Kept::certainly(2)];
        let residual = residual(&kept, 1..4, None);
        assert_eq!(residual.population.all(), [1, 3]);
        let sums = residual.sums(&[1.0, 1.0]);
        assert!((sums.denominator - (2.0 * (-1.0f64).exp() + 2.0)).abs() < 1e-12);
        assert_eq!(sums.deviation, 0.0);
    }

    #[test]
    fn a_sink_counts_as_what_is_kept() {
        let sums = residual(&[Kept::certainly(0)], 0..5, Some(3.0)).sums(&[0.0, 1.0]);
        let wanted = 1.0 + (-3.0f64).exp() + 3.0 * ((-3.0f64).exp() + (-2.0f64).exp()) / 2.0;
        assert!((sums.denominator - wanted).abs() < 1e-12);
    }
}
