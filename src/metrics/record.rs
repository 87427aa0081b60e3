use std::sync::Arc;

use super::Timestamp;

/// The place that a value belongs to. Fields that do not apply are `None`: a value of a head has no query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The layer of the model.
    pub layer: Option<usize>,
    /// The sequence of the batch.
    pub batch: Option<usize>,
    /// The query head.
    pub head: Option<usize>,
    /// The query, counted from the first query of the step.
    pub query: Option<usize>,
    /// The step, in the caller's count: a decode step, a training step, or a call of a layer.
    pub step: Option<u64>,
}

impl Place {
    /// A layer in a step.
    pub fn of_layer(layer: usize, step: u64) -> Self {
        Self { layer: Some(layer), step: Some(step), ..Self::default() }
    }

    /// The place of a head of a sequence.
    pub fn with_head(self, batch: usize, head: usize) -> Self {
        Self { batch: Some(batch), head: Some(head), ..self }
    }

    /// The place of a query.
    pub fn with_query(self, query: usize) -> Self {
        Self { query: Some(query), ..self }
    }
}

/// A value of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When it was logged.
    pub timestamp: Timestamp,
    /// The name of the metric.
    pub metric: Arc<str>,
    /// The value.
    pub value: f64,
    /// The place that the value belongs to.
    pub place: Place,
    /// The source of the record: a method, a part of a model, or a run.
    pub location: Option<Arc<str>>,
}
