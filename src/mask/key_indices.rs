use std::{
    borrow::Cow,
    ops::Range,
    sync::{Arc, OnceLock},
};

use burn::tensor::{DType, Int, Tensor, TensorData, backend::Backend};

use super::{Chosen, MaskError, MaskShape, Pattern, convert::as_f32};
use crate::device::as_indices;

/// Kept keys as lists. A top-k selection yields them, and gather kernels read them.
///
/// The lists are in host memory, in tensors, or in both. The other form is made when it is first needed, so a mask that
/// is chosen on the host and read there never becomes a tensor.
#[derive(Debug, Clone)]
pub struct KeyIndices<B: Backend> {
    /// `[batch, heads, queries, width]`.
    dims: [usize; 4],
    device: B::Device,
    // One of the next two fields is filled from the start.
    lists: OnceLock<Arc<Lists>>,
    tensors: OnceLock<(Tensor<B, 4, Int>, Tensor<B, 4>)>,
}

/// Kept keys as lists in host memory, row after row.
#[derive(Debug, Clone)]
pub(crate) struct Lists {
    /// The kept keys of each row, -1 for an unused slot.
    pub indices: Vec<i32>,
    /// The probability with which each key is kept, 0 in unused slots. `None` if all keys have probability 1.
    pub probability: Option<Vec<f32>>,
}

impl Lists {
    fn probability(&self) -> Cow<'_, [f32]> {
        match &self.probability {
            Some(probability) => Cow::Borrowed(probability),
            None => Cow::Owned(self.indices.iter().map(|&index| if index >= 0 { 1.0 } else { 0.0 }).collect()),
        }
    }
}

/// One kept key of a row on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Kept {
    pub key: u32,
    pub probability: f32,
}

impl Kept {
    /// A key with probability 1.
    pub fn certainly(key: u32) -> Self {
        Self { key, probability: 1.0 }
    }
}

impl<B: Backend> KeyIndices<B> {
    /// Creates lists of kept keys. [Mask::from_indices](super::Mask::from_indices) checks the keys and probabilities.
    ///
    /// # Shapes
    /// - indices: `[batch, heads, queries, width]`, the kept keys of each row without repetition. -1 marks an unused
    ///   slot.
    /// - probability: `[batch, heads, queries, width]`, the probability with which each key is kept, in (0, 1]. Unused
    ///   slots may hold any number.
    ///
    /// # Errors
    /// If the shapes differ, or an index does not fit in 32 bits. Indices of a wider type are read back to check this.
    pub fn new(indices: Tensor<B, 4, Int>, probability: Tensor<B, 4>) -> Result<Self, MaskError> {
        let dims = indices.dims();
        if dims != probability.dims() {
            let [batch, heads, queries, keys] = dims;
            return Err(MaskError::Shape {
                what: "the tensor of probabilities",
                found: probability.dims().to_vec(),
                expected: MaskShape { batch, heads, queries, keys },
            });
        }
        check_width(&indices)?;
        let indices = as_indices(indices);
        let used = indices.clone().greater_equal_elem(0);
        let probability = as_f32(probability).mask_fill(used.bool_not(), 0.0);
        Ok(Self::from_tensors(indices, probability))
    }

    /// Creates lists from tensors of the same shape. The probability is f32, and 0 in unused slots.
    pub(super) fn from_tensors(indices: Tensor<B, 4, Int>, probability: Tensor<B, 4>) -> Self {
        let (dims, device) = (indices.dims(), indices.device());
        Self { dims, device, lists: OnceLock::new(), tensors: OnceLock::from((indices, probability)) }
    }

    /// Creates lists from host memory, with `dims[3]` slots in each row.
    fn from_lists(dims: [usize; 4], lists: Lists, device: &B::Device) -> Self {
        Self { dims, device: device.clone(), lists: OnceLock::from(Arc::new(lists)), tensors: OnceLock::new() }
    }

    /// Creates lists from rows on the host, which are padded to the longest row. `None` if all rows are empty.
    pub(crate) fn from_host(shape: MaskShape, rows: &[Vec<Kept>], device: &B::Device) -> Option<Self> {
        let width = rows.iter().map(Vec::len).max().unwrap_or(0);
        if width == 0 {
            return None;
        }
        let mut indices = vec![-1; rows.len() * width];
        for (kept, indices) in rows.iter().zip(indices.chunks_exact_mut(width)) {
            kept.iter().zip(indices).for_each(|(kept, index)| *index = kept.key as i32);
        }
        let sampled = rows.iter().flatten().any(|kept| kept.probability != 1.0);
        let probability = sampled.then(|| {
            let mut probability = vec![0.0; rows.len() * width];
            for (kept, probability) in rows.iter().zip(probability.chunks_exact_mut(width)) {
                kept.iter().zip(probability).for_each(|(kept, probability)| *probability = kept.probability);
            }
            probability
        });
        let lists = Lists { indices, probability };
        Some(Self::from_lists([shape.batch, shape.heads, shape.queries, width], lists, device))
    }

    /// Creates lists of the keys of a pattern, if there is one, and of chosen keys that it does not keep. The rows are
    /// padded to the longest. `None` if all rows are empty.
    pub(super) fn from_chosen(
        shape: MaskShape,
        pattern: Option<Pattern>,
        chosen: &Chosen,
        device: &B::Device,
    ) -> Option<Self> {
        let of_pattern = |row: usize| {
            let ranges = pattern.map_or([0..0, 0..0], |pattern| pattern.row(row % shape.queries, shape.keys));
            ranges.map(|range| range.start as i32..range.end as i32)
        };
        let length =
            |(row, chosen): (usize, &[u32])| chosen.len() + of_pattern(row).iter().map(Range::len).sum::<usize>();
        let width = chosen.by_row(shape).enumerate().map(length).max().unwrap_or(0);
        if width == 0 {
            return None;
        }
        let mut indices = Vec::with_capacity(shape.rows() * width);
        for (row, chosen) in chosen.by_row(shape).enumerate() {
            of_pattern(row).into_iter().for_each(|range| indices.extend(range));
            indices.extend(chosen.iter().map(|&key| key as i32));
            indices.resize((row + 1) * width, -1);
        }
        let lists = Lists { indices, probability: None };
        Some(Self::from_lists([shape.batch, shape.heads, shape.queries, width], lists, device))
    }

    /// The same lists for another backend.
    #[cfg(feature = "train")]
    pub(crate) fn on_backend<T: Backend<Device = B::Device>>(&self) -> KeyIndices<T> {
        let lists = OnceLock::from(self.lists().clone());
        KeyIndices { dims: self.dims, device: self.device.clone(), lists, tensors: OnceLock::new() }
    }

    /// `[batch, heads, queries, width]`.
    pub fn dims(&self) -> [usize; 4] {
        self.dims
    }

    /// The number of slots in each row.
    pub fn width(&self) -> usize {
        self.dims[3]
    }

    /// The device of the tensors. They are created there if they do not exist yet.
    pub fn device(&self) -> B::Device {
        self.device.clone()
    }

    /// The kept keys of each row, -1 for an unused slot.
    ///
    /// # Shapes
    /// - output: `[batch, heads, queries, width]`.
    pub fn indices(&self) -> Tensor<B, 4, Int> {
        self.tensors().0.clone()
    }

    /// The probability with which each key is kept, 0 in unused slots.
    ///
    /// # Shapes
    /// - output: `[batch, heads, queries, width]`, f32.
    pub fn probability(&self) -> Tensor<B, 4> {
        self.tensors().1.clone()
    }

    fn tensors(&self) -> &(Tensor<B, 4, Int>, Tensor<B, 4>) {
        self.tensors.get_or_init(|| {
            let lists = self.lists();
            let indices = TensorData::new(lists.indices.clone(), self.dims);
            let probability = TensorData::new(lists.probability().into_owned(), self.dims);
            let probability = Tensor::from_data(probability, (&self.device, DType::F32));
            (Tensor::from_data(indices, &self.device), probability)
        })
    }

    /// The lists in host memory.
    pub(crate) fn lists(&self) -> &Arc<Lists> {
        self.lists.get_or_init(|| {
            let (indices, probability) = self.tensors();
            // An index that does not fit in 32 bits is not a key. It becomes another number that is not a key.
            let index = |index: i64| i32::try_from(index).unwrap_or(i32::MIN);
            let indices = indices.to_data().convert::<i64>().iter::<i64>().map(index).collect();
            let probability = probability.to_data().convert::<f32>().iter::<f32>().collect();
            Arc::new(Lists { indices, probability: Some(probability) })
        })
    }

    /// The rows as lists on the host, in slot order.
    pub(crate) fn to_host(&self) -> Vec<Vec<Kept>> {
        let lists = self.lists();
        let [batch, heads, queries, width] = self.dims;
        if width == 0 {
            return vec![Vec::new(); batch * heads * queries];
        }
        let probability = lists.probability();
        let rows = lists.indices.chunks(width).zip(probability.chunks(width));
        rows.map(|(indices, probability)| {
            let slots = indices.iter().zip(probability).filter(|(index, _)| **index >= 0);
            slots.map(|(&index, &probability)| Kept { key: index as u32, probability }).collect()
        })
        .collect()
    }

    /// The same keys, each with probability 1.
    pub(super) fn support(&self) -> Self {
        match self.lists.get() {
            Some(lists) => {
                let lists = Lists { indices: lists.indices.clone(), probability: None };
                Self::from_lists(self.dims, lists, &self.device)
            }
            None => {
                let indices = self.indices();
                let ones = as_f32(indices.clone().greater_equal_elem(0).float());
                Self::from_tensors(indices, ones)
            }
        }
    }

    /// The lists of some sequences, heads and queries.
    pub(super) fn narrow(&self, ranges: [Range<usize>; 3]) -> Self {
        let [batch, heads, queries] = ranges;
        let width = self.width();
        if width == 0 {
            let none = Lists { indices: Vec::new(), probability: None };
            return Self::from_lists([batch.len(), heads.len(), queries.len(), 0], none, &self.device);
        }
        match self.lists.get() {
            Some(lists) => {
                let dims = [batch.len(), heads.len(), queries.len(), width];
                let slots = dims.iter().product();
                let probability = lists.probability.as_ref().map(|_| Vec::with_capacity(slots));
                let mut narrowed = Lists { indices: Vec::with_capacity(slots), probability };
                for batch in batch {
                    for head in heads.clone() {
                        let first = (batch * self.dims[1] + head) * self.dims[2];
                        let slots = (first + queries.start) * width..(first + queries.end) * width;
                        narrowed.indices.extend_from_slice(&lists.indices[slots.clone()]);
                        if let (Some(narrowed), Some(all)) = (&mut narrowed.probability, &lists.probability) {
                            narrowed.extend_from_slice(&all[slots]);
                        }
                    }
                }
                Self::from_lists(dims, narrowed, &self.device)
            }
            None => {
                let ranges = [batch, heads, queries, 0..width];
                Self::from_tensors(self.indices().slice(ranges.clone()), self.probability().slice(ranges))
            }
        }
    }

    /// Repeats the lists of one head for all heads of all sequences.
    pub(super) fn repeat(&self, batch: usize, heads: usize) -> Self {
        let lists = self.lists();
        let [_, _, queries, width] = self.dims;
        let times = batch * heads;
        let probability = lists.probability.as_ref().map(|probability| probability.repeat(times));
        let lists = Lists { indices: lists.indices.repeat(times), probability };
        Self::from_lists([batch, heads, queries, width], lists, &self.device)
    }

    /// Joins the slots of both lists, row by row.
    pub(super) fn concatenate(self, other: Self) -> Self {
        if other.width() == 0 {
            return self;
        }
        if self.width() == 0 {
            return other;
        }
        let (Some(a), Some(b)) = (self.lists.get(), other.lists.get()) else {
            let indices = Tensor::cat(vec![self.indices(), other.indices()], 3);
            return Self::from_tensors(indices, Tensor::cat(vec![self.probability(), other.probability()], 3));
        };
        let ([batch, heads, queries, left], right) = (self.dims, other.width());
        let (rows, widths) = (batch * heads * queries, [left, right]);
        let lists = Lists {
            indices: side_by_side(rows, [&a.indices, &b.indices], widths),
            probability: match (&a.probability, &b.probability) {
                (None, None) => None,
                _ => Some(side_by_side(rows, [&a.probability(), &b.probability()], widths)),
            },
        };
        Self::from_lists([batch, heads, queries, left + right], lists, &self.device)
    }

    /// The rows without the keys that a pattern keeps.
    pub(super) fn outside(&self, pattern: Pattern) -> Self {
        self.without(pattern, true)
    }

    /// The rows with only the keys that a pattern keeps.
    pub(crate) fn inside(&self, pattern: Pattern) -> Self {
        self.without(pattern, false)
    }

    /// Removes the keys that a pattern keeps if `kept` is true, and all other keys if it is false.
    fn without(&self, pattern: Pattern, kept: bool) -> Self {
        let [_, _, queries, width] = self.dims;
        if width == 0 {
            return self.clone();
        }
        if let Some(lists) = self.lists.get() {
            let mut lists = Lists::clone(lists);
            for (slot, index) in lists.indices.iter_mut().enumerate() {
                let query = slot / width % queries;
                if usize::try_from(*index).is_ok_and(|key| pattern.keeps(query, key) == kept) {
                    *index = -1;
                    if let Some(probability) = &mut lists.probability {
                        probability[slot] = 0.0;
                    }
                }
            }
            return Self::from_lists(self.dims, lists, &self.device);
        }
        // The numbers of this pattern fit in the backend's integers. It keeps the same keys below `i32::MAX - queries`.
        let pattern = pattern.within_reach(queries, i32::MAX as usize - queries);
        let indices = self.indices();
        let first = pattern.offset as i64;
        let position =
            Tensor::<B, 1, Int>::arange(first..first + queries as i64, &self.device).reshape([1, 1, queries, 1]);
        let distance = position.sub(indices.clone());
        let in_window = distance.clone().greater_equal_elem(0).bool_and(distance.lower_elem(pattern.window as i64));
        let of_pattern = in_window.bool_or(indices.clone().lower_elem(pattern.sink as i64));
        let gone = if kept { of_pattern } else { of_pattern.bool_not() };
        Self::from_tensors(indices.mask_fill(gone.clone(), -1), self.probability().mask_fill(gone, 0.0))
    }

    /// Checks the shape, the keys and the probabilities, on the host.
    pub(crate) fn validate(&self, shape: MaskShape) -> Result<(), MaskError> {
        shape.check()?;
        if self.dims[..3] != [shape.batch, shape.heads, shape.queries] {
            let what = "the tensor of indices";
            return Err(MaskError::Shape { what, found: self.dims.to_vec(), expected: shape });
        }
        let width = self.width().max(1);
        for (slot, &index) in self.lists().indices.iter().enumerate() {
            if index < -1 || i64::from(index) >= shape.keys as i64 {
                return Err(MaskError::Index { row: slot / width, index: i64::from(index), keys: shape.keys });
            }
        }
        validate_rows(self.to_host().iter().map(Vec::as_slice))
    }
}

/// Joins rows of `widths[0]` elements with rows of `widths[1]` elements, row by row.
fn side_by_side<T: Copy>(rows: usize, parts: [&[T]; 2], widths: [usize; 2]) -> Vec<T> {
    let mut joined = Vec::with_capacity(parts[0].len() + parts[1].len());
    for row in 0..rows {
        for (part, width) in parts.into_iter().zip(widths) {
            joined.extend_from_slice(&part[row * width..][..width]);
        }
    }
    joined
}

/// Checks that indices of a wider type fit in 32 bits. The conversion could turn a wrong index into a valid key.
fn check_width<B: Backend>(indices: &Tensor<B, 4, Int>) -> Result<(), MaskError> {
    let width = indices.dims()[3].max(1);
    let wrong = match indices.dtype() {
        DType::I64 => {
            let host = indices.to_data();
            host.iter::<i64>().enumerate().find(|(_, index)| i32::try_from(*index).is_err())
        }
        DType::U32 | DType::U64 => {
            let host = indices.to_data();
            let wrong = host.iter::<u64>().enumerate().find(|(_, index)| i32::try_from(*index).is_err());
            wrong.map(|(slot, index)| (slot, i64::try_from(index).unwrap_or(i64::MAX)))
        }
        _ => None,
    };
    match wrong {
        Some((slot, index)) => Err(MaskError::IndexWidth { row: slot / width, index }),
        None => Ok(()),
    }
}

/// Checks that a row has each key at most once, and that each probability is in (0, 1].
pub(super) fn validate_rows<'a>(rows: impl Iterator<Item = &'a [Kept]>) -> Result<(), MaskError> {
    let mut sorted = Vec::new();
    for (row, kept) in rows.enumerate() {
        for &Kept { key, probability } in kept {
            if !(probability > 0.0 && probability <= 1.0) {
                let key = key as usize;
                return Err(MaskError::Weight { row, key, weight: probability, allowed: "(0, 1]" });
            }
        }
        // The memory for this check grows with the row. A flag for each key might not fit in memory.
        sorted.clear();
        sorted.extend(kept.iter().map(|kept| kept.key));
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(MaskError::Duplicate { row, key: twice[0] as usize });
        }
    }
    Ok(())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn_flex::Flex;

    use super::*;

    /// Each operation gives the same result on lists and on tensors.
    #[test]
    fn lists_and_tensors_agree() {
        let shape = MaskShape::new([2, 3, 5, 11]);
        let kept = |row: usize| (0..row % 4).map(move |slot| ((row * 3 + slot * 2) % 11) as u32);
        let probability = |key| if key % 3 == 0 { 0.25 } else { 1.0 };
        let rows = (0..shape.rows())
            .map(|row| kept(row).map(|key| Kept { key, probability: probability(key) }).collect())
            .collect::<Vec<_>>();
        let device = Default::default();
        let lists = || KeyIndices::<Flex>::from_host(shape, &rows, &device).expect("some are kept");
        let tensors = || KeyIndices::new(lists().indices(), lists().probability()).expect("the shapes agree");
        let pattern = Pattern { sink: 2, window: 4, offset: 6 };
        type Operation = fn(KeyIndices<Flex>, Pattern) -> KeyIndices<Flex>;
        let operations: [(&str, Operation); 6] = [
            ("themselves", |rows, _| rows),
            ("support", |rows, _| rows.support()),
            ("narrow", |rows, _| rows.narrow([1..2, 1..3, 2..5])),
            ("outside", |rows, pattern| rows.outside(pattern)),
            ("inside", |rows, pattern| rows.inside(pattern)),
            ("concatenate", |rows, pattern| rows.clone().concatenate(rows.outside(pattern))),
        ];
        for (name, operation) in operations {
            let (a, b) = (operation(lists(), pattern), operation(tensors(), pattern));
            assert_eq!(a.dims(), b.dims(), "{name}");
            assert_eq!(a.lists().indices, b.lists().indices, "{name}");
            assert_eq!(a.lists().probability(), b.lists().probability(), "{name}");
            assert_eq!(a.indices().to_data(), b.indices().to_data(), "{name}");
            assert_eq!(a.probability().to_data(), b.probability().to_data(), "{name}");
        }
        // Tensors also support a window of unlimited size, and a window behind every key.
        for pattern in [Pattern::causal(4), Pattern::causal(isize::MAX), Pattern::local(3, isize::MAX)] {
            for kept in [false, true] {
                let (a, b) = (lists().without(pattern, kept), tensors().without(pattern, kept));
                assert_eq!(a.to_host(), b.to_host(), "{pattern:?} {kept}");
            }
        }
        let gone = lists().outside(pattern);
        assert!(gone.to_host().iter().flatten().all(|kept| kept.key >= 2));
        assert_eq!(lists().to_host(), rows);
    }

    /// Lists of width 0 have rows that keep nothing.
    #[test]
    fn lists_of_width_0_keep_their_rows() {
        let shape = MaskShape::new([1, 2, 3, 11]);
        let device = Default::default();
        let none = || {
            let dims = [1, 2, 3, 0];
            KeyIndices::<Flex>::new(Tensor::zeros(dims, &device), Tensor::zeros(dims, &device))
                .expect("the shapes agree")
        };
        let some = vec![vec![Kept::certainly(4)]; shape.rows()];
        let one = || KeyIndices::<Flex>::from_host(shape, &some, &device).expect("some are kept");
        let pattern = Pattern::sink(2);
        for none in [none(), none().outside(pattern), none().inside(pattern), none().support()] {
            assert_eq!(none.to_host(), vec![Vec::new(); shape.rows()]);
            assert_eq!(none.clone().concatenate(one()).to_host(), some);
            assert_eq!(one().concatenate(none).to_host(), some);
        }
        assert_eq!(none().narrow([0..1, 1..2, 0..2]).to_host(), vec![Vec::new(); 2]);
    }
}
