use std::ops::Range;

use burn::tensor::{Bool, DType, IndexingUpdateOp, Int, Tensor, backend::Backend};

use super::{KeyIndices, Mask, MaskError, MaskForm, Pattern};
use crate::device::check_size;

/// Weights are always f32, because a rounded probability biases every estimate: 0.1 is 0.100098 in bf16.
pub(super) fn as_f32<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Tensor<B, D> {
    match tensor.dtype() {
        DType::F32 => tensor,
        _ => tensor.cast(DType::F32),
    }
}

impl<B: Backend> Mask<B> {
    /// The weight of every query-key pair.
    ///
    /// # Shapes
    /// - output: `[batch, heads, queries, keys]`, f32, each weight in [0, 1].
    ///
    /// # Panics
    /// If the weights are larger than the device can hold. [try_to_dense](Self::try_to_dense) returns an error instead.
    pub fn to_dense(&self) -> Tensor<B, 4> {
        match self.try_to_dense() {
            Ok(weights) => weights,
            Err(limit) => panic!("{limit}"),
        }
    }

    /// The weight of every query-key pair.
    ///
    /// # Shapes
    /// - output: `[batch, heads, queries, keys]`, f32, each weight in [0, 1].
    ///
    /// # Errors
    /// If the weights are larger than the device or memory can hold.
    pub fn try_to_dense(&self) -> Result<Tensor<B, 4>, MaskError> {
        if let MaskForm::Dense(weights) = self.form() {
            return Ok(weights.clone());
        }
        let dims = self.shape().dims();
        self.shape().check()?;
        self.shape().check_memory("weights of all pairs", size_of::<f32>())?;
        check_size::<B>("weights of all pairs", &dims, DType::F32, &self.device())?;
        let options = (&self.device(), DType::F32);
        Ok(match self.form() {
            MaskForm::Empty => Tensor::zeros(dims, options),
            MaskForm::Full => Tensor::ones(dims, options),
            MaskForm::Pattern(pattern) => {
                let shape = self.shape();
                let columns = [shape.all_keys()];
                let kept = pattern_kept::<B>(*pattern, 0..shape.queries, &columns, shape.keys, &self.device());
                as_f32(kept.float()).expand(dims)
            }
            MaskForm::Indices(rows) => scatter_rows(rows, dims, &self.device()),
            MaskForm::Dense(weights) => weights.clone(),
        })
    }

    /// A mask of the same keys, each with probability 1.
    pub fn support(&self) -> Self {
        let form = match self.form() {
            MaskForm::Indices(rows) => MaskForm::Indices(rows.support()),
            MaskForm::Dense(weights) => MaskForm::Dense(as_f32(weights.clone().greater_elem(0.0).float())),
            closed => closed.clone(),
        };
        Self::with_form(self.shape(), form, &self.device())
    }

    /// One head of the mask, in the same form.
    pub(crate) fn head(&self, batch: usize, head: usize) -> Self {
        let mut shape = self.shape();
        (shape.batch, shape.heads) = (1, 1);
        let (batches, heads) = (batch..batch + 1, head..head + 1);
        let form = match self.form() {
            MaskForm::Indices(rows) => MaskForm::Indices(rows.narrow([batches, heads, 0..shape.queries])),
            MaskForm::Dense(weights) => MaskForm::Dense(weights.clone().slice_dim(0, batches).slice_dim(1, heads)),
            closed => closed.clone(),
        };
        Self::with_form(shape, form, &self.device())
    }

    /// Some rows of the mask, in the same form.
    pub(crate) fn narrow_rows(&self, rows: Range<usize>) -> Self {
        let mut shape = self.shape();
        shape.queries = rows.len();
        let form = match self.form() {
            MaskForm::Pattern(pattern) => {
                MaskForm::Pattern(Pattern { offset: pattern.offset.saturating_add_unsigned(rows.start), ..*pattern })
            }
            MaskForm::Indices(lists) => MaskForm::Indices(lists.narrow([0..shape.batch, 0..shape.heads, rows])),
            MaskForm::Dense(weights) => MaskForm::Dense(weights.clone().slice_dim(2, rows)),
            closed => closed.clone(),
        };
        Self::with_form(shape, form, &self.device())
    }
}

fn scatter_rows<B: Backend>(rows: &KeyIndices<B>, dims: [usize; 4], device: &B::Device) -> Tensor<B, 4> {
    // Unused slots add their probability of 0 to key 0. The keys of a row are distinct, so every weight is added once.
    let indices = rows.indices().clamp_min(0);
    Tensor::zeros(dims, (device, DType::F32)).scatter(3, indices, rows.probability(), IndexingUpdateOp::Add)
}

/// Whether a pattern keeps each of some columns in each of some rows, `[1, 1, rows, columns]`.
pub(crate) fn pattern_kept<B: Backend>(
    pattern: Pattern,
    rows: Range<usize>,
    columns: &[Range<usize>],
    keys: usize,
    device: &B::Device,
) -> Tensor<B, 4, Bool> {
    let pattern = pattern.within_reach(rows.end, keys);
    let column = columns_index::<B>(columns, device);
    let row = Tensor::<B, 1, Int>::arange(rows.start as i64..rows.end as i64, device).reshape([1, 1, rows.len(), 1]);
    let distance = row.add_scalar(pattern.offset as i64).sub(column.clone());
    let in_window = distance.clone().greater_equal_elem(0).bool_and(distance.lower_elem(pattern.window as i64));
    in_window.bool_or(column.lower_elem(pattern.sink as i64))
}

/// The key of each column, `[1, 1, 1, columns]`.
pub(crate) fn columns_index<B: Backend>(columns: &[Range<usize>], device: &B::Device) -> Tensor<B, 4, Int> {
    let parts = columns
        .iter()
        .map(|range| Tensor::<B, 1, Int>::arange(range.start as i64..range.end as i64, device))
        .collect::<Vec<_>>();
    let all = Tensor::cat(parts, 0);
    let length = all.dims()[0];
    all.reshape([1, 1, 1, length])
}
