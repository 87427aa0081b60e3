use burn::tensor::DType;
use thiserror::Error;

use crate::{device::DeviceLimit, mask::MaskError, metrics::MetricError};

/// Why attention could not be computed.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum AttentionError {
    /// A tensor does not have the shape that the other tensors require.
    #[error("`{tensor}` has the shape {found:?}, but must be {expected}")]
    Shape {
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// What it must be.
        expected: String,
    },
    /// The number of query heads is not a multiple of the number of key-value heads.
    #[error("there are {heads} query heads and {kv_heads} key-value heads; the first must be a multiple of the second")]
    HeadGroups {
        /// Heads of the queries.
        heads: usize,
        /// Heads of keys and values.
        kv_heads: usize,
    },
    /// A value that is not allowed.
    #[error("`{field}` is {value}, but must be {allowed}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Queries, keys and values are of different float types.
    #[error(
        "queries are of type {queries:?}, keys of {keys:?} and values of {values:?}, but all three must be of one type: \
         cast them to one before"
    )]
    MixedTypes {
        /// The type of the queries.
        queries: DType,
        /// The type of the keys.
        keys: DType,
        /// The type of the values.
        values: DType,
    },
    /// A [LayerState](crate::masker::LayerState) is used for another sequence than the sequence that it remembers.
    #[error(
        "the layer's state has seen a sequence with `{length}` {seen}, but it is given {found}: a new sequence needs a \
         new or cleared state, and one that is cut back needs `truncate`"
    )]
    AnotherSequence {
        /// Which length differs.
        length: &'static str,
        /// What the inputs have.
        found: usize,
        /// What the state has seen.
        seen: usize,
    },
    /// A layer's input, or a tensor that goes into a cache, does not have the required float type.
    #[error("`{tensor}` holds numbers of type {found:?}, but must hold {expected:?}, as {others} do")]
    FloatType {
        /// The tensor.
        tensor: &'static str,
        /// The type of its numbers.
        found: DType,
        /// The required type.
        expected: DType,
        /// The tensors that require it.
        others: &'static str,
    },
    /// A padding mask contradicts the padding mask of an earlier call over the same cache.
    #[error(
        "position {position} of sequence {sequence} {} in an earlier call with this cache, and {} in this one; a mask \
         over pairs of positions (`mask_attn`) can hide what is cached",
        if *was_padding { "was padding" } else { "was a token" },
        if *was_padding { "is a token" } else { "is padding" }
    )]
    Padding {
        /// The sequence in the batch.
        sequence: usize,
        /// The position in the sequence, with its padding.
        position: usize,
        /// Whether it was padding.
        was_padding: bool,
    },
    /// A cache cannot go back to a length, because it no longer holds the tokens that this needs.
    #[error(
        "the cache cannot go back to {length} tokens: of a sliding window it holds the last tokens only, and can go back \
         to {earliest} at the earliest; `KvCache::with_spare` lets it hold more"
    )]
    GivenUp {
        /// The requested length.
        length: usize,
        /// The smallest length to which it can go back.
        earliest: usize,
    },
    /// A cache is reordered, but it does not hold one of the sequences.
    #[error("`indices[{place}]` is {found}, but must be below {batch}, the number of sequences that are there")]
    NoSequence {
        /// The place in the indices.
        place: usize,
        /// The index.
        found: usize,
        /// The number of sequences.
        batch: usize,
    },
    /// A scorer has no weights for a layer.
    #[error("the scorer `{scorer}` has no weights for layer {layer}; {origin} has them for the layers {known}")]
    NoWeights {
        /// The scorer.
        scorer: &'static str,
        /// The layer.
        layer: usize,
        /// Where the weights come from: a file, or memory.
        origin: String,
        /// The layers for which there are weights.
        known: String,
    },
    /// A tensor would be larger than the device can hold.
    #[error(transparent)]
    DeviceLimit(#[from] DeviceLimit),
    /// The mask does not fit the inputs.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// The metrics of the call cannot be logged.
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
