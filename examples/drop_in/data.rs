//! Texts of made-up sentences, `who verb the object .`, and the question whether anyone in them holds the key.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

const WHO: usize = 24;
const VERBS: usize = 12;
const OBJECTS: usize = 24;
/// "holds", the first of the verbs; the second is "sees".
const HOLDS: usize = 0;
/// "key", the first of the objects; the second is "lamp".
const KEY: usize = 0;
const WORDS_OF_A_SENTENCE: usize = 5;
/// How often the key is held, if it is.
const STATEMENTS: usize = 4;

/// The number of different words: those above, "the" and the full stop.
pub const VOCABULARY: usize = WHO + VERBS + OBJECTS + 2;

/// A batch of texts, `[batch, words]`, and whether someone holds the key in them, `[batch]`.
pub struct Texts<B: Backend> {
    pub words: Tensor<B, 2, Int>,
    pub labels: Tensor<B, 1, Int>,
}

/// Texts made under a seed; every other one is true on average.
///
/// A true text says four times that someone holds the key, and four times that someone sees the lamp; a false one that
/// someone sees the key, and holds the lamp. So both have the same words, and only what stands together tells.
pub fn texts<B: Backend>(batch: usize, words: usize, seed: u64, device: &B::Device) -> Texts<B> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let (mut all, mut labels) = (Vec::with_capacity(batch * words), Vec::with_capacity(batch));
    for _ in 0..batch {
        let holds = rng.random::<bool>();
        labels.push(i64::from(holds));
        let key_verb = if holds { HOLDS } else { HOLDS + 1 };
        let mut sentences = (0..words.div_ceil(WORDS_OF_A_SENTENCE))
            .map(|at| match at / STATEMENTS {
                0 => (key_verb, KEY),
                1 => (HOLDS + 1 - key_verb, KEY + 1),
                _ => (rng.random_range(HOLDS + 2..VERBS), rng.random_range(KEY + 2..OBJECTS)),
            })
            .collect::<Vec<_>>();
        // The last sentence may be cut off, so that no statement stands there.
        let last = sentences.len() - 1;
        sentences[..last].shuffle(&mut rng);
        let text = sentences.into_iter().flat_map(|(verb, object)| {
            let who = rng.random_range(0..WHO);
            [who, WHO + verb, VOCABULARY - 2, WHO + VERBS + object, VOCABULARY - 1]
        });
        all.extend(text.take(words).map(|word| word as i64).collect::<Vec<_>>());
    }
    Texts {
        words: Tensor::from_data(TensorData::new(all, [batch, words]), device),
        labels: Tensor::from_data(TensorData::new(labels, [batch]), device),
    }
}
