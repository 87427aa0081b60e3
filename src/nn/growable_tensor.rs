use burn::tensor::{Tensor, TensorData, backend::Backend};

use crate::{
    device::{as_indices, check_size},
    kernels,
    problem::AttentionError,
};

/// A tensor that grows along one dimension. A full buffer is replaced by a buffer of twice the length, so each position
/// is copied a constant number of times on average.
///
/// Positions at the front can be [given up](Self::give_up_before). The remaining positions keep their numbers, and the
/// memory is then of the order of the remaining length.
///
/// A clone shares the memory. The first of the two that writes copies it once, and both then write in place.
#[derive(Debug, Clone)]
pub(super) struct GrowableTensor<B: Backend, const D: usize> {
    dim: usize,
    /// The position that is stored first in the buffer.
    start: usize,
    /// The first position that is still needed.
    needed: usize,
    /// The position that is appended next.
    length: usize,
    /// The minimum length of a buffer. The first buffer is made with the first tensor, which sets the other dimensions.
    least: usize,
    buffer: Option<Tensor<B, D>>,
}

/// The default minimum length of a buffer.
const LEAST: usize = 64;

/// A buffer is replaced by a smaller one if it is more than this many times as long as the smaller one.
const WASTE: usize = 4;

impl<B: Backend, const D: usize> GrowableTensor<B, D> {
    /// An empty tensor that grows along a dimension.
    pub fn along(dim: usize) -> Self {
        Self { dim, start: 0, needed: 0, length: 0, least: LEAST, buffer: None }
    }

    /// Sets the minimum length of a buffer, if it is above the default.
    pub fn with_capacity(self, capacity: usize) -> Self {
        Self { least: capacity.max(LEAST), ..self }
    }

    /// The same with the first position `start` instead of 0.
    pub fn starting_at(self, start: usize) -> Self {
        Self { start, needed: start, length: start, ..self }
    }

    /// The length of the growing dimension, including positions that were given up.
    pub fn len(&self) -> usize {
        self.length
    }

    /// The first position that is still stored.
    pub fn start(&self) -> usize {
        self.start
    }

    /// How many positions fit without a larger buffer.
    pub fn capacity(&self) -> usize {
        self.buffer.as_ref().map_or(self.least, |buffer| buffer.dims()[self.dim])
    }

    /// The buffer with its unused end. `None` before the first append.
    pub fn buffer(&self) -> Option<&Tensor<B, D>> {
        self.buffer.as_ref()
    }

    /// Checks that the buffer for an appended tensor can be allocated.
    ///
    /// # Errors
    /// If the size of the buffer overflows, or the device or the memory of the host cannot hold it.
    pub fn check_append(&self, name: &'static str, new: &Tensor<B, D>) -> Result<(), AttentionError> {
        let (mut dims, added) = (new.dims(), new.dims()[self.dim]);
        if self.has_room_for(added) {
            return Ok(());
        }
        dims[self.dim] = self.next_capacity(added);
        check_buffer(name, dims, new)
    }

    /// Checks that a buffer for a number of sequences can be made.
    ///
    /// # Errors
    /// As [check_append](Self::check_append).
    pub fn check_reorder(&self, name: &'static str, sequences: usize) -> Result<(), AttentionError> {
        let Some(buffer) = &self.buffer else { return Ok(()) };
        let mut dims = buffer.dims();
        dims[0] = sequences;
        check_buffer(name, dims, buffer)
    }

    /// Makes each sequence, of which dimension 0 counts the number, what the sequence of an index was.
    pub fn reorder(&mut self, indices: &[usize]) {
        self.buffer = self.buffer.take().map(|buffer| {
            let numbers = indices.iter().map(|&index| index as i64).collect::<Vec<_>>();
            let indices = Tensor::from_data(TensorData::new(numbers, [indices.len()]), &buffer.device());
            buffer.select(0, as_indices(indices))
        });
    }

    /// Appends a tensor that has the same size in all other dimensions.
    pub fn append(&mut self, new: Tensor<B, D>) {
        let added = new.dims()[self.dim];
        if !self.has_room_for(added) {
            self.move_to(self.next_capacity(added), &new);
        }
        // The buffer is taken out of `self`. A second reference would prevent the write in place.
        self.buffer = self.buffer.take().map(|buffer| {
            let place = self.length - self.start;
            kernels::write_along(buffer, self.dim, place, new)
        });
        self.length += added;
    }

    /// Gives up the positions before `position`. Their memory is freed now or later.
    pub fn give_up_before(&mut self, position: usize) {
        self.needed = self.needed.max(position.min(self.length));
        let capacity = self.reserved_for(self.length - self.needed);
        if let Some(buffer) = self.buffer.clone()
            && self.start < self.needed
            && buffer.dims()[self.dim] > WASTE * capacity
        {
            self.move_to(capacity, &buffer);
        }
    }

    /// Removes the positions from `length` on and keeps the memory. Positions that were given up do not come back.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length).max(self.start);
        self.needed = self.needed.min(self.length);
    }

    /// Removes all positions and keeps the memory.
    pub fn clear(&mut self) {
        (self.start, self.needed, self.length) = (0, 0, 0);
    }

    /// All stored positions. `None` if there are none. The result is a view if the backend has views. Drop it before
    /// the next [append](Self::append). Otherwise the append copies the buffer.
    pub fn all(&self) -> Option<Tensor<B, D>> {
        let buffer = self.buffer.as_ref().filter(|_| self.length > self.start)?;
        Some(kernels::before(buffer, self.dim, self.length - self.start))
    }

    fn has_room_for(&self, added: usize) -> bool {
        (self.length - self.start).checked_add(added).is_some_and(|end| end <= self.capacity_in_use())
    }

    /// The length of a buffer that has room for `added` more positions.
    fn next_capacity(&self, added: usize) -> usize {
        let (places, kept) = (self.capacity_in_use(), self.length - self.needed);
        let end = kept.saturating_add(added);
        match self.start < self.needed {
            true => end.max(self.reserved_for(kept)),
            false => end.max(places.saturating_mul(2)).max(self.least),
        }
    }

    fn capacity_in_use(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| buffer.dims()[self.dim])
    }

    /// The length of a buffer for `kept` positions whose front is given up from time to time.
    fn reserved_for(&self, kept: usize) -> usize {
        kept.saturating_mul(2).max(self.least)
    }

    /// Moves the needed positions to the front of a new buffer of length `capacity`. The other dimensions, the type and
    /// the device are those of `like`.
    fn move_to(&mut self, capacity: usize, like: &Tensor<B, D>) {
        let mut dims = like.dims();
        dims[self.dim] = capacity;
        let moved = Tensor::zeros(dims, (&like.device(), like.dtype()));
        let kept = self.buffer.take().filter(|_| self.length > self.needed).map(|full| {
            let before = kernels::before(&full, self.dim, self.length - self.start);
            match self.needed - self.start {
                0 => before,
                given_up => before.slice_dim(self.dim, given_up..self.length - self.start),
            }
        });
        self.buffer = Some(match kept {
            Some(kept) => kernels::write_along(moved, self.dim, 0, kept),
            None => moved,
        });
        self.start = self.needed;
    }
}

/// Checks that a buffer of some dimensions can be made, of the kind of another tensor.
fn check_buffer<B: Backend, const D: usize>(
    name: &'static str,
    dims: [usize; D],
    like: &Tensor<B, D>,
) -> Result<(), AttentionError> {
    let too_large = || AttentionError::Shape {
        tensor: name,
        found: dims.to_vec(),
        expected: "of a size that the memory can hold, with the reserved capacity in it".to_owned(),
    };
    let bytes = dims.iter().try_fold(like.dtype().size(), |bytes, &length| bytes.checked_mul(length));
    let bytes = bytes.filter(|&bytes| isize::try_from(bytes).is_ok()).ok_or_else(too_large)?;
    check_size::<B>(name, &dims, like.dtype(), &like.device())?;
    // If this allocation fails, the allocation of the backend fails too, and that aborts the program.
    match bytes < ASKED_FIRST || !kernels::in_host_memory(like) || Vec::<u8>::new().try_reserve_exact(bytes).is_ok() {
        true => Ok(()),
        false => Err(too_large()),
    }
}

/// From this number of bytes on, the host is asked for the memory before the backend allocates it.
const ASKED_FIRST: usize = 1 << 30;

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn_flex::Flex;

    use super::*;

    fn numbers(from: usize, count: usize) -> Tensor<Flex, 3> {
        let numbers = (from..from + count).map(|number| number as f32).collect::<Vec<_>>();
        Tensor::<Flex, 1>::from_floats(&numbers[..], &Default::default()).reshape([1, count, 1])
    }

    fn read(growing: &GrowableTensor<Flex, 3>) -> Option<Vec<f32>> {
        growing.all().map(|all| all.into_data().iter::<f32>().collect())
    }

    #[test]
    fn what_is_appended_stays_and_room_doubles() {
        let mut growing = GrowableTensor::<Flex, 3>::along(1);
        assert!(growing.all().is_none());
        let (mut all, mut rooms) = (Vec::new(), std::collections::BTreeSet::new());
        for step in 0..300 {
            let count = if step == 0 { 7 } else { 1 };
            let new = numbers(all.len(), count);
            all.extend((all.len()..all.len() + count).map(|number| number as f32));
            growing.append(new.repeat_dim(0, 2));
            rooms.insert(growing.buffer.as_ref().map_or(0, |buffer| buffer.dims()[1]));
        }
        assert_eq!(growing.len(), 306);
        assert_eq!(read(&growing), Some([all.clone(), all].concat()));
        assert_eq!(rooms.into_iter().collect::<Vec<_>>(), [64, 128, 256, 512]);
    }

    #[test]
    fn what_is_given_up_leaves_room_and_positions_stay() {
        let mut growing = GrowableTensor::<Flex, 3>::along(1);
        growing.append(numbers(0, 1000));
        assert_eq!(growing.capacity(), 1000);
        for length in 1000..1500 {
            growing.give_up_before(length - 20);
            assert_eq!((growing.len(), growing.capacity()), (length, 64));
            assert!(growing.start() <= length - 20);
            let wanted = (growing.start()..length).map(|number| number as f32).collect::<Vec<_>>();
            assert_eq!(read(&growing), Some(wanted));
            growing.append(numbers(length, 1));
        }
        growing.truncate(1490);
        growing.append(numbers(1490, 200));
        let wanted = (growing.start()..1690).map(|number| number as f32).collect::<Vec<_>>();
        assert_eq!((growing.len(), read(&growing)), (1690, Some(wanted)));
    }

    #[test]
    fn memory_that_cannot_be_is_an_error() {
        for capacity in [1 << 45, 1 << 62, usize::MAX] {
            let growing = GrowableTensor::<Flex, 3>::along(1).with_capacity(capacity);
            assert!(growing.check_append("keys", &numbers(0, 1)).is_err(), "{capacity}");
        }
        assert!(GrowableTensor::<Flex, 3>::along(1).check_append("keys", &numbers(0, 1)).is_ok());
    }
}
