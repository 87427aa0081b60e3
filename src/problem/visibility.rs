use std::ops::Range;

use burn::tensor::{Bool, DType, Int, Tensor, backend::Backend};

use super::AttentionError;
use crate::mask::MaskShape;

/// Which keys a query may see at all, before any method chooses among them.
#[derive(Debug, Clone)]
pub enum Visibility<B: Backend> {
    /// Every key.
    Full,
    /// Query `i` sees the keys `0..=offset + i`.
    ///
    /// The offset is the number of keys before the first query. It is 0 in a prefill from nothing, the number of cached
    /// keys in a chunked prefill, and `keys - 1` in a decode step.
    Causal {
        /// The position of the first query.
        offset: usize,
    },
    /// Query `i` sees the last `window` keys up to and including its own position `offset + i`: a layer with
    /// sliding-window attention.
    ///
    /// A sparse method chooses its keys within the window.
    Window {
        /// The position of the first query.
        offset: usize,
        /// How many keys a query sees, at least 1.
        window: usize,
    },
    /// `true` = hidden, as in burn. `[batch or 1, heads or 1, queries, keys]`.
    Masked(Tensor<B, 4, Bool>),
    /// Added to the scaled scores. `[batch or 1, heads or 1, queries, keys]`.
    ///
    /// An entry hides the key if it is at or below half of the lowest number of its type. Minus infinity and
    /// HuggingFace's `finfo.min` therefore hide the key.
    Biased(Tensor<B, 4>),
}

impl<B: Backend> Visibility<B> {
    /// Checks that a tensor in it fits a shape, that a window shows at least one key, and that positions fit in the
    /// 32-bit integers of devices.
    pub(crate) fn validate(&self, shape: MaskShape) -> Result<(), AttentionError> {
        let found = match self {
            Self::Window { window: 0, .. } => {
                return Err(AttentionError::Value { field: "window", value: "0".into(), allowed: "at least 1" });
            }
            Self::Causal { offset } | Self::Window { offset, .. }
                if offset.checked_add(shape.queries).is_none_or(|end| end > i32::MAX as usize) =>
            {
                let allowed = "less than 2^31, with the number of queries added";
                return Err(AttentionError::Value { field: "offset", value: offset.to_string(), allowed });
            }
            Self::Full | Self::Causal { .. } | Self::Window { .. } => return Ok(()),
            Self::Masked(hidden) => hidden.dims(),
            Self::Biased(bias) => bias.dims(),
        };
        let fits = (found[0] == shape.batch || found[0] == 1)
            && (found[1] == shape.heads || found[1] == 1)
            && found[2..] == [shape.queries, shape.keys];
        match fits {
            true => Ok(()),
            false => Err(AttentionError::Shape {
                tensor: "visibility",
                found: found.to_vec(),
                expected: format!(
                    "[{} or 1, {} or 1, {}, {}] (batch, heads, queries, keys)",
                    shape.batch, shape.heads, shape.queries, shape.keys
                ),
            }),
        }
    }

    /// A function from a row and the number of keys to the range of keys that the row sees. `None` if the visibility is
    /// a tensor.
    pub(crate) fn closed_form(&self) -> Option<impl Fn(usize, usize) -> Range<usize> + use<B>> {
        let (offset, window) = match self {
            Self::Full => (usize::MAX, usize::MAX),
            Self::Causal { offset } => (*offset, usize::MAX),
            Self::Window { offset, window } => (*offset, *window),
            Self::Masked(_) | Self::Biased(_) => return None,
        };
        Some(move |row: usize, keys: usize| {
            let end = offset.saturating_add(row).saturating_add(1);
            end.saturating_sub(window).min(keys)..end.min(keys)
        })
    }

    /// A range of keys that contains all keys that the given rows see.
    pub(crate) fn span(&self, rows: &Range<usize>, keys: usize) -> Range<usize> {
        match (self.closed_form(), rows.end.checked_sub(1)) {
            (Some(seen), Some(last)) => seen(rows.start, keys).start..seen(last, keys).end,
            _ => 0..keys,
        }
    }

    /// Which of some columns are hidden from each of some rows, `[batch or 1, heads or 1, rows, columns]`. `None` if no
    /// column is known to be hidden.
    pub(crate) fn hidden(
        &self,
        shape: MaskShape,
        rows: Range<usize>,
        columns: &[Range<usize>],
        device: &B::Device,
    ) -> Option<Tensor<B, 4, Bool>> {
        match self {
            Self::Full => None,
            Self::Causal { offset } | Self::Window { offset, .. } => {
                let window = if let Self::Window { window, .. } = self { *window } else { usize::MAX };
                let first = columns.iter().map(|range| range.start).min().unwrap_or(0);
                let last = columns.iter().map(|range| range.end).max().unwrap_or(0);
                let after = last.min(shape.keys) > offset + rows.start + 1;
                let before = first < (offset + rows.end).saturating_sub(window);
                if !after && !before {
                    return None;
                }
                let column = crate::mask::columns_index::<B>(columns, device);
                let length = rows.len();
                let row = Tensor::<B, 1, Int>::arange(rows.start as i64..rows.end as i64, device)
                    .reshape([1, 1, length, 1])
                    .add_scalar(*offset as i64);
                let hidden = column.clone().greater(row.clone());
                match before {
                    // The cast is exact: a window that hides a key is shorter than the number of positions.
                    true => Some(hidden.bool_or(column.lower_equal(row.sub_scalar(window as i64)))),
                    false => Some(hidden),
                }
            }
            Self::Masked(hidden) => Some(take_columns(hidden.clone().slice_dim(2, rows), columns)),
            Self::Biased(bias) => {
                let bias = take_columns(bias.clone().slice_dim(2, rows), columns);
                let hides = hides_below(bias.dtype());
                Some(bias.lower_equal_elem(hides))
            }
        }
    }

    /// The bias that is added to the scores of some rows and columns, cast to `dtype`. An entry that hides its key is 0
    /// here and `true` in [Self::hidden].
    pub(crate) fn bias(&self, rows: Range<usize>, columns: &[Range<usize>], dtype: DType) -> Option<Tensor<B, 4>> {
        let Self::Biased(bias) = self else {
            return None;
        };
        let bias = take_columns(bias.clone().slice_dim(2, rows), columns);
        let hides = hides_below(bias.dtype());
        let hidden = bias.clone().lower_equal_elem(hides);
        Some(bias.mask_fill(hidden, 0.0).cast(dtype))
    }
}

/// A bias at or below this hides the key.
fn hides_below(dtype: DType) -> f64 {
    dtype.finfo().map_or(f64::from(f32::MIN), |limits| limits.min) / 2.0
}

/// Some columns of the last dimension.
pub(crate) fn take_columns<B: Backend, const D: usize, K>(
    tensor: Tensor<B, D, K>,
    columns: &[Range<usize>],
) -> Tensor<B, D, K>
where
    K: burn::tensor::BasicOps<B>,
{
    take(tensor, D - 1, columns)
}

/// Some ranges of a dimension, without a copy where there is one range.
pub(crate) fn take<B: Backend, const D: usize, K>(
    tensor: Tensor<B, D, K>,
    dim: usize,
    ranges: &[Range<usize>],
) -> Tensor<B, D, K>
where
    K: burn::tensor::BasicOps<B>,
{
    match ranges {
        [range] if *range == (0..tensor.dims()[dim]) => tensor,
        [range] => tensor.slice_dim(dim, range.clone()),
        _ => Tensor::cat(ranges.iter().map(|range| tensor.clone().slice_dim(dim, range.clone())).collect(), dim),
    }
}
