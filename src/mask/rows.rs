use burn::tensor::{DType, Int, Tensor, TensorData, backend::Backend};

use super::{MaskError, MaskShape};

/// Kept keys as lists: what a top-k yields and what gather kernels read.
///
/// # Shapes
/// - indices: `[batch, heads, queries, width]`, the kept keys of each row without repetition; -1 marks an unused slot.
/// - probability: `[batch, heads, queries, width]`, f32, with what probability each key was kept, in (0, 1]; 0 in
///   unused slots.
#[derive(Debug, Clone)]
pub struct Rows<B: Backend> {
    /// The kept keys, -1 for an unused slot.
    pub indices: Tensor<B, 4, Int>,
    /// With what probability each was kept.
    pub probability: Tensor<B, 4>,
}

/// One kept key of a row on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Kept {
    pub key: u32,
    pub probability: f32,
}

impl Kept {
    pub fn certainly(key: u32) -> Self {
        Self { key, probability: 1.0 }
    }
}

impl<B: Backend> Rows<B> {
    /// Slots per row.
    pub fn width(&self) -> usize {
        self.indices.dims()[3]
    }

    /// Rows given as lists on the host, padded to the longest. `None` if all are empty.
    pub(crate) fn from_host(shape: MaskShape, rows: &[Vec<Kept>], device: &B::Device) -> Option<Self> {
        let width = rows.iter().map(Vec::len).max().unwrap_or(0);
        if width == 0 {
            return None;
        }
        let mut indices = vec![-1i32; rows.len() * width];
        let mut probability = vec![0f32; rows.len() * width];
        for (row, kept) in rows.iter().enumerate() {
            for (slot, kept) in kept.iter().enumerate() {
                indices[row * width + slot] = kept.key as i32;
                probability[row * width + slot] = kept.probability;
            }
        }
        let dims = [shape.batch, shape.heads, shape.queries, width];
        Some(Self {
            indices: Tensor::from_data(TensorData::new(indices, dims), device),
            probability: Tensor::from_data(TensorData::new(probability, dims), (device, DType::F32)),
        })
    }

    /// The rows as lists on the host, in slot order.
    pub(crate) fn to_host(&self) -> Vec<Vec<Kept>> {
        let width = self.width();
        let indices = self.indices.to_data().convert::<i64>();
        let probability = self.probability.to_data().convert::<f32>();
        let rows = indices.iter::<i64>().zip(probability.iter::<f32>()).collect::<Vec<_>>();
        rows.chunks(width.max(1))
            .map(|row| {
                row.iter()
                    .filter(|(index, _)| *index >= 0)
                    .map(|&(index, probability)| Kept { key: index as u32, probability })
                    .collect()
            })
            .collect()
    }

    /// Checks what the type promises, reading both tensors back.
    pub(crate) fn validate(&self, shape: MaskShape) -> Result<(), MaskError> {
        let expected = [shape.batch, shape.heads, shape.queries, self.width()];
        for (what, found) in
            [("the tensor of indices", self.indices.dims()), ("the tensor of probabilities", self.probability.dims())]
        {
            if found != expected {
                return Err(MaskError::Shape { what, found: found.to_vec(), expected: shape });
            }
        }
        let width = self.width().max(1);
        let indices = self.indices.to_data().convert::<i64>();
        for (slot, index) in indices.iter::<i64>().enumerate() {
            if index < -1 || index >= shape.keys as i64 {
                return Err(MaskError::Index { row: slot / width, index, keys: shape.keys });
            }
        }
        validate_rows(self.to_host().iter().map(Vec::as_slice), shape.keys)
    }
}

/// Each key at most once in a row, each probability in (0, 1].
pub(super) fn validate_rows<'a>(rows: impl Iterator<Item = &'a [Kept]>, keys: usize) -> Result<(), MaskError> {
    let mut last_row_naming = vec![usize::MAX; keys];
    for (row, kept) in rows.enumerate() {
        for &Kept { key, probability } in kept {
            let key = key as usize;
            if last_row_naming[key] == row {
                return Err(MaskError::Duplicate { row, key });
            }
            last_row_naming[key] = row;
            if !(probability > 0.0 && probability <= 1.0) {
                return Err(MaskError::Weight { row, key, weight: probability, allowed: "(0, 1]" });
            }
        }
    }
    Ok(())
}
