use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

/// A tensor that grows along one dimension: into memory that is reserved ahead by doubling, so that what is there is
/// copied a constant number of times however often it grows.
#[derive(Debug, Clone)]
pub(super) struct Growing<B: Backend, const D: usize> {
    dim: usize,
    length: usize,
    buffer: Option<Tensor<B, D>>,
}

/// The least length that is reserved.
const LEAST: usize = 64;

impl<B: Backend, const D: usize> Growing<B, D> {
    /// An empty tensor that will grow along a dimension.
    pub fn along(dim: usize) -> Self {
        Self { dim, length: 0, buffer: None }
    }

    /// The length of the dimension that grows.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Appends a tensor that agrees in all other dimensions.
    pub fn append(&mut self, new: Tensor<B, D>) {
        let mut dims = new.dims();
        let end = self.length + dims[self.dim];
        let part = |range: Range<usize>| -> [Range<usize>; D] {
            std::array::from_fn(|dim| if dim == self.dim { range.clone() } else { 0..dims[dim] })
        };
        let (old, appended) = (part(0..self.length), part(self.length..end));
        let buffer = match self.buffer.take() {
            // The buffer is owned alone, so that assigning to it copies nothing else.
            Some(buffer) if end <= buffer.dims()[self.dim] => buffer,
            full => {
                dims[self.dim] = end.max(2 * self.length).max(LEAST);
                let larger = Tensor::zeros(dims, (&new.device(), new.dtype()));
                match full {
                    Some(full) => larger.slice_assign(old.clone(), full.slice(old)),
                    None => larger,
                }
            }
        };
        self.buffer = Some(buffer.slice_assign(appended, new));
        self.length = end;
    }

    /// All that was appended; `None` before anything was. It is a view where the backend has views: drop it before the
    /// next [append](Self::append).
    pub fn all(&self) -> Option<Tensor<B, D>> {
        Some(self.buffer.clone()?.slice_dim(self.dim, 0..self.length))
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
