use burn::tensor::backend::Backend;

use super::{DenseReference, RowCounts, comparison::relative, masked_attention};
use crate::{
    mask::{Mask, MaskShape},
    metrics::{MetricError, MetricLogger, Place, built_in},
    problem::{AttentionError, AttentionInputs, AttentionOutput, Density, Requested},
};

/// How far attention through a mask is from dense attention, in one head.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct HeadReport {
    /// The sequence.
    pub batch: usize,
    /// The query head.
    pub head: usize,
    /// The share of the query-key pairs that was kept.
    pub density: Density,
    /// Norm of the difference of the outputs over the norm of the dense output, over all queries of the head. 0 if both
    /// are 0.
    pub output_error: f64,
    /// Mean over the queries of the absolute difference in the log-sum-exp. Infinite if a query sees keys but keeps
    /// none of them.
    pub log_sum_exp_error: f64,
    /// Mean over the queries of the share of the dense attention weights that lies on the kept keys. A sampled key
    /// counts once, with its own weight. [Sinks](AttentionInputs::with_sink_logits) do not count.
    pub mass_kept: f64,
}

/// How far attention through a mask is from dense attention, for one query of one head.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct QueryReport {
    /// The sequence.
    pub batch: usize,
    /// The query head.
    pub head: usize,
    /// The query.
    pub query: usize,
    /// The share of the keys that was kept.
    pub density: Density,
    /// Norm of the difference of the outputs over the norm of the dense output. 0 if both are 0.
    pub output_error: f64,
    /// The log-sum-exp minus the dense log-sum-exp. Minus infinity if the query sees keys but keeps none of them, and 0
    /// if it sees no key.
    pub log_sum_exp_error: f64,
    /// The share of the dense attention weights that lies on the kept keys. 1 if the query sees no key.
    pub mass_kept: f64,
}

/// How far attention through a mask is from dense attention, head by head and query by query.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionReport {
    /// One report for each head. The heads of the first sequence come first.
    pub heads: Vec<HeadReport>,
    /// One report for each query of each head, in the order of the heads.
    pub queries: Vec<QueryReport>,
    /// Norm of the difference of the outputs over the norm of the dense output, over all heads.
    pub output_error: f64,
}

impl AttentionReport {
    /// Compares attention through a mask with dense attention.
    ///
    /// # Errors
    /// If the mask does not have the shape of the inputs, or a required tensor is larger than the device can hold.
    pub fn of<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Result<Self, AttentionError> {
        let found = masked_attention(inputs, mask, Requested { statistics: true, weights: false })?;
        Self::compare(&DenseReference::of(inputs)?, inputs, mask, &found)
    }

    /// The same for dense attention that is already computed. `found` is attention through the mask, with its
    /// statistics.
    ///
    /// # Errors
    /// If the statistics were not requested, or a required tensor is larger than the device can hold.
    pub fn compare<B: Backend>(
        dense: &DenseReference,
        inputs: &AttentionInputs<B>,
        mask: &Mask<B>,
        found: &AttentionOutput<B>,
    ) -> Result<Self, AttentionError> {
        let MaskShape { heads, queries, .. } = inputs.mask_shape();
        if found.statistics.is_none() {
            let (field, value) = ("statistics", "not requested".to_owned());
            return Err(AttentionError::Value { field, value, allowed: "requested, to be compared" });
        }
        let errors = dense.errors(found);
        let masses = dense.mass_kept(inputs, mask, found)?;
        let counts = RowCounts::of(inputs, mask);
        let sees = dense.sees().collect::<Vec<_>>();
        let output_error = |rows: std::ops::Range<usize>| {
            let norm = |of: fn(&super::RowError) -> f64| {
                errors[rows.clone()].iter().map(|error| of(error).powi(2)).sum::<f64>().sqrt()
            };
            relative(norm(|error| error.difference), norm(|error| error.norm))
        };
        let of_head = |index: usize| {
            let rows = index * queries..(index + 1) * queries;
            let seeing = rows.clone().filter(|&row| sees[row]);
            let mean = |of: &dyn Fn(usize) -> f64, of_none: f64| match seeing.clone().count() {
                0 => of_none,
                count => seeing.clone().map(of).sum::<f64>() / count as f64,
            };
            HeadReport {
                batch: index / heads,
                head: index % heads,
                density: counts[rows.clone()].iter().fold(RowCounts::default(), RowCounts::add).density(),
                output_error: output_error(rows),
                log_sum_exp_error: mean(&|row| errors[row].log_sum_exp.abs(), 0.0),
                mass_kept: mean(&|row| masses[row], 1.0),
            }
        };
        let of_query = |row: usize| QueryReport {
            batch: row / queries / heads,
            head: row / queries % heads,
            query: row % queries,
            density: counts[row].density(),
            output_error: errors[row].output(),
            log_sum_exp_error: errors[row].log_sum_exp,
            mass_kept: masses[row],
        };
        Ok(Self {
            heads: (0..inputs.mask_shape().batch * heads).map(of_head).collect(),
            queries: (0..errors.len()).map(of_query).collect(),
            output_error: output_error(0..errors.len()),
        })
    }

    /// Logs the errors and the kept mass of the layer, of its heads and of their queries. These are the metrics
    /// [against dense attention](built_in::AGAINST_DENSE).
    /// [ResearchAttention::with_logger](crate::method::ResearchAttention::with_logger) logs the densities.
    ///
    /// # Errors
    /// If the logger cannot take them.
    pub fn log(&self, logger: &MetricLogger, layer: usize, step: u64) -> Result<(), MetricError> {
        let place = Place::of_layer(layer, step);
        let heads = |metric, value: fn(&HeadReport) -> f64| {
            let values = self.heads.iter().map(|head| (place.with_head(head.batch, head.head), value(head)));
            logger.log_many(metric, values)
        };
        let queries = |metric, value: fn(&QueryReport) -> f64| {
            let place = |query: &QueryReport| place.with_head(query.batch, query.head).with_query(query.query);
            logger.log_many(metric, self.queries.iter().map(|query| (place(query), value(query))))
        };
        logger.log(built_in::RESEARCH_ATTENTION_OUTPUT_ERROR, self.output_error, place)?;
        heads(built_in::HEAD_OUTPUT_ERROR, |head| head.output_error)?;
        heads(built_in::HEAD_LOG_SUM_EXP_ERROR, |head| head.log_sum_exp_error)?;
        heads(built_in::HEAD_MASS_KEPT, |head| head.mass_kept)?;
        queries(built_in::QUERY_OUTPUT_ERROR, |query| query.output_error)?;
        queries(built_in::QUERY_LOG_SUM_EXP_ERROR, |query| query.log_sum_exp_error)?;
        queries(built_in::QUERY_MASS_KEPT, |query| query.mass_kept)
    }

    /// Mean density over visible keys.
    pub fn density(&self) -> f64 {
        mean(self.heads.iter().map(|head| head.density.visible))
    }

    /// The median of the heads' output errors.
    pub fn output_error_median(&self) -> f64 {
        let mut errors = self.heads.iter().map(|head| head.output_error).collect::<Vec<_>>();
        errors.sort_by(f64::total_cmp);
        let middle = errors.len() / 2;
        match (errors.get(middle), errors.len() % 2) {
            (Some(upper), 0) => (errors[middle - 1] + upper) / 2.0,
            (Some(middle), _) => *middle,
            (None, _) => 0.0,
        }
    }

    /// The largest of the heads' output errors.
    pub fn output_error_worst(&self) -> f64 {
        self.heads.iter().map(|head| head.output_error).fold(0.0, f64::max)
    }

    /// Mean share of the dense attention weights on the kept keys.
    pub fn mass_kept(&self) -> f64 {
        mean(self.heads.iter().map(|head| head.mass_kept))
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}
