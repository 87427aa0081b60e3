use burn::tensor::{Tensor, backend::Backend};

use crate::kernels;

/// A tensor that grows along one dimension: into memory that is reserved ahead by doubling, so that what is there is
/// copied a constant number of times however often it grows.
#[derive(Debug, Clone)]
pub(super) struct Growing<B: Backend, const D: usize> {
    dim: usize,
    length: usize,
    /// The least length that is reserved when the first tensor tells the other dimensions.
    least: usize,
    buffer: Option<Tensor<B, D>>,
}

/// The least length that is reserved.
const LEAST: usize = 64;

impl<B: Backend, const D: usize> Growing<B, D> {
    /// An empty tensor that will grow along a dimension.
    pub fn along(dim: usize) -> Self {
        Self { dim, length: 0, least: LEAST, buffer: None }
    }

    /// Reserves a length for when something comes.
    pub fn with_capacity(self, capacity: usize) -> Self {
        Self { least: capacity.max(LEAST), ..self }
    }

    /// The length of the dimension that grows.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Up to which length nothing need be copied.
    pub fn capacity(&self) -> usize {
        self.buffer.as_ref().map_or(self.least, |buffer| buffer.dims()[self.dim])
    }

    /// The memory with what is in it, if there ever was something.
    pub fn buffer(&self) -> Option<&Tensor<B, D>> {
        self.buffer.as_ref()
    }

    /// Appends a tensor that agrees in all other dimensions.
    pub fn append(&mut self, new: Tensor<B, D>) {
        let mut dims = new.dims();
        let end = self.length + dims[self.dim];
        // Taken out, so that nobody else holds it and it is written in place.
        let buffer = match self.buffer.take() {
            Some(buffer) if end <= buffer.dims()[self.dim] => buffer,
            full => {
                let before = full.as_ref().map_or(0, |full| full.dims()[self.dim]);
                dims[self.dim] = end.max(2 * before).max(self.least);
                let larger = Tensor::zeros(dims, (&new.device(), new.dtype()));
                match full.filter(|_| self.length > 0) {
                    Some(full) => {
                        kernels::write_along(larger, self.dim, 0, kernels::before(&full, self.dim, self.length))
                    }
                    None => larger,
                }
            }
        };
        self.buffer = Some(kernels::write_along(buffer, self.dim, self.length, new));
        self.length = end;
    }

    /// Forgets what stands from a length on, and keeps the memory.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// All that was appended; `None` where that is nothing. It is a view where the backend has views: drop it before the
    /// next [append](Self::append), which otherwise copies all.
    pub fn all(&self) -> Option<Tensor<B, D>> {
        let buffer = self.buffer.as_ref().filter(|_| self.length > 0)?;
        Some(kernels::before(buffer, self.dim, self.length))
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn_flex::Flex;

    use super::*;

    #[test]
    fn what_is_appended_stays_and_room_doubles() {
        let device = Default::default();
        let mut growing = Growing::<Flex, 3>::along(1);
        assert!(growing.all().is_none());
        let (mut all, mut rooms) = (Vec::new(), std::collections::BTreeSet::new());
        for step in 0..300 {
            let count = if step == 0 { 7 } else { 1 };
            for _ in 0..count {
                all.push(all.len() as f32);
            }
            let new = Tensor::<Flex, 1>::from_floats(&all[all.len() - count..], &device).reshape([1, count, 1]);
            growing.append(new.repeat_dim(0, 2));
            rooms.insert(growing.buffer.as_ref().map_or(0, |buffer| buffer.dims()[1]));
        }
        assert_eq!(growing.len(), 306);
        let found = growing.all().map(|all| all.into_data().iter::<f32>().collect::<Vec<_>>());
        assert_eq!(found, Some([all.clone(), all].concat()));
        assert_eq!(rooms.into_iter().collect::<Vec<_>>(), [64, 128, 256, 512]);
    }
}
