//! Texts of made-up sentences, `who verb the object .`, and the question whether the key in them fits the lock.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

const WHO: usize = 24;
const VERBS: usize = 12;
const OBJECTS: usize = 24;
const COLOURS: usize = 2;
const WORDS_OF_A_SENTENCE: usize = 5;
/// How many sentences after the key the lock stands at most.
const NEAR: usize = 4;

/// The number of different words: those above, a key and a lock of each colour, "the" and the full stop.
pub const VOCABULARY: usize = WHO + VERBS + OBJECTS + 2 * COLOURS + 2;
/// The words of the shortest text.
pub const SHORTEST: usize = WORDS_OF_A_SENTENCE * (NEAR + 2);

/// A batch of texts, `[batch, words]`, and whether the key fits in them, `[batch]`.
pub struct Texts<B: Backend> {
    pub words: Tensor<B, 2, Int>,
    pub labels: Tensor<B, 1, Int>,
}

/// Texts made under a seed.
///
/// Somewhere in a text stands one key, and a few sentences on one lock, each red or blue. The key fits if the colours are
/// the same. Neither word tells that alone, so that a model has to bring the two together.
pub fn texts<B: Backend>(batch: usize, words: usize, seed: u64, device: &B::Device) -> Texts<B> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let (mut all, mut labels) = (Vec::with_capacity(batch * words), Vec::with_capacity(batch));
    for _ in 0..batch {
        let sentences = words.div_ceil(WORDS_OF_A_SENTENCE);
        let (key, lock) = (rng.random_range(0..COLOURS), rng.random_range(0..COLOURS));
        labels.push(i64::from(key == lock));
        // The last sentence may be cut off.
        let key_at = rng.random_range(0..sentences - NEAR - 1);
        let lock_at = key_at + rng.random_range(1..=NEAR);
        let text = (0..sentences).flat_map(|sentence| {
            let object = match sentence {
                _ if sentence == key_at => OBJECTS + key,
                _ if sentence == lock_at => OBJECTS + COLOURS + lock,
                _ => rng.random_range(0..OBJECTS),
            };
            let (who, verb) = (rng.random_range(0..WHO), rng.random_range(0..VERBS));
            [who, WHO + verb, VOCABULARY - 2, WHO + VERBS + object, VOCABULARY - 1]
        });
        all.extend(text.take(words).map(|word| word as i64));
    }
    Texts {
        words: Tensor::from_data(TensorData::new(all, [batch, words]), device),
        labels: Tensor::from_data(TensorData::new(labels, [batch]), device),
    }
}
