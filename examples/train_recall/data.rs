//! Multi-query associative recall ([Arora et al.](https://arxiv.org/abs/2312.04927)). A sequence begins with pairs of a
//! key and a value. Later each key appears again, and the model must name its value.

use burn::{
    data::{
        dataloader::{DataLoader, DataLoaderBuilder, batcher::Batcher},
        dataset::InMemDataset,
    },
    tensor::{Int, Tensor, TensorData, backend::Backend},
};
use rand::{RngExt, SeedableRng, seq::index};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::sync::Arc;

/// The form of the sequences.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    /// The size of the vocabulary. Keys are drawn from the lower half, and values from the upper half.
    pub vocabulary: usize,
    pub length: usize,
    pub pairs: usize,
}

/// The places after the pairs are two tokens apart. A key returns at the `k`-th of them with a probability proportional
/// to `k^-0.99`.
const POWER: f64 = 0.01;

/// One sequence, with the positions that ask for a value and the values.
#[derive(Debug, Clone)]
pub struct Sequence {
    tokens: Vec<i32>,
    asked: Vec<(usize, i32)>,
}

impl Task {
    /// A data set. The same seed gives the same sequences.
    pub fn sequences(&self, count: usize, seed: u64) -> Vec<Sequence> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        (0..count).map(|_| self.sequence(&mut rng)).collect()
    }

    fn sequence(&self, rng: &mut Xoshiro256PlusPlus) -> Sequence {
        let half = self.vocabulary / 2;
        // Token 0 is not used as a key.
        let keys = index::sample(rng, half - 1, self.pairs).into_iter().map(|key| key as i32 + 1).collect::<Vec<_>>();
        let values = index::sample(rng, half, self.pairs).into_iter().map(|value| (half + value) as i32);
        let values = values.collect::<Vec<_>>();
        let mut tokens = (0..self.length).map(|_| rng.random_range(0..self.vocabulary as i32)).collect::<Vec<_>>();
        for (pair, (&key, &value)) in keys.iter().zip(&values).enumerate() {
            (tokens[2 * pair], tokens[2 * pair + 1]) = (key, value);
        }
        // Weighted sampling without replacement: each place gets an exponential random time, and the places with the
        // smallest times are taken.
        let places = (self.length - 2 * self.pairs) / 2;
        let mut clocks = (0..places)
            .map(|place| (-(1.0 - rng.random::<f64>()).ln() / ((place + 1) as f64).powf(POWER - 1.0), place))
            .collect::<Vec<_>>();
        clocks.sort_by(|a, b| a.0.total_cmp(&b.0));
        let asked = clocks[..self.pairs].iter().zip(keys.iter().zip(&values)).map(|((_, place), (&key, &value))| {
            let position = 2 * self.pairs + 2 * place;
            tokens[position] = key;
            (position, value)
        });
        let asked = asked.collect();
        Sequence { tokens, asked }
    }
}

/// A batch of sequences.
#[derive(Debug, Clone)]
pub struct Batch<B: Backend> {
    /// `[batch, length]`.
    pub tokens: Tensor<B, 2, Int>,
    /// The positions that ask for a value, counted over the whole batch, `[batch * pairs]`.
    pub asked: Tensor<B, 1, Int>,
    /// The values, `[batch * pairs]`.
    pub values: Tensor<B, 1, Int>,
}

#[derive(Debug, Clone, Copy)]
pub struct Batches;

impl<B: Backend> Batcher<B, Sequence, Batch<B>> for Batches {
    fn batch(&self, items: Vec<Sequence>, device: &B::Device) -> Batch<B> {
        let length = items.first().map_or(0, |item| item.tokens.len());
        let asked = items.iter().enumerate().flat_map(|(at, item)| {
            item.asked.iter().map(move |(position, value)| ((at * length + position) as i32, *value))
        });
        let (asked, values): (Vec<_>, Vec<_>) = asked.unzip();
        let tokens = items.iter().flat_map(|item| item.tokens.iter().copied()).collect::<Vec<_>>();
        Batch {
            tokens: Tensor::from_data(TensorData::new(tokens, [items.len(), length]), device),
            asked: Tensor::from_data(asked.as_slice(), device),
            values: Tensor::from_data(values.as_slice(), device),
        }
    }
}

/// Batches of the sequences. If `shuffled` has a seed, each pass has a new order.
pub fn loader<B: Backend>(
    sequences: Vec<Sequence>,
    batch_size: usize,
    shuffled: Option<u64>,
) -> Arc<dyn DataLoader<B, Batch<B>>> {
    let builder = DataLoaderBuilder::<B, _, _>::new(Batches).batch_size(batch_size);
    let builder = match shuffled {
        Some(seed) => builder.shuffle(seed),
        None => builder,
    };
    builder.build(InMemDataset::new(sequences))
}
