use burn::tensor::{DType, Tensor, backend::Backend};

use crate::{
    mask::{Mask, MaskForm, MaskShape},
    problem::{AttentionInputs, Density},
};

/// Numbers of query-key pairs in one or more rows of a mask.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct RowCounts {
    /// Visible pairs.
    pub visible: f64,
    /// Pairs that are visible and kept.
    pub read: f64,
    /// Kept pairs, visible or not.
    pub kept: f64,
    /// Visible pairs that are kept with a probability below 1.
    pub sampled: f64,
    /// All pairs.
    pub all: f64,
}

impl RowCounts {
    pub fn add(self, other: &Self) -> Self {
        Self {
            visible: self.visible + other.visible,
            read: self.read + other.read,
            kept: self.kept + other.kept,
            sampled: self.sampled + other.sampled,
            all: self.all + other.all,
        }
    }

    pub fn density(&self) -> Density {
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        Density { visible: share(self.read, self.visible), all: share(self.kept, self.all) }
    }

    /// The counts of each row. Rows are counted over batch, heads and queries.
    pub fn of<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Vec<Self> {
        let MaskShape { queries, keys, .. } = mask.shape();
        let rows = 0..mask.shape().rows();
        let all = keys as f64;
        match (mask.form(), inputs.visibility().closed_form()) {
            (MaskForm::Dense(_), _) | (_, None) => Self::of_dense(inputs, mask),
            (MaskForm::Indices(kept), Some(seen)) => {
                let (lists, width) = (kept.lists(), kept.width());
                let of_row = |row: usize| {
                    let seen = seen(row % queries, keys);
                    let mut counts = Self { visible: seen.len() as f64, all, ..Self::default() };
                    for slot in row * width..(row + 1) * width {
                        // Unused slots hold -1.
                        let Ok(key) = usize::try_from(lists.indices[slot]) else { continue };
                        counts.kept += 1.0;
                        if seen.contains(&key) {
                            let probability = lists.probability.as_ref().map_or(1.0, |all| all[slot]);
                            counts.read += 1.0;
                            counts.sampled += if probability < 1.0 { 1.0 } else { 0.0 };
                        }
                    }
                    counts
                };
                rows.map(of_row).collect()
            }
            (form, Some(seen)) => {
                let of_query = |query: usize| {
                    let seen = seen(query, keys);
                    let ranges = match form {
                        MaskForm::Empty => [0..0, 0..0],
                        MaskForm::Pattern(pattern) => pattern.row(query, keys),
                        _ => [0..keys, 0..0],
                    };
                    let read =
                        ranges.iter().map(|range| range.end.min(seen.end).saturating_sub(range.start.max(seen.start)));
                    let (read, kept) = (read.sum::<usize>(), ranges.iter().map(ExactSizeIterator::len).sum::<usize>());
                    Self { visible: seen.len() as f64, read: read as f64, kept: kept as f64, sampled: 0.0, all }
                };
                let of_queries = (0..queries).map(of_query).collect::<Vec<_>>();
                rows.map(|row| of_queries[row % queries]).collect()
            }
        }
    }

    fn of_dense<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Vec<Self> {
        let (shape, device) = (mask.shape(), inputs.device());
        let ones = || Tensor::<B, 4>::ones(shape.dims(), (&device, DType::F32));
        let visible = match inputs.visibility().hidden(shape, 0..shape.queries, &[shape.all_keys()], &device) {
            Some(hidden) => ones().mask_fill(hidden.expand(shape.dims()), 0.0),
            None => ones(),
        };
        let weights = mask.to_dense();
        let kept = ones().mask_fill(weights.clone().lower_equal_elem(0.0), 0.0);
        let sampled = kept.clone().mask_fill(weights.greater_equal_elem(1.0), 0.0) * visible.clone();
        // Up to 2^24 keys, counts of one row are exact in f32.
        let per_row =
            |counts: Tensor<B, 4>| counts.sum_dim(3).into_data().convert::<f64>().iter::<f64>().collect::<Vec<_>>();
        let read = per_row(kept.clone() * visible.clone());
        let (visible, kept, sampled) = (per_row(visible), per_row(kept), per_row(sampled));
        let all = shape.keys as f64;
        let row =
            |row: usize| Self { visible: visible[row], read: read[row], kept: kept[row], sampled: sampled[row], all };
        (0..shape.rows()).map(row).collect()
    }
}
