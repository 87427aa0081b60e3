use pulp::Simd;

use super::{
    dropped::{Dropped, add_kept, are_finite},
    prefetch::Ahead,
    products::{TILE, add_weighted},
    simd_float::SimdFloat,
};

/// The softmax of some queries over the keys that have passed by so far (*online* softmax): maximum, denominator, and
/// numerator relative to the maximum.
#[derive(Debug, Clone)]
pub(crate) struct Softmax<R> {
    pub maximum: Vec<R>,
    pub denominator: Vec<R>,
    /// `[queries, value_dim]`
    pub numerator: Vec<R>,
}

impl<R: SimdFloat> Softmax<R> {
    /// Of no keys.
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

    /// Takes in what passed by elsewhere.
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

/// A softmax that keys still pass by.
pub(crate) struct OnlineSoftmax<R> {
    softmax: Softmax<R>,
    /// The denominators in as many parts as a tile has keys, so that they need not be summed up for every tile.
    parts: Vec<[R; TILE]>,
}

impl<R: SimdFloat> OnlineSoftmax<R> {
    /// Before the first key.
    pub fn new(queries: usize, value_dim: usize) -> Self {
        Self { softmax: Softmax::new(queries, value_dim), parts: vec![[R::ZERO; TILE]; queries] }
    }

    /// Takes in a tile of keys. `scores` is `[queries, keys]`, minus infinity where a key is dropped, and is used up. The
    /// rows of `ahead` are asked for meanwhile.
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
            // Of a length that is known when compiled, loops are a few vectors.
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

    /// Makes weights of a query's scores.
    #[inline(always)]
    fn absorb_row(&mut self, query: usize, scores: &mut [R]) {
        let mut maximum = self.softmax.maximum[query];
        if scores.iter().fold(false, |any, &score| any | (score > maximum)) {
            let highest = scores.iter().fold(maximum, |most, &score| if score > most { score } else { most });
            self.raise(query, highest);
            maximum = highest;
        } else if maximum == R::LEAST {
            // Nothing is kept so far, unless it is what is not a number.
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

    /// Makes a number the maximum of a query. Seldom called, and kept out of the loop over the scores.
    #[inline(never)]
    fn raise(&mut self, query: usize, maximum: R) {
        let value_dim = self.softmax.value_dim();
        let before = std::mem::replace(&mut self.softmax.maximum[query], maximum);
        let shrink = if before == R::LEAST { R::ZERO } else { before.sub(maximum).exp() };
        let numerator = &mut self.softmax.numerator[query * value_dim..][..value_dim];
        self.parts[query].iter_mut().chain(numerator).for_each(|sum| *sum = sum.mul(shrink));
    }

    /// The softmax over all keys that passed by.
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
