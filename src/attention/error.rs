use thiserror::Error;

use crate::{kernels::DeviceLimit, mask::MaskError, metrics::MetricError};

/// Why attention could not be computed.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum AttentionError {
    /// A tensor does not have the shape that the others ask for.
    #[error("`{tensor}` has the shape {found:?}, but must be {expected}")]
    Shape {
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// What it must be.
        expected: String,
    },
    /// The query heads do not divide into groups over the key-value heads.
    #[error("there are {heads} query heads and {kv_heads} key-value heads; the first must be a multiple of the second")]
    HeadGroups {
        /// Heads of the queries.
        heads: usize,
        /// Heads of keys and values.
        kv_heads: usize,
    },
    /// A number that makes no sense.
    #[error("`{field}` is {value}, but must be {allowed}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A scorer has no weights for the layer that asks.
    #[error("the scorer `{scorer}` has no weights for layer {layer}; it has them for the layers {known}")]
    NoWeights {
        /// The scorer.
        scorer: &'static str,
        /// The layer.
        layer: usize,
        /// The layers for which there are weights.
        known: String,
    },
    /// A tensor would be larger than the device can hold.
    #[error(transparent)]
    DeviceLimit(#[from] DeviceLimit),
    /// The mask does not fit the inputs.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// What was to be logged of the call cannot be logged.
    #[error("attention is computed, but not logged: {reason}")]
    Log {
        /// Why.
        reason: String,
    },
}

impl From<MetricError> for AttentionError {
    fn from(error: MetricError) -> Self {
        Self::Log { reason: error.to_string() }
    }
}
