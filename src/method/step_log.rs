use std::time::Instant;

use burn::tensor::backend::Backend;

use crate::{
    attention::{AttentionReport, DenseReference, RowCounts},
    mask::{Mask, MaskShape},
    metrics::{MetricError, MetricLogger, Place, built_in},
    problem::{AttentionError, AttentionInputs, AttentionOutput},
    state::{KeyMemory, LayerState, RowSample, SamplingReport},
};

/// The log of one call of attention.
#[derive(Debug)]
pub(super) struct StepLog<'a> {
    logger: &'a MetricLogger,
    layer: usize,
    step: u64,
}

/// How many calls a layer has had.
#[derive(Debug, Clone, Default)]
struct StepCounter(u64);

impl KeyMemory for StepCounter {
    /// A call stays counted if its keys are taken back or its sequences reordered.
    fn truncate(&mut self, _keys: usize) {}

    fn reorder(&mut self, _indices: &[usize], _batch: usize) {}
}

impl<'a> StepLog<'a> {
    /// The log of the next call of a layer. `None` if the logger is off.
    pub fn begin<B: Backend>(
        logger: &'a MetricLogger,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
    ) -> Option<Self> {
        if !logger.is_on() {
            return None;
        }
        state.enter(0);
        let counter = state.key_memory::<StepCounter>();
        counter.0 += 1;
        Some(Self { logger, layer: inputs.layer(), step: counter.0 - 1 })
    }

    fn takes(&self, metric: &str) -> bool {
        self.logger.takes(metric, self.step)
    }

    fn takes_any(&self, metrics: &[&str]) -> bool {
        metrics.iter().any(|metric| self.takes(metric))
    }

    /// Whether a metric needs dense attention, and therefore the statistics of sparse attention.
    pub fn compares(&self) -> bool {
        self.takes_any(&built_in::AGAINST_DENSE)
    }

    /// Runs a stage and logs its duration, which ends when the device has finished the stage.
    pub fn timed<B: Backend, T>(
        &self,
        metric: &str,
        device: &B::Device,
        stage: impl FnOnce() -> Result<T, AttentionError>,
    ) -> Result<T, AttentionError> {
        if !self.takes(metric) {
            return stage();
        }
        let synchronized = || {
            B::sync(device)
                .map_err(|error| AttentionError::Log { reason: format!("the device cannot be waited for: {error}") })
        };
        synchronized()?;
        let start = Instant::now();
        let done = stage()?;
        synchronized()?;
        self.logger.log(metric, start.elapsed().as_secs_f64() * 1e3, Place::of_layer(self.layer, self.step))?;
        Ok(done)
    }

    /// Logs what the mask keeps and the report of the sampler.
    pub fn kept<B: Backend>(
        &self,
        inputs: &AttentionInputs<B>,
        mask: &Mask<B>,
        sampling: Option<&SamplingReport>,
    ) -> Result<(), MetricError> {
        let metrics = [
            built_in::RESEARCH_ATTENTION_DENSITY,
            built_in::HEAD_DENSITY,
            built_in::QUERY_DENSITY,
            built_in::HEAD_SAMPLER_BUDGET,
            built_in::QUERY_SAMPLER_BUDGET,
            built_in::HEAD_KV_BYTES,
            built_in::QUERY_KV_BYTES,
        ];
        if self.takes_any(&metrics) {
            let rows = RowPlaces { log: self, shape: inputs.mask_shape() };
            let counts = RowCounts::of(inputs, mask);
            let total = counts.iter().fold(RowCounts::default(), RowCounts::add);
            let place = Place::of_layer(self.layer, self.step);
            self.logger.log(built_in::RESEARCH_ATTENTION_DENSITY, total.density().all, place)?;
            let sum = |counts: &[RowCounts]| counts.iter().fold(RowCounts::default(), RowCounts::add);
            let both = |head, query, value: &dyn Fn(RowCounts) -> f64| {
                rows.heads(head, &counts, |counts| value(sum(counts)))?;
                rows.queries(query, &counts, |counts| value(*counts))
            };
            let [.., head_dim] = inputs.keys().dims();
            let [.., value_dim] = inputs.values().dims();
            let pair = head_dim * inputs.keys().dtype().size() + value_dim * inputs.values().dtype().size();
            both(built_in::HEAD_DENSITY, built_in::QUERY_DENSITY, &|counts| counts.density().visible)?;
            both(built_in::HEAD_SAMPLER_BUDGET, built_in::QUERY_SAMPLER_BUDGET, &|counts| counts.sampled)?;
            both(built_in::HEAD_KV_BYTES, built_in::QUERY_KV_BYTES, &|counts| counts.read * pair as f64)?;
        }
        match sampling {
            Some(sampling) => self.sampled(inputs.mask_shape(), sampling),
            None => Ok(()),
        }
    }

    fn sampled(&self, shape: MaskShape, sampling: &SamplingReport) -> Result<(), MetricError> {
        let rows = RowPlaces { log: self, shape };
        let both = |head, query, value: fn(&RowSample) -> f64| {
            rows.heads(head, &sampling.rows, |rows| rows.iter().map(value).fold(0.0, f64::max))?;
            rows.queries(query, &sampling.rows, value)
        };
        both(built_in::HEAD_STANDARD_ERROR, built_in::QUERY_STANDARD_ERROR, |row| row.standard_error)?;
        both(built_in::HEAD_BOUND, built_in::QUERY_BOUND, |row| row.half_width)
    }

    /// Computes dense attention and logs the errors of the output. Does nothing if no metric needs it.
    pub fn compared<B: Backend>(
        &self,
        inputs: &AttentionInputs<B>,
        mask: &Mask<B>,
        found: &AttentionOutput<B>,
    ) -> Result<(), AttentionError> {
        if self.compares() {
            let report = AttentionReport::compare(&DenseReference::of(inputs)?, inputs, mask, found)?;
            self.report(&report)?;
        }
        Ok(())
    }

    /// Logs a report.
    pub fn report(&self, report: &AttentionReport) -> Result<(), MetricError> {
        report.log(self.logger, self.layer, self.step)
    }
}

/// The rows of a call and their places.
struct RowPlaces<'a> {
    log: &'a StepLog<'a>,
    shape: MaskShape,
}

impl RowPlaces<'_> {
    fn place(&self, head: usize) -> Place {
        let place = Place::of_layer(self.log.layer, self.log.step);
        place.with_head(head / self.shape.heads, head % self.shape.heads)
    }

    fn heads<T>(&self, metric: &str, rows: &[T], value: impl Fn(&[T]) -> f64) -> Result<(), MetricError> {
        let heads = rows.chunks(self.shape.queries.max(1)).enumerate();
        self.log.logger.log_many(metric, heads.map(|(head, rows)| (self.place(head), value(rows))))
    }

    fn queries<T>(&self, metric: &str, rows: &[T], value: impl Fn(&T) -> f64) -> Result<(), MetricError> {
        let queries = self.shape.queries.max(1);
        let place = |row: usize| self.place(row / queries).with_query(row % queries);
        self.log.logger.log_many(metric, rows.iter().enumerate().map(|(row, counts)| (place(row), value(counts))))
    }
}
