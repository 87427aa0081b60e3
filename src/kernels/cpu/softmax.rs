use pulp::Simd;

use super::{products::add_weighted, real::Real};

/// The softmax of some queries over the keys that have passed by so far (*online* softmax): maximum, denominator, and
/// numerator relative to the maximum.
#[derive(Debug, Clone)]
pub(crate) struct Softmax<R> {
    pub maximum: Vec<R>,
    pub denominator: Vec<R>,
    /// `[queries, value_dim]`
    pub numerator: Vec<R>,
}

impl<R: Real> Softmax<R> {
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

    /// Takes in a tile of keys. `scores` is `[queries, keys]`, minus infinity where a key is not kept, and is used up.
    /// The rows of `ahead`, at most as many, are asked for meanwhile.
    #[inline(always)]
    pub fn absorb<S: Simd, T>(&mut self, simd: S, scores: &mut [R], values: &[&[R]], ahead: &[&[T]]) {
        let value_dim = self.value_dim();
        for (query, scores) in scores.chunks_exact_mut(values.len()).enumerate() {
            let highest = largest(scores);
            let before = self.maximum[query];
            let mut maximum = if highest > before { highest } else { before };
            if maximum == R::LEAST {
                // Nothing is kept so far, unless it is what is not a number.
                if !scores.iter().any(|score| score.is_nan()) {
                    scores.fill(R::ZERO);
                    continue;
                }
                maximum = R::ZERO;
            }
            if maximum > before {
                let shrink = if before == R::LEAST { R::ZERO } else { before.sub(maximum).exp() };
                self.maximum[query] = maximum;
                self.denominator[query] = self.denominator[query].mul(shrink);
                let numerator = &mut self.numerator[query * value_dim..][..value_dim];
                numerator.iter_mut().for_each(|sum| *sum = sum.mul(shrink));
            }
            scores.iter_mut().for_each(|score| *score = score.sub(maximum).exp());
            self.denominator[query] = self.denominator[query].add(sum(scores));
        }
        add_weighted(simd, scores, values, &mut self.numerator, ahead);
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

/// Numbers that a loop works on side by side, which the compiler makes vectors of.
const LANES: usize = 16;

#[inline(always)]
fn largest<R: Real>(numbers: &[R]) -> R {
    fold(numbers, R::LEAST, |most, number| if number > most { number } else { most })
}

#[inline(always)]
fn sum<R: Real>(numbers: &[R]) -> R {
    fold(numbers, R::ZERO, R::add)
}

#[inline(always)]
fn fold<R: Real>(numbers: &[R], start: R, join: impl Fn(R, R) -> R) -> R {
    let mut lanes = [start; LANES];
    let (whole, rest) = numbers.as_chunks::<LANES>();
    for numbers in whole {
        for (lane, &number) in lanes.iter_mut().zip(numbers) {
            *lane = join(*lane, number);
        }
    }
    let mut count = LANES;
    while count > 1 {
        count /= 2;
        for at in 0..count {
            lanes[at] = join(lanes[at], lanes[at + count]);
        }
    }
    rest.iter().fold(lanes[0], |sum, &number| join(sum, number))
}
