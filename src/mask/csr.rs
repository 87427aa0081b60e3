use burn::tensor::backend::Backend;

use super::key_indices::{Kept, validate_rows};
use super::{KeyIndices, Mask, MaskError, MaskForm, MaskShape};

/// A mask as compressed sparse rows on the host, for exchange with other programs.
///
/// The rows are counted over batch, heads and queries. Row `r` keeps the keys `indices[ptr[r]..ptr[r + 1]]` with the
/// probabilities `data[ptr[r]..ptr[r + 1]]`. These are the three arrays of `scipy.sparse.csr_matrix`. The Python
/// project writes `row * keys + key` instead of `key`.
#[derive(Debug, Clone, PartialEq)]
pub struct Csr {
    /// The kept keys, row after row.
    pub indices: Vec<usize>,
    /// Where each row starts in `indices` and `data`. It has one entry more than there are rows.
    pub ptr: Vec<usize>,
    /// The probability with which each key is kept, in (0, 1].
    pub data: Vec<f32>,
}

impl<B: Backend> Mask<B> {
    /// Creates a mask in the [form of lists](MaskForm::Indices) from compressed sparse rows.
    ///
    /// # Errors
    /// If a list has the wrong length, the pointers decrease, a key does not exist, a row has a key twice, or a weight
    /// is not in (0, 1]. Also if no mask can have this shape.
    pub fn from_csr(shape: MaskShape, csr: &Csr, device: &B::Device) -> Result<Self, MaskError> {
        let length = |field, found, expected| match found == expected {
            true => Ok(()),
            false => Err(MaskError::Length { field, found, expected }),
        };
        shape.check()?;
        length("ptr", csr.ptr.len(), shape.rows() + 1)?;
        length("data", csr.data.len(), csr.indices.len())?;
        let mut rows = Vec::with_capacity(shape.rows());
        for (row, bounds) in csr.ptr.windows(2).enumerate() {
            let (start, end) = (bounds[0], bounds[1]);
            if start > end || end > csr.indices.len() || (row == 0 && start != 0) {
                return Err(MaskError::Pointer { row, start, end });
            }
            let kept = (start..end).map(|i| match csr.indices[i] < shape.keys {
                true => Ok(Kept { key: csr.indices[i] as u32, probability: csr.data[i] }),
                false => Err(MaskError::Index { row, index: csr.indices[i] as i64, keys: shape.keys }),
            });
            rows.push(kept.collect::<Result<Vec<_>, _>>()?);
        }
        length("indices", csr.indices.len(), csr.ptr[shape.rows()])?;
        validate_rows(rows.iter().map(Vec::as_slice))?;
        Ok(Self::from_host_rows(shape, &rows, device))
    }

    /// The mask as compressed sparse rows. The [form of lists](MaskForm::Indices) keeps the order of its slots. All
    /// other forms list the keys in ascending order.
    ///
    /// # Panics
    /// If memory cannot hold the rows. [try_to_csr](Self::try_to_csr) returns an error instead.
    pub fn to_csr(&self) -> Csr {
        match self.try_to_csr() {
            Ok(csr) => csr,
            Err(error) => panic!("{error}"),
        }
    }

    /// The mask as compressed sparse rows, in the order of [to_csr](Self::to_csr).
    ///
    /// # Errors
    /// If memory cannot hold the rows.
    pub fn try_to_csr(&self) -> Result<Csr, MaskError> {
        self.check_rows()?;
        let rows = self.to_host_rows();
        let mut csr = Csr { indices: Vec::new(), ptr: vec![0], data: Vec::new() };
        for row in rows {
            csr.indices.extend(row.iter().map(|kept| kept.key as usize));
            csr.data.extend(row.iter().map(|kept| kept.probability));
            csr.ptr.push(csr.indices.len());
        }
        Ok(csr)
    }

    /// Checks that memory can hold a closed form as rows. The other forms are in memory already.
    fn check_rows(&self) -> Result<(), MaskError> {
        let shape = self.shape();
        let most = match self.form() {
            MaskForm::Indices(_) | MaskForm::Dense(_) => return Ok(()),
            MaskForm::Empty => 0,
            MaskForm::Full => shape.keys,
            MaskForm::Pattern(pattern) => pattern.sink.saturating_add(pattern.window).min(shape.keys),
        };
        shape.check()?;
        // Each row is a separate list.
        let bytes = most.saturating_mul(size_of::<Kept>()).saturating_add(size_of::<Vec<Kept>>());
        MaskShape { keys: 1, ..shape }
            .check_memory("compressed sparse rows", bytes)
            .map_err(|_| MaskError::TooLarge { what: "compressed sparse rows", shape })
    }

    pub(crate) fn from_host_rows(shape: MaskShape, rows: &[Vec<Kept>], device: &B::Device) -> Self {
        match KeyIndices::from_host(shape, rows, device) {
            Some(rows) => Self::with_form(shape, MaskForm::Indices(rows), device),
            None => Self::empty(shape, device),
        }
    }

    /// The kept keys of each row, on the host.
    pub(crate) fn to_host_rows(&self) -> Vec<Vec<Kept>> {
        let MaskShape { queries, keys, .. } = self.shape();
        let range = |range: std::ops::Range<usize>| range.map(|key| Kept::certainly(key as u32));
        match self.form() {
            MaskForm::Empty => vec![Vec::new(); self.shape().rows()],
            MaskForm::Full => vec![range(0..keys).collect(); self.shape().rows()],
            MaskForm::Pattern(pattern) => (0..self.shape().rows())
                .map(|row| pattern.row(row % queries, keys).into_iter().flat_map(range).collect())
                .collect(),
            MaskForm::Indices(rows) => rows.to_host(),
            MaskForm::Dense(weights) => {
                let weights = weights.to_data().convert::<f32>().iter::<f32>().collect::<Vec<_>>();
                if keys == 0 {
                    return vec![Vec::new(); self.shape().rows()];
                }
                weights
                    .chunks(keys)
                    .map(|row| {
                        (0..)
                            .zip(row)
                            .filter(|(_, weight)| **weight > 0.0)
                            .map(|(key, &probability)| Kept { key, probability })
                            .collect()
                    })
                    .collect()
            }
        }
    }
}
