use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

use crate::{
    attention::{AttentionError, AttentionInputs, AttentionOutput, Requested, ResearchAttention, masked_attention},
    mask::Mask,
    masker::LayerState,
};

/// The errors of a method that draws, over many seeds: what a coverage study counts.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorStudy {
    /// The errors of each row, counted over batch, heads and queries; rows that see nothing have none.
    pub rows: Vec<RowErrors>,
    /// Mean density over visible keys.
    pub density: f64,
}

/// The relative errors of one row, an entry for each seed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowErrors {
    /// Of the softmax denominator, signed.
    pub denominator: Vec<f64>,
    /// Of the numerator, along the right one, signed.
    pub numerator_along: Vec<f64>,
    /// Of the numerator, the Euclidean norm of the difference.
    pub numerator: Vec<f64>,
    /// Of the output, the Euclidean norm of the difference.
    pub output: Vec<f64>,
}

impl ErrorStudy {
    /// Runs a method with each of some seeds, a fresh state each time, and compares with dense attention. `progress` is
    /// called after each.
    ///
    /// # Errors
    /// If a masker cannot work with the inputs.
    pub fn run<B: Backend>(
        inputs: &AttentionInputs<B>,
        attention: &ResearchAttention<B>,
        seeds: Range<u64>,
        mut progress: impl FnMut(),
    ) -> Result<Self, AttentionError> {
        let requested = Requested { statistics: true, weights: false };
        let full = Mask::full(inputs.mask_shape(), &inputs.device());
        let dense = Sums::of(&masked_attention(inputs, &full, requested)?, None);
        let mut study = Self { rows: vec![RowErrors::default(); dense.denominator.len()], density: 0.0 };
        let share = 1.0 / seeds.end.saturating_sub(seeds.start).max(1) as f64;
        for seed in seeds {
            let found = attention.forward(inputs, &mut LayerState::new(seed), requested)?;
            study.density += share * found.mask.density(inputs.visibility()).visible;
            let found = Sums::of(&found.attention, Some(&dense.maximum));
            for (row, errors) in study.rows.iter_mut().enumerate().filter(|(row, _)| dense.denominator[*row] > 0.0) {
                errors.add(&dense, &found, row);
            }
            progress();
        }
        Ok(study)
    }
}

impl RowErrors {
    fn add(&mut self, right: &Sums, found: &Sums, row: usize) {
        let numerators = row * right.width..(row + 1) * right.width;
        let (wanted, numerator) = (&right.numerator[numerators.clone()], &found.numerator[numerators]);
        let difference = numerator.iter().zip(wanted).map(|(a, b)| a - b).collect::<Vec<_>>();
        let along = difference.iter().zip(wanted).map(|(a, b)| a * b).sum::<f64>();
        // A row that drew nothing has output 0.
        let by = if found.denominator[row] > 0.0 { found.denominator[row] } else { 1.0 };
        let output = numerator.iter().map(|x| x / by);
        let wanted_output = wanted.iter().map(|x| x / right.denominator[row]).collect::<Vec<_>>();
        let output_difference = output.zip(&wanted_output).map(|(a, b)| a - b).collect::<Vec<_>>();
        self.denominator.push(found.denominator[row] / right.denominator[row] - 1.0);
        self.numerator_along.push(along / norm(wanted).powi(2));
        self.numerator.push(norm(&difference) / norm(wanted));
        self.output.push(norm(&output_difference) / norm(&wanted_output));
    }
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Denominators and numerators of all rows, relative to given maxima.
struct Sums {
    maximum: Vec<f64>,
    denominator: Vec<f64>,
    numerator: Vec<f64>,
    width: usize,
}

impl Sums {
    fn of<B: Backend>(output: &AttentionOutput<B>, maxima: Option<&[f64]>) -> Self {
        let width = output.output.dims()[3];
        let Some(statistics) = &output.statistics else {
            return Self { maximum: Vec::new(), denominator: Vec::new(), numerator: Vec::new(), width };
        };
        let maximum = host(&statistics.maximum);
        let factor = |row: usize| maxima.map_or(1.0, |maxima| (maximum[row] - maxima[row]).exp());
        let scaled = |tensor: &Tensor<B, 4>, width: usize| {
            // A row that keeps nothing has sums of 0, whatever its maximum.
            let scale = |(at, x): (usize, f64)| if x == 0.0 { 0.0 } else { x * factor(at / width) };
            host(tensor).into_iter().enumerate().map(scale).collect::<Vec<_>>()
        };
        let (denominator, numerator) = (scaled(&statistics.denominator, 1), scaled(&statistics.numerator, width));
        Self { maximum, denominator, numerator, width }
    }
}

fn host<B: Backend>(tensor: &Tensor<B, 4>) -> Vec<f64> {
    tensor.to_data().convert::<f64>().iter::<f64>().collect()
}
