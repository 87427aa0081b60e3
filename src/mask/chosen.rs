use super::{Kept, MaskShape};

/// Keys that were chosen, each for certain, in rows that some heads share.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// Head by head, and query by query.
    pub rows: Vec<Vec<u32>>,
    /// So many neighbouring heads have their rows in common.
    pub heads_per_row: usize,
}

impl Chosen {
    /// The keys of each row of a mask.
    pub(super) fn by_row(&self, shape: MaskShape) -> impl Iterator<Item = &[u32]> {
        let row = move |row: usize| row / shape.queries / self.heads_per_row * shape.queries + row % shape.queries;
        (0..shape.rows()).map(move |at| self.rows[row(at)].as_slice())
    }

    /// A row of its own for each head.
    pub fn to_rows(&self, shape: MaskShape) -> Vec<Vec<Kept>> {
        self.by_row(shape).map(|row| row.iter().map(|&key| Kept::certainly(key)).collect()).collect()
    }
}
