use thiserror::Error;

use super::MaskShape;
use crate::device::DeviceLimit;

/// Why a [mask](super::Mask) could not be built or combined.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum MaskError {
    /// Two masks, or a mask and a tensor, do not have the same shape.
    #[error("{what} has the shape {found:?}, but the mask has {expected}")]
    Shape {
        /// What was given.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it must have.
        expected: MaskShape,
    },
    /// A list of the exchange form has the wrong number of entries.
    #[error("`{field}` has {found} entries, but {expected} are needed")]
    Length {
        /// The list.
        field: &'static str,
        /// Its number of entries.
        found: usize,
        /// The number it must have.
        expected: usize,
    },
    /// The row pointers of a CSR mask do not rise from 0 to the number of indices.
    #[error("`ptr` must rise from 0 to the number of indices, but ptr[{row}] = {start} and ptr[{row} + 1] = {end}")]
    Pointer {
        /// The row.
        row: usize,
        /// Where the row starts.
        start: usize,
        /// Where the row ends.
        end: usize,
    },
    /// A key index is out of range.
    #[error("row {row} names key {index}, but there are {keys} keys (and -1 for an unused slot)")]
    Index {
        /// The row, counted over batch, heads and queries.
        row: usize,
        /// The offending index.
        index: i64,
        /// The number of keys.
        keys: usize,
    },
    /// A key index does not fit in 32 bits.
    #[error("row {row} names key {index}, but an index is at most 2147483647 (and -1 for an unused slot)")]
    IndexWidth {
        /// The row, counted over batch, heads and queries.
        row: usize,
        /// The offending index. An index above `i64::MAX` is given as `i64::MAX`.
        index: i64,
    },
    /// A row names a key twice.
    #[error("row {row} names key {key} twice; a key is kept once, with the probability of it being kept")]
    Duplicate {
        /// The row, counted over batch, heads and queries.
        row: usize,
        /// The key.
        key: usize,
    },
    /// A weight is not a probability.
    #[error("row {row} keeps key {key} with weight {weight}; a weight is a probability in {allowed}")]
    Weight {
        /// The row, counted over batch, heads and queries.
        row: usize,
        /// The key.
        key: usize,
        /// The offending weight.
        weight: f32,
        /// The allowed range.
        allowed: &'static str,
    },
    /// There are more keys than indices can number, or more pairs than memory can count or hold.
    #[error(
        "{what} would have the shape {shape}, but a mask has at most 2147483647 keys and no more pairs than memory holds"
    )]
    TooLarge {
        /// What would be created.
        what: &'static str,
        /// The shape of the mask.
        shape: MaskShape,
    },
    /// The weights of all pairs would be larger than the device can hold.
    #[error(transparent)]
    DeviceLimit(#[from] DeviceLimit),
}
