use std::ops::Range;

use burn::tensor::backend::Backend;

use crate::{
    attention::DenseReference,
    method::ResearchAttention,
    problem::{AttentionError, AttentionInputs, Requested},
    state::LayerState,
};

/// The errors of a method that samples, over many seeds. Coverage studies count them.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorStudy {
    /// The errors of each row, over batch, heads and queries. Rows without visible keys have no entries.
    pub rows: Vec<RowErrors>,
    /// The mean density over visible keys.
    pub density: f64,
}

/// The relative errors of one row, with one entry for each seed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowErrors {
    /// The signed relative error of the softmax denominator.
    pub denominator: Vec<f64>,
    /// The signed relative error of the numerator in the direction of the dense numerator.
    pub numerator_along: Vec<f64>,
    /// The relative error of the numerator: the Euclidean norm of the difference.
    pub numerator: Vec<f64>,
    /// The relative error of the output: the Euclidean norm of the difference.
    pub output: Vec<f64>,
}

impl ErrorStudy {
    /// Runs a method once for each seed, with a fresh state each time, and compares the results with dense attention.
    /// `progress` is called after each run.
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
        let dense = DenseReference::of(inputs)?;
        let sees = dense.sees().collect::<Vec<_>>();
        let mut study = Self { rows: vec![RowErrors::default(); sees.len()], density: 0.0 };
        let share = 1.0 / seeds.end.saturating_sub(seeds.start).max(1) as f64;
        for seed in seeds {
            let found = attention.forward(inputs, &mut LayerState::new(seed), requested)?;
            study.density += share * found.mask.density(inputs.visibility()).visible;
            let errors = dense.errors(&found.attention);
            for ((row, error), _) in study.rows.iter_mut().zip(errors).zip(&sees).filter(|(_, sees)| **sees) {
                row.denominator.push(error.denominator());
                row.numerator_along.push(error.numerator_along);
                row.numerator.push(error.numerator);
                row.output.push(error.output());
            }
            progress();
        }
        Ok(study)
    }
}
