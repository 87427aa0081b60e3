//! Drawing keys, and what a drawn key stands for.

use rand::{Rng, RngExt};

use super::population::Population;
use crate::mask::Kept;

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

/// `draws` keys of a population drawn with replacement, `drawn` among them, as [with_replacement] weighs them.
pub(crate) fn draw_with_replacement(
    population: &Population,
    drawn: Vec<u32>,
    draws: usize,
    rng: &mut impl Rng,
) -> Vec<Kept> {
    let mut drawn = drawn;
    drawn.extend((drawn.len()..draws).map(|_| population.key(rng.random_range(0..population.len()))));
    with_replacement(&drawn, draws, population.len())
        .into_iter()
        .map(|(key, probability)| Kept { key, probability })
        .collect()
}
