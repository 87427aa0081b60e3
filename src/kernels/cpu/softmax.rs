use pulp::Simd;

use super::{
    dropped::{Dropped, add_kept, are_finite},
    prefetch::Ahead,
    products::{TILE, add_weighted},
    simd_float::SimdFloat,
};

/// The *online* softmax of some queries over the keys that were absorbed so far. It has the maximum, the denominator,
/// and the numerator relative to the maximum.
#[derive(Debug, Clone)]
pub(crate) struct Softmax<R> {
    pub maximum: Vec<R>,
    pub denominator: Vec<R>,
    /// `[queries, value_dim]`
    pub numerator: Vec<R>,
}

impl<R: SimdFloat> Softmax<R> {
    /// The softmax over no keys.
    pub fn new(queries: usize, value_dim: usize) -> Self {
        Self {
            maximum: vec![R::LEAST; queries],
            denominator: vec![R::ZERO; queries],
            numerator: vec![R::ZERO; queries * value_dim],
        }
    }

    fn value_dim(&self) -> usize {
        self.numerator.len() / self.maximum.len()
    }

    /// Merges the softmax of the same queries over other keys.
    pub fn merge(&mut self, other: &Self) {
        let value_dim = self.value_dim();
        for query in 0..self.maximum.len() {
            let (mine, theirs) = (self.maximum[query], other.maximum[query]);
            if theirs == R::LEAST {
                continue;
            }
            let maximum = if theirs > mine { theirs } else { mine };
            let shrink = |from: R| if from == R::LEAST { R::ZERO } else { from.sub(maximum).exp() };
            let (mine, theirs) = (shrink(mine), shrink(theirs));
            self.maximum[query] = maximum;
            let join = |mine_now: R, theirs_now: R| mine_now.mul(mine).add(theirs_now.mul(theirs));
            self.denominator[query] = join(self.denominator[query], other.denominator[query]);
            let range = query * value_dim..(query + 1) * value_dim;
            let sums = self.numerator[range.clone()].iter_mut().zip(&other.numerator[range]);
            sums.for_each(|(mine_now, &theirs_now)| *mine_now = join(*mine_now, theirs_now));
        }
    }
}

/// A softmax that can absorb more keys.
pub(crate) struct OnlineSoftmax<R> {
    softmax: Softmax<R>,
    /// The denominator of each query as `TILE` partial sums, which are only added up at the end.
    parts: Vec<[R; TILE]>,
}

impl<R: SimdFloat> OnlineSoftmax<R> {
    /// The softmax before the first key.
    pub fn new(queries: usize, value_dim: usize) -> Self {
        Self { softmax: Softmax::new(queries, value_dim), parts: vec![[R::ZERO; TILE]; queries] }
    }

    /// Absorbs a tile of keys. `scores` is `[queries, keys]`, with minus infinity for dropped keys, and is overwritten.
    /// The rows of `ahead` are prefetched meanwhile.
    #[inline(always)]
    pub fn absorb<S: Simd, T>(
        &mut self,
        simd: S,
        scores: &mut [R],
        values: &[&[R]],
        dropped: &Dropped,
        ahead: Ahead<T>,
    ) {
        for (query, scores) in scores.chunks_exact_mut(values.len()).enumerate() {
            // If the length is known at compile time, the loops become a few vector operations.
            match <&mut [R; TILE]>::try_from(&mut *scores) {
                Ok(whole) => self.absorb_row(query, whole),
                Err(_) => self.absorb_row(query, scores),
            }
        }
        match dropped.any() && !are_finite(values) {
            true => add_kept(simd, scores, values, &mut self.softmax.numerator, dropped),
            false => add_weighted(simd, scores, values, &mut self.softmax.numerator, ahead),
        }
    }

    /// Turns the scores of a query into weights.
    #[inline(always)]
    fn absorb_row(&mut self, query: usize, scores: &mut [R]) {
        let mut maximum = self.softmax.maximum[query];
        if scores.iter().fold(false, |any, &score| any | (score > maximum)) {
            let highest = scores.iter().fold(maximum, |most, &score| if score > most { score } else { most });
            self.raise(query, highest);
            maximum = highest;
        } else if maximum == R::LEAST {
            // No key is kept so far, unless a score is NaN.
            if !scores.iter().any(|score| score.is_nan()) {
                scores.fill(R::ZERO);
                return;
            }
            maximum = R::ZERO;
            self.raise(query, maximum);
        }
        for (score, part) in scores.iter_mut().zip(&mut self.parts[query]) {
            *score = score.sub(maximum).exp();
            *part = part.add(*score);
        }
    }

    /// Changes the maximum of a query. This is rare, so it is kept out of the loop over the scores.
    #[inline(never)]
    fn raise(&mut self, query: usize, maximum: R) {
        let value_dim = self.softmax.value_dim();
        let before = std::mem::replace(&mut self.softmax.maximum[query], maximum);
        let shrink = if before == R::LEAST { R::ZERO } else { before.sub(maximum).exp() };
        let numerator = &mut self.softmax.numerator[query * value_dim..][..value_dim];
        self.parts[query].iter_mut().chain(numerator).for_each(|sum| *sum = sum.mul(shrink));
    }

    /// The softmax over all keys that were absorbed.
    pub fn finish(self) -> Softmax<R> {
        let mut softmax = self.softmax;
        for (denominator, mut parts) in softmax.denominator.iter_mut().zip(self.parts) {
            let mut count = TILE;
            while count > 1 {
                count /= 2;
                for at in 0..count {
                    parts[at] = parts[at].add(parts[at + count]);
                }
            }
            *denominator = parts[0];
        }
        softmax
    }
}
