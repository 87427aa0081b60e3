use super::{Kept, MaskShape};

/// Keys that were chosen, each with probability 1. Several heads may share their rows.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The chosen keys of each row, ordered by head and then by query.
    pub rows: Vec<Vec<u32>>,
    /// The number of adjacent heads that share their rows.
    pub heads_per_row: usize,
}

impl Chosen {
    /// The keys of each row of a mask.
    pub(super) fn by_row(&self, shape: MaskShape) -> impl Iterator<Item = &[u32]> {
        let row = move |row: usize| row / shape.queries / self.heads_per_row * shape.queries + row % shape.queries;
        (0..shape.rows()).map(move |at| self.rows[row(at)].as_slice())
    }

    /// The chosen keys with separate rows for each head.
    pub fn to_rows(&self, shape: MaskShape) -> Vec<Vec<Kept>> {
        self.by_row(shape).map(|row| row.iter().map(|&key| Kept::certainly(key)).collect()).collect()
    }
}
