//! Drawing keys, and what a drawn key stands for.

use rand::{Rng, RngExt};

use crate::mask::Kept;

/// A random order of some keys, made only as far as it is asked for: the first `n` of it are a sample without
/// replacement, and a larger sample extends a smaller one.
#[derive(Debug)]
pub(crate) struct RandomOrder {
    keys: Vec<u32>,
    settled: usize,
}

impl RandomOrder {
    /// The keys of a row that may be drawn.
    pub fn of(keys: Vec<u32>) -> Self {
        Self { keys, settled: 0 }
    }

    /// The first `count` keys of the order, all of them if there are fewer (Fisher-Yates, stopped early).
    pub fn first(&mut self, count: usize, rng: &mut impl Rng) -> &[u32] {
        let count = count.min(self.keys.len());
        while self.settled < count {
            let next = rng.random_range(self.settled..self.keys.len());
            self.keys.swap(self.settled, next);
            self.settled += 1;
        }
        &self.keys[..count]
    }
}

/// Each of `drawn`, a sample without replacement from `population` keys, with the probability of being in it.
pub(crate) fn without_replacement(drawn: &[u32], population: usize) -> Vec<Kept> {
    let probability = (drawn.len() as f64 / population as f64) as f32;
    drawn.iter().map(|&key| Kept { key, probability }).collect()
}

/// The keys of a sample drawn *with* replacement, each once, with the weight that makes sums over them unbiased.
///
/// A key drawn `m` times in `draws` draws from `population` keys has the weight `draws / (m * population)`, so that it
/// counts `m * population / draws` times (Hansen and Hurwitz, 1943). Keys come out in ascending order; `draws` may count
/// draws that fell on keys which are kept anyway and are left out of `drawn`.
///
/// It is the rule behind `"replacement": true`, and open for replaying recorded draws.
pub fn with_replacement(drawn: &[u32], draws: usize, population: usize) -> Vec<(u32, f32)> {
    let mut sorted = drawn.to_vec();
    sorted.sort_unstable();
    sorted
        .chunk_by(|a, b| a == b)
        .map(|same| {
            let weight = draws as f64 / (same.len() as f64 * population as f64);
            (same[0], weight as f32)
        })
        .collect()
}

/// `draws` keys of a population drawn with replacement, as [with_replacement] weighs them.
pub(crate) fn draw_with_replacement(population: &[u32], drawn: &[u32], draws: usize, rng: &mut impl Rng) -> Vec<Kept> {
    let mut drawn = drawn.to_vec();
    drawn.extend((drawn.len()..draws).map(|_| population[rng.random_range(0..population.len())]));
    with_replacement(&drawn, draws, population.len())
        .into_iter()
        .map(|(key, probability)| Kept { key, probability })
        .collect()
}
