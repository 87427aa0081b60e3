use std::fmt;
use std::ops::Range;

/// The shape of a mask, `[batch, heads, queries, keys]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskShape {
    /// Number of sequences.
    pub batch: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of queries.
    pub queries: usize,
    /// Number of keys.
    pub keys: usize,
}

impl MaskShape {
    /// The shape `[batch, heads, queries, keys]`.
    pub fn new([batch, heads, queries, keys]: [usize; 4]) -> Self {
        Self { batch, heads, queries, keys }
    }

    /// Number of rows, `batch * heads * queries`.
    pub fn rows(&self) -> usize {
        self.batch * self.heads * self.queries
    }

    /// Number of query-key pairs.
    pub fn pairs(&self) -> usize {
        self.rows() * self.keys
    }

    /// The range of all keys.
    pub(crate) fn all_keys(&self) -> Range<usize> {
        0..self.keys
    }

    /// The four lengths in order.
    pub fn dims(&self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.keys]
    }
}

impl fmt::Display for MaskShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (batch, heads, queries, keys)", self.dims())
    }
}
