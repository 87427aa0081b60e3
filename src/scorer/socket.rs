use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Context, RowScorer, Scorer, ScorerConfig,
    keys::{Host, KeyCursor, all_scores, dot, reorder, truncate},
};
use crate::{
    config::{ConfigError, limits},
    problem::{AttentionError, AttentionInputs},
    state::{KeyMemory, LayerState},
};

/// Configuration of [Socket], `{"type": "socket", "tables": 60, "bits": 8, "temperature": 0.4}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketConfig {
    /// Number of hash tables, in 1..=16384.
    pub tables: usize,
    /// Bits of a bucket, in 1..=16. A table has `2^bits` buckets.
    pub bits: usize,
    /// The temperature of the softmax over the buckets, above 0. A higher temperature spreads a query over more
    /// buckets.
    pub temperature: f64,
}

/// The share of a query's soft hash in the bucket of the key, summed over the tables, times the norm of the key's
/// value. These are the *soft collisions* of sign random projections (SOCKET).
///
/// In each table, the bucket of a key is given by the signs of its dot products with `bits` random directions. A query
/// has a probability for every bucket. This is the softmax of `s . x / temperature` over the corners `s`, with the
/// products `x` of the normalised query, and it is a product of sigmoids. The score is the logarithm of the value's
/// norm times the sum of the probabilities, so that it is on the scale of logits. Buckets and norms are remembered, so
/// a decode step only makes those of the new keys.
///
/// Should be created with [SocketConfig].
#[derive(Module, Debug, Clone, Copy)]
pub struct Socket {
    config: SocketConfig,
}

impl<B: Backend> ScorerConfig<B> for SocketConfig {
    type Scorer = Socket;

    fn init(&self, _context: &Context<B>) -> Result<Socket, ConfigError> {
        limits::TABLES.check("tables", self.tables)?;
        if !(1..=16).contains(&self.bits) {
            let allowed = "in 1..=16, since a bucket is held in 16 bits";
            return Err(ConfigError::value("bits", self.bits, allowed));
        }
        match self.temperature > 0.0 && self.temperature.is_finite() {
            true => Ok(Socket { config: *self }),
            false => Err(ConfigError::value("temperature", self.temperature, "above 0")),
        }
    }
}

/// The random directions, and the buckets of the keys for each key-value head.
#[derive(Debug, Clone, Default)]
struct Buckets {
    cursor: KeyCursor,
    /// `tables * bits` directions, one after the other.
    directions: Vec<f32>,
    /// For each key, its bucket in each table.
    by_head: Vec<Vec<u16>>,
    /// For each key, the norm of its value.
    norms: Vec<Vec<f32>>,
}

impl KeyMemory for Buckets {
    fn truncate(&mut self, keys: usize) {
        self.by_head.iter_mut().for_each(|buckets| truncate(buckets, self.cursor.keys(), keys));
        self.norms.iter_mut().for_each(|norms| norms.truncate(keys));
        self.cursor.truncate(keys);
    }

    fn reorder(&mut self, indices: &[usize], batch: usize) {
        reorder(&mut self.by_head, indices, batch);
        reorder(&mut self.norms, indices, batch);
        self.cursor.reorder(indices, batch);
    }
}

impl<B: Backend> Scorer<B> for Socket {
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        all_scores(inputs, &self.rows(inputs, state)?)
    }

    fn by_row<'a>(
        &'a self,
        inputs: &'a AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<Option<Box<dyn RowScorer + 'a>>, AttentionError> {
        Ok(Some(Box::new(self.rows(inputs, state)?)))
    }
}

impl Socket {
    fn rows<'a, B: Backend>(
        &self,
        inputs: &AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<SocketRows<'a>, AttentionError> {
        let SocketConfig { tables, bits, .. } = self.config;
        let [batch, kv_heads, count, width] = inputs.keys().dims();
        state.continue_with(inputs)?;
        let mut rng = state.fixed_randomness(inputs.layer(), 0);
        let memory = state.key_memory::<Buckets>();
        let (new, anew) = memory.cursor.advance(batch * kv_heads, count);
        if anew {
            memory.directions = (0..tables * bits * width).map(|_| StandardNormal.sample(&mut rng)).collect();
            memory.by_head = vec![Vec::new(); batch * kv_heads];
            memory.norms = vec![Vec::new(); batch * kv_heads];
        }
        let directions = &memory.directions;
        if !new.is_empty() {
            let keys = Host::of_range(inputs.keys(), new.clone());
            let values = Host::of_range(inputs.values(), new);
            let heads = memory.by_head.par_iter_mut().zip(&mut memory.norms).enumerate();
            heads.for_each(|(head, (buckets, norms))| {
                for key in keys.head(head).chunks(width) {
                    let bit = |direction: &[f32]| u16::from(dot(key, direction) > 0.0);
                    let table = |table: &[f32]| {
                        (0..).zip(table.chunks(width)).fold(0, |code, (at, direction)| code | bit(direction) << at)
                    };
                    buckets.extend(directions.chunks(bits * width).map(table));
                }
                norms.extend(values.head(head).chunks(values.dims[3]).map(|value| dot(value, value).sqrt()));
            });
        }
        Ok(SocketRows {
            config: self.config,
            group: inputs.mask_shape().heads / kv_heads,
            queries: Host::of(inputs.queries()),
            memory,
        })
    }
}

struct SocketRows<'a> {
    config: SocketConfig,
    group: usize,
    queries: Host,
    memory: &'a Buckets,
}

impl RowScorer for SocketRows<'_> {
    fn score_group(&self, kv_head: usize, query: usize, scores: &mut [f32]) {
        let count = scores.len() / self.group;
        for (head, scores) in (kv_head * self.group..).zip(scores.chunks_exact_mut(count)) {
            self.score_head(kv_head, self.queries.vector(head, query), scores);
        }
    }
}

impl SocketRows<'_> {
    fn score_head(&self, kv_head: usize, query: &[f32], scores: &mut [f32]) {
        let SocketConfig { tables, bits, temperature } = self.config;
        let width = query.len();
        let sharpness = 2.0 / (temperature as f32 * dot(query, query).sqrt().max(f32::MIN_POSITIVE));
        // The softmax over the corners factors into a sigmoid for each bit.
        let mut shares = vec![1f32; tables << bits];
        for (table, shares) in self.memory.directions.chunks(bits * width).zip(shares.chunks_mut(1 << bits)) {
            for (bit, direction) in table.chunks(width).enumerate() {
                let set = 1.0 / (1.0 + (-sharpness * dot(query, direction)).exp());
                for (bucket, share) in shares.iter_mut().enumerate() {
                    *share *= if bucket >> bit & 1 == 1 { set } else { 1.0 - set };
                }
            }
        }
        let keys = self.memory.by_head[kv_head].chunks(tables).zip(&self.memory.norms[kv_head]);
        for (score, (buckets, norm)) in scores.iter_mut().zip(keys) {
            let share = |(table, &bucket): (usize, &u16)| shares[(table << bits) + usize::from(bucket)];
            let collisions = buckets.iter().enumerate().map(share).sum::<f32>();
            *score = (norm * collisions).max(f32::MIN_POSITIVE).ln();
        }
    }
}
