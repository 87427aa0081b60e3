//! Draws of keys, and the weights of drawn keys.

use rand::{Rng, RngExt};

use super::population::Population;
use crate::mask::Kept;

/// The keys of `drawn`, a sample without replacement from `population` keys. Each key has the probability of being in
/// the sample.
pub(crate) fn without_replacement(drawn: &[u32], population: usize) -> Vec<Kept> {
    let probability = (drawn.len() as f64 / population as f64) as f32;
    drawn.iter().map(|&key| Kept { key, probability }).collect()
}

/// The keys of a sample drawn *with* replacement. Each key appears once, with the weight that makes sums over the keys
/// unbiased.
///
/// A key drawn `m` times in `draws` draws from `population` keys has the weight `draws / (m * population)`. It then
/// counts `m * population / draws` times (Hansen and Hurwitz, 1943). The keys are returned in ascending order. `draws`
/// may be larger than the length of `drawn`: it may include draws of keys that are kept anyway and are left out of
/// `drawn`.
///
/// `"replacement": true` uses this rule. The function is public so that recorded draws can be replayed.
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

/// Extends `drawn` to `draws` keys of a population, drawn with replacement, and weighs them by [with_replacement].
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
