use burn::tensor::backend::Backend;

use crate::{
    config::Size,
    kernels::cpu::largest,
    mask::{Mask, Pattern},
    masker::by_candidates,
    problem::{AttentionError, AttentionInputs},
    scorer::{Oracle, Scorer},
    state::LayerState,
};

/// How well a scorer finds the important keys: the share of each query's exact top-k that is among the keys with the
/// highest scores, within a budget.
///
/// HashAttention reports this measure: of the exact top 32 keys outside of the sink and the window, the share that is
/// among `n / 16` keys selected by signature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopKRecall {
    /// The number of keys with the highest exact scores that are to be found.
    pub top_k: usize,
    /// The number of keys that the scorer may select. A fraction is of the keys that the query sees.
    pub budget: Size,
    /// The number of first keys, which every query keeps anyway.
    pub sink_size: usize,
    /// The number of keys up to the query's position, which the query keeps anyway.
    pub window_size: usize,
}

impl Default for TopKRecall {
    /// The top 32 within a sixteenth of the keys, outside of a sink and a window of 128.
    fn default() -> Self {
        Self { top_k: 32, budget: Size::Fraction(1.0 / 16.0), sink_size: 128, window_size: 128 }
    }
}

impl TopKRecall {
    /// The recall over all queries that choose among at least `top_k` keys, in `[0, 1]`. 1 if there is no such query.
    ///
    /// # Errors
    /// If the scorer cannot work with the inputs.
    pub fn measure<B: Backend>(
        &self,
        scorer: &dyn Scorer<B>,
        inputs: &AttentionInputs<B>,
    ) -> Result<f64, AttentionError> {
        let shape = inputs.mask_shape();
        let pattern = Pattern { sink: self.sink_size, window: self.window_size, offset: inputs.offset() };
        let mask = Mask::pattern(shape, pattern, &inputs.device());
        let seen = inputs.visibility().closed_form();
        let rows = |scorer: &dyn Scorer<B>, budget: &(dyn Fn(usize) -> usize + Sync)| {
            by_candidates(inputs, &mask, scorer, &mut LayerState::new(0), |row, scores| largest(scores, budget(row)))
        };
        let wanted = rows(&Oracle::default(), &|_| self.top_k)?;
        let found = rows(scorer, &|row| {
            let query = row % shape.queries;
            self.budget.of(seen.as_ref().map_or(shape.keys, |seen| seen(query, shape.keys).len()))
        })?;
        let full = wanted.iter().zip(&found).filter(|(wanted, _)| wanted.len() == self.top_k);
        let (mut hits, mut all) = (0, 0);
        for (wanted, found) in full {
            // Both lists are in ascending order.
            hits += wanted.iter().filter(|key| found.binary_search(key).is_ok()).count();
            all += wanted.len();
        }
        Ok(if all == 0 { 1.0 } else { hits as f64 / all as f64 })
    }
}
