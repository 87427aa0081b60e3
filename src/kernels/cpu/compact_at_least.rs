//! Finds the positions of the scores of a row that reach a guess, and of those that are NaN.

use pulp::{Arch, Simd, WithSimd};

/// Scores in a block.
const TOGETHER: usize = 8;

/// The places of the members in a block, from the front on. The index has a bit for each score of the block, which is
/// set if the score is a member.
static PLACES: [[u8; TOGETHER]; 1 << TOGETHER] = places();

const fn places() -> [[u8; TOGETHER]; 1 << TOGETHER] {
    let mut places = [[0; TOGETHER]; 1 << TOGETHER];
    let mut members = 0;
    while members < places.len() {
        let (mut count, mut place) = (0, 0);
        while place < TOGETHER {
            places[members][count] = place as u8;
            count += (members >> place) & 1;
            place += 1;
        }
        members += 1;
    }
    places
}

/// Writes the positions of the scores that are not below a guess to the front of `members`, and returns their number.
/// NaN is not below the guess. `members` has a place for each score.
pub(super) fn compact_at_least(scores: &[f32], guess: f32, members: &mut [u32]) -> usize {
    Arch::new().dispatch(Reaching { scores, guess, members })
}

struct Reaching<'a> {
    scores: &'a [f32],
    guess: f32,
    members: &'a mut [u32],
}

impl WithSimd for Reaching<'_> {
    type Output = usize;

    /// The loop has no branch, because the processor cannot predict which scores are members. Positions that are
    /// written after the last member are overwritten by the next block.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        let Self { scores, guess, members } = self;
        let mut count = 0;
        let (blocks, rest) = scores.as_chunks::<TOGETHER>();
        let mut first = 0u32;
        for block in blocks {
            // Loops over arrays of known length are vectorized.
            let mut bits = [0u32; TOGETHER];
            for place in 0..TOGETHER {
                bits[place] = if block[place] < guess { 0 } else { 1 << place };
            }
            let mut half = TOGETHER;
            while half > 1 {
                half /= 2;
                for place in 0..half {
                    bits[place] |= bits[place + half];
                }
            }
            let places = PLACES[bits[0] as usize % PLACES.len()];
            let mut positions = [first; TOGETHER];
            for place in 0..TOGETHER {
                positions[place] += u32::from(places[place]);
            }
            members[count..count + TOGETHER].copy_from_slice(&positions);
            count += bits[0].count_ones() as usize;
            first += TOGETHER as u32;
        }
        for (position, &score) in (first..).zip(rest) {
            members[count] = position;
            count += 1 - usize::from(score < guess);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::compact_at_least;

    #[test]
    fn members_are_the_scores_that_reach_a_guess() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
        for length in [0, 1, 7, 8, 9, 63, 64, 1000] {
            for share in [0.0, 0.05, 0.5, 1.0] {
                let mut scores = (0..length).map(|_| rng.random::<f32>()).collect::<Vec<_>>();
                for at in (3..length).step_by(11) {
                    scores[at] = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY][at % 3];
                }
                let guess = 1.0 - share;
                let mut members = vec![u32::MAX; length];
                let count = compact_at_least(&scores, guess, &mut members);
                let wanted = (0..length as u32)
                    .filter(|&at| scores[at as usize] >= guess || scores[at as usize].is_nan())
                    .collect::<Vec<_>>();
                assert_eq!(members[..count], wanted, "{length} scores, {share}");
            }
        }
    }
}
