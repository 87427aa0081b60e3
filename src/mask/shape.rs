use std::fmt;
use std::ops::Range;

use super::MaskError;

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

    /// Number of rows, `batch * heads * queries`, or [`usize::MAX`] if there are more.
    pub fn rows(&self) -> usize {
        self.batch.saturating_mul(self.heads).saturating_mul(self.queries)
    }

    /// Number of query-key pairs, or [`usize::MAX`] if there are more.
    pub fn pairs(&self) -> usize {
        self.rows().saturating_mul(self.keys)
    }

    /// Checks that every key has an index of 31 bits and that the pairs can be counted.
    pub(crate) fn check(&self) -> Result<(), MaskError> {
        match i32::try_from(self.keys).is_ok() && isize::try_from(self.pairs()).is_ok() {
            true => Ok(()),
            false => Err(MaskError::TooLarge { what: "the mask", shape: *self }),
        }
    }

    /// Checks that memory can hold a number of bytes for each pair. More than 1 GiB is allocated and freed again for
    /// this check, because running out of memory later would end the program.
    pub(crate) fn check_memory(&self, what: &'static str, bytes: usize) -> Result<(), MaskError> {
        const SMALL: usize = 1 << 30;
        let bytes = self.pairs().saturating_mul(bytes);
        match bytes <= SMALL || Vec::<u8>::new().try_reserve_exact(bytes).is_ok() {
            true => Ok(()),
            false => Err(MaskError::TooLarge { what, shape: *self }),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        let most = i32::MAX as usize;
        for dims in [[1, 1, 1, most], [1, 1, 1 << 20, 1 << 20], [0, 1, 1, 5], [2, 3, 5, 0]] {
            assert_eq!(MaskShape::new(dims).check(), Ok(()), "{dims:?}");
        }
        for dims in [[1, 1, 1, most + 1], [1 << 32, 1 << 32, 1, 2], [usize::MAX, 2, 1, 1], [3, 1, usize::MAX / 2, 4]] {
            let shape = MaskShape::new(dims);
            assert_eq!(shape.check(), Err(MaskError::TooLarge { what: "the mask", shape }), "{dims:?}");
        }
        assert_eq!(MaskShape::new([1 << 40, 1 << 40, 2, 2]).rows(), usize::MAX);
        let shape = MaskShape::new([1, 1, 1 << 30, 1 << 30]);
        assert_eq!(shape.check_memory("weights", 4), Err(MaskError::TooLarge { what: "weights", shape }));
        assert_eq!(MaskShape::new([1, 1, 63, 111]).check_memory("weights", 4), Ok(()));
    }
}
