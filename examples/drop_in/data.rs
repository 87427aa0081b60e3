//! Texts of made-up sentences, `who verb the object .`. The task is to tell whether the key in a text fits the lock.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

const WHO: usize = 24;
const VERBS: usize = 12;
const OBJECTS: usize = 24;
const COLOURS: usize = 2;
const WORDS_OF_A_SENTENCE: usize = 5;
/// The lock is at most this number of sentences after the key.
const NEAR: usize = 4;

/// The size of the vocabulary: the words above, a key and a lock of each colour, "the" and the full stop.
pub const VOCABULARY: usize = WHO + VERBS + OBJECTS + 2 * COLOURS + 2;
/// The number of words of the shortest text.
pub const SHORTEST: usize = WORDS_OF_A_SENTENCE * (NEAR + 2);

/// A batch of texts, `[batch, words]`, and for each whether the key fits, `[batch]`.
pub struct Texts<B: Backend> {
    pub words: Tensor<B, 2, Int>,
    pub labels: Tensor<B, 1, Int>,
}

/// Texts from a seed.
///
/// Each text contains one key, and a few sentences later one lock. Each is red or blue. The key fits if the colours are
/// equal. Neither word alone gives the answer, so a model has to combine the two.
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
