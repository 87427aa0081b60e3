use pulp::Simd;

use super::{
    attend::Problem,
    dropped::Dropped,
    prefetch::Ahead,
    products::{TILE, score},
    simd_float::{SimdFloat, StoredFloat},
    softcap::soften,
    softmax::OnlineSoftmax,
};

/// The keys and values of a tile, borrowed.
pub(super) struct Tile<'a, T> {
    keys: [&'a [T]; TILE],
    values: [&'a [T]; TILE],
    count: usize,
    scattered: bool,
}

impl<'a, T> Tile<'a, T> {
    /// A tile without keys.
    pub fn empty() -> Self {
        Self { keys: [&[]; TILE], values: [&[]; TILE], count: 0, scattered: false }
    }

    /// The tile of the keys with these indices. There are at most `TILE` indices.
    #[inline(always)]
    pub fn new(problem: &Problem<'a, T>, kv_head: usize, indices: impl Iterator<Item = usize>) -> Self {
        let (keys, values) = (problem.keys[kv_head], problem.values[kv_head]);
        let (head_dim, value_dim) = (problem.head_dim, problem.value_dim);
        let mut tile = Self::empty();
        for ((key, value), index) in tile.keys.iter_mut().zip(&mut tile.values).zip(indices) {
            *key = &keys[index * head_dim..][..head_dim];
            *value = &values[index * value_dim..][..value_dim];
            tile.count += 1;
        }
        tile
    }

    /// The same tile, marked as having keys at arbitrary addresses.
    pub fn scattered(self) -> Self {
        Self { scattered: true, ..self }
    }

    /// The rows of its keys or of its values, for prefetching.
    fn ahead<'b>(&'b self, rows: &'b [&'a [T]; TILE]) -> Ahead<'b, T> {
        let rows = &rows[..self.count];
        if self.scattered { Ahead::scattered(rows) } else { Ahead::in_order(rows) }
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.count
    }
}

/// Buffers for the keys and values of a tile, for types that must be converted.
pub(super) struct Buffers<R> {
    keys: Vec<R>,
    values: Vec<R>,
}

impl<R: SimdFloat> Buffers<R> {
    /// The buffers are empty if numbers are stored in the type for computing.
    pub fn new<T: StoredFloat<Float = R>>(problem: &Problem<T>) -> Self {
        let buffer = |width| if T::AS_IT_IS { Vec::new() } else { vec![R::ZERO; TILE * width] };
        Self { keys: buffer(problem.head_dim), values: buffer(problem.value_dim) }
    }

    /// Scores the keys of a tile, lets `adjust` change the scores, and adds the keys that are not dropped to the
    /// softmax.
    ///
    /// The values are prefetched while the keys are scored. The keys of the next tile are prefetched while the values
    /// are added. The processor itself does not prefetch beyond a page of memory.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // A struct would only be taken apart again.
    pub fn absorb<T: StoredFloat<Float = R>, S: Simd>(
        &mut self,
        simd: S,
        problem: &Problem<T>,
        tile: &Tile<T>,
        next: &Tile<T>,
        queries: &[R],
        scores: &mut [R],
        softmax: &mut OnlineSoftmax<R>,
        dropped: &Dropped,
        adjust: impl FnOnce(&mut [R]),
    ) {
        let mut rows = [&[][..]; TILE];
        fill(&mut rows, &mut self.keys, problem.head_dim, tile.keys[..tile.count].iter().copied());
        score(simd, queries, &rows[..tile.count], scores, tile.ahead(&tile.values));
        if let Some(cap) = problem.softcap {
            soften(scores, cap);
        }
        adjust(scores);
        dropped.fill(scores, tile.count, R::LEAST);
        let mut rows = [&[][..]; TILE];
        fill(&mut rows, &mut self.values, problem.value_dim, tile.values[..tile.count].iter().copied());
        softmax.absorb(simd, scores, &rows[..tile.count], dropped, next.ahead(&next.keys));
    }
}

/// Converts the vectors to the type for computing.
#[inline(always)]
pub(super) fn fill<'a, T: StoredFloat>(
    rows: &mut [&'a [T::Float]; TILE],
    buffer: &'a mut [T::Float],
    width: usize,
    vectors: impl Iterator<Item = &'a [T]>,
) {
    let mut rest = buffer;
    for (row, vector) in rows.iter_mut().zip(vectors) {
        let (buffer, later) = std::mem::take(&mut rest).split_at_mut(if T::AS_IT_IS { 0 } else { width });
        *row = T::widen(vector, buffer);
        rest = later;
    }
}
