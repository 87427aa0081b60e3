use std::sync::Arc;

use super::Timestamp;

/// What a value belongs to. What is `None` does not apply: a value of a head has no query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The layer of the model.
    pub layer: Option<usize>,
    /// The sequence of the batch.
    pub batch: Option<usize>,
    /// The query head.
    pub head: Option<usize>,
    /// The query, counted from the first of the step.
    pub query: Option<usize>,
    /// The step, as the caller counts: of decoding, of training, or the call of a layer.
    pub step: Option<u64>,
}

impl Place {
    /// A place in a step of a layer.
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
    /// What it belongs to.
    pub place: Place,
    /// What logged it: a method, a part of a model, a run.
    pub location: Option<Arc<str>>,
}
