//! Which tokens of the sequences of a batch are real, and which are padding.

use std::ops::Range;

use burn::tensor::{Bool, Tensor, backend::Backend};

use crate::problem::AttentionError;

/// The real tokens of each sequence of a batch, as ranges of its columns in ascending order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UnpaddedTokens {
    columns: usize,
    rows: Vec<Vec<Range<usize>>>,
}

impl UnpaddedTokens {
    /// No padding.
    pub fn all(batch: usize, columns: usize) -> Self {
        Self { columns, rows: vec![one_range(0..columns); batch] }
    }

    /// The tokens that a mask does not mark as padding.
    ///
    /// # Shapes
    /// - mask: `[batch, columns]`, `true` = padding.
    ///
    /// # Errors
    /// If the mask does not have this shape.
    pub fn of_mask<B: Backend>(
        mask: &Tensor<B, 2, Bool>,
        [batch, columns]: [usize; 2],
    ) -> Result<Self, AttentionError> {
        if mask.dims() != [batch, columns] {
            let (found, expected) = (mask.dims().to_vec(), format!("[{batch}, {columns}]"));
            return Err(AttentionError::Shape { tensor: "mask_pad", found, expected });
        }
        let hidden = mask.to_data().iter::<bool>().collect::<Vec<_>>();
        let row = |hidden: &[bool]| {
            let mut ranges = Vec::<Range<usize>>::new();
            for (column, _) in hidden.iter().enumerate().filter(|(_, hidden)| !**hidden) {
                join(&mut ranges, column..column + 1);
            }
            ranges
        };
        Ok(Self { columns, rows: hidden.chunks(columns.max(1)).map(row).collect() })
    }

    /// One range in each sequence.
    pub fn of_ranges(columns: usize, ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        Self { columns, rows: ranges.into_iter().map(one_range).collect() }
    }

    /// How many columns there are.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How many sequences there are.
    pub fn batch(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no padding.
    pub fn are_all(&self) -> bool {
        self.rows.iter().all(|ranges| *ranges == one_range(0..self.columns))
    }

    /// The columns of a sequence that are real.
    pub fn row(&self, row: usize) -> &[Range<usize>] {
        &self.rows[row]
    }

    /// How many tokens of a sequence are real.
    pub fn count(&self, row: usize) -> usize {
        self.count_before(row, self.columns)
    }

    /// How many tokens of a sequence before a column are real.
    pub fn count_before(&self, row: usize, column: usize) -> usize {
        self.rows[row].iter().map(|range| range.end.min(column).saturating_sub(range.start)).sum()
    }

    /// The columns from `first` on, renumbered from 0.
    pub fn from(&self, first: usize) -> Self {
        let cut = |range: &Range<usize>| range.start.max(first) - first..range.end.saturating_sub(first);
        let row = |ranges: &Vec<Range<usize>>| ranges.iter().map(cut).filter(|range| !range.is_empty()).collect();
        Self { columns: self.columns.saturating_sub(first), rows: self.rows.iter().map(row).collect() }
    }

    /// Makes each sequence what the sequence of an index was.
    pub fn reorder(&mut self, indices: &[usize]) {
        self.rows = indices.iter().map(|&index| self.rows[index].clone()).collect();
    }

    /// Removes the columns from number `columns` on.
    pub fn truncate(&mut self, columns: usize) {
        self.columns = self.columns.min(columns);
        for ranges in &mut self.rows {
            ranges.iter_mut().for_each(|range| range.end = range.end.min(columns));
            ranges.retain(|range| !range.is_empty());
        }
    }

    /// Appends the columns of the next tokens.
    pub fn extend(&mut self, next: &Self) {
        for (ranges, next) in self.rows.iter_mut().zip(&next.rows) {
            next.iter().for_each(|range| join(ranges, range.start + self.columns..range.end + self.columns));
        }
        self.columns += next.columns;
    }

    /// Checks that the first columns have the padding of an earlier call.
    ///
    /// # Errors
    /// If a padded token became a real token, or the other way round.
    pub fn check_continues(&self, earlier: &Self) -> Result<(), AttentionError> {
        let mut begin = self.clone();
        begin.truncate(earlier.columns);
        let differs = |sequence: &usize| begin.rows[*sequence] != earlier.rows[*sequence];
        let Some(sequence) = (0..self.batch().min(earlier.batch())).find(differs) else { return Ok(()) };
        let is_real = |tokens: &Self, column| tokens.rows[sequence].iter().any(|range| range.contains(&column));
        let position = (0..earlier.columns).find(|&column| is_real(&begin, column) != is_real(earlier, column));
        let position = position.unwrap_or(earlier.columns);
        Err(AttentionError::Padding { sequence, position, was_padding: !is_real(earlier, position) })
    }
}

/// A list with the range. The list is empty if the range is empty.
fn one_range(range: Range<usize>) -> Vec<Range<usize>> {
    Vec::from_iter((!range.is_empty()).then_some(range))
}

/// Appends a range, and joins it with the last one if they touch.
fn join(ranges: &mut Vec<Range<usize>>, next: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ => ranges.push(next),
    }
}

/// Takes ranges of a dimension and joins them. There must be at least one range.
pub(super) fn pick<B: Backend, const D: usize, K: burn::tensor::BasicOps<B>>(
    tensor: Tensor<B, D, K>,
    dim: usize,
    ranges: &[Range<usize>],
) -> Tensor<B, D, K> {
    match ranges {
        [range] if *range == (0..tensor.dims()[dim]) => tensor,
        [range] => tensor.slice_dim(dim, range.clone()),
        _ => Tensor::cat(ranges.iter().map(|range| tensor.clone().slice_dim(dim, range.clone())).collect(), dim),
    }
}

/// The inverse of [pick]: places the tensor at ranges of a longer dimension, with zeros elsewhere.
pub(super) fn spread<B: Backend>(
    tensor: Tensor<B, 4>,
    dim: usize,
    ranges: &[Range<usize>],
    length: usize,
) -> Tensor<B, 4> {
    if let [range] = ranges
        && *range == (0..length)
    {
        return tensor;
    }
    let mut dims = tensor.dims();
    let mut zeros = |length: usize| {
        dims[dim] = length;
        (length > 0).then(|| Tensor::zeros(dims, (&tensor.device(), tensor.dtype())))
    };
    let (mut parts, mut taken, mut end) = (Vec::new(), 0, 0);
    for range in ranges {
        parts.extend(zeros(range.start - end));
        parts.push(tensor.clone().slice_dim(dim, taken..taken + range.len()));
        (taken, end) = (taken + range.len(), range.end);
    }
    parts.extend(zeros(length - end));
    Tensor::cat(parts, dim)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // A list with a single range is intended.
mod tests {
    use super::*;

    fn tokens(columns: usize, rows: &[&[Range<usize>]]) -> UnpaddedTokens {
        UnpaddedTokens { columns, rows: rows.iter().map(|ranges| ranges.to_vec()).collect() }
    }

    #[test]
    fn what_is_added_and_cut_off_is_as_if_it_came_at_once() {
        let whole = tokens(9, &[&[2..9], &[0..3, 5..6], &[], &[0..9]]);
        for cut in 0..=9 {
            let mut begin = whole.clone();
            begin.truncate(cut);
            assert!(whole.check_continues(&begin).is_ok());
            begin.extend(&whole.from(cut));
            assert_eq!(begin, whole, "cut at {cut}");
        }
        assert_eq!((0..4).map(|row| whole.count(row)).collect::<Vec<_>>(), [7, 4, 0, 9]);
        assert_eq!([0, 3, 5, 6, 9].map(|column| whole.count_before(1, column)), [0, 3, 3, 4, 4]);
        assert!(!whole.are_all() && UnpaddedTokens::all(2, 3).are_all() && UnpaddedTokens::all(2, 0).are_all());
    }

    #[test]
    fn padding_that_changes_is_an_error() {
        let earlier = tokens(5, &[&[0..5], &[2..5]]);
        let error = tokens(6, &[&[0..6], &[1..6]]).check_continues(&earlier);
        assert_eq!(error, Err(AttentionError::Padding { sequence: 1, position: 1, was_padding: true }));
        let error = tokens(6, &[&[0..2, 3..6], &[2..6]]).check_continues(&earlier);
        assert_eq!(error, Err(AttentionError::Padding { sequence: 0, position: 2, was_padding: false }));
    }
}
