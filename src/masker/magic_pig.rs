use burn::{
    module::{Content, Module, ModuleDisplay},
    tensor::{DType, Tensor, TensorData, backend::Backend},
};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, Context, KeyMemory, LayerState, Masker, MaskerConfig, limits,
    rows::{add_by_row, candidate_scores, candidates},
};
use crate::{
    attention::{AttentionError, AttentionInputs, scores::check_scores},
    mask::{Kept, Mask},
    scorer::{Host, Seen, dot, pack, truncate},
};

/// Configuration of [MagicPig].
///
/// ```json
/// {"type": "magic_pig", "lsh_l": 150, "lsh_k": 10, "minimum_hits": 2}
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MagicPigConfig {
    /// Number of hash tables, in 1..=16384 (and at least `minimum_hits`).
    pub lsh_l: usize,
    /// Bits of a hash, in 1..=64; in 1..=1024 for the packing `float32`. `lsh_l` times `lsh_k` is at most 1048576.
    pub lsh_k: usize,
    /// Whether the mean of the first call's keys is subtracted from the keys, which changes no attention weight and
    /// spreads their directions. Default: true.
    #[serde(default = "yes")]
    pub center: bool,
    /// In how many tables query and key must meet: 1, as the Python project has it, or 2, as the paper. Default: 1.
    #[serde(default = "one")]
    pub minimum_hits: usize,
    /// The Python project's choice of storage, accepted for its files: signatures are always packed bits.
    #[serde(default)]
    pub packing: Packing,
    /// The seed of the projections, beside that of the state. Default: 0.
    #[serde(default)]
    pub seed: u64,
}

/// How the Python project stores signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// 64 bits in an integer.
    #[default]
    Int64,
    /// A number a bit.
    Float32,
}

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

/// Samples keys by locality-sensitive hashing ([MagicPIG](https://arxiv.org/abs/2410.16179)): a key is kept if it falls
/// into the query's bucket in at least `minimum_hits` of `lsh_l` tables, and the probability of that, which the angle
/// between them gives exactly, is its weight.
///
/// Keys `k` become `(k, sqrt(M^2 - |k|^2)) / M` and queries `(q, 0) / |q|` (the transform of simple LSH), so that the
/// angle falls as the inner product rises. With `c` the collision probability of one bit, `1 - angle / pi`, and
/// `p = c^lsh_k` that of a table, a key is kept with probability `1 - (1 - p)^L`, or for two hits
/// `1 - (1 - p)^L - L p (1 - p)^(L - 1)`.
///
/// `M` belongs to a sequence and key-value head, and is half as large again as the longest key of the first call; should
/// a longer key arrive all are hashed anew. Signatures are remembered: a step hashes the new keys only. Keys are
/// centred, queries are not. Sampling is exact over the draw of the projections, which is made once from the seeds: the
/// draws of successive steps are not independent.
///
/// Should be created with [MagicPigConfig].
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct MagicPig<B: Backend> {
    config: MagicPigConfig,
    projection: Option<Tensor<B, 2>>,
}

impl<B: Backend> ModuleDisplay for MagicPig<B> {
    fn custom_content(&self, content: Content) -> Option<Content> {
        let MagicPigConfig { lsh_l, lsh_k, center, minimum_hits, seed, .. } = &self.config;
        content
            .add("lsh_l", lsh_l)
            .add("lsh_k", lsh_k)
            .add("center", center)
            .add("minimum_hits", minimum_hits)
            .add("seed", seed)
            .optional()
    }
}

/// How much longer than the longest key seen a key may become before all are hashed anew.
const HEADROOM: f32 = 1.5;

impl<B: Backend> MaskerConfig<B> for MagicPigConfig {
    type Masker = MagicPig<B>;

    fn init(&self, _context: &Context<B>) -> Result<MagicPig<B>, ConfigError> {
        limits::TABLES.check("lsh_l", self.lsh_l)?;
        match self.packing {
            Packing::Int64 if self.lsh_k > 64 => {
                return Err(ConfigError::value("lsh_k", self.lsh_k, "in 1..=64 for the packing `int64`"));
            }
            _ => limits::HASH_BITS.check("lsh_k", self.lsh_k)?,
        }
        limits::DIRECTIONS.check("lsh_l * lsh_k", self.lsh_l * self.lsh_k)?;
        match self.minimum_hits {
            1 | 2 if self.minimum_hits <= self.lsh_l => Ok(MagicPig { config: *self, projection: None }),
            hits => Err(ConfigError::value("minimum_hits", hits, "1 or 2, and at most lsh_l")),
        }
    }
}

/// What is remembered of the keys.
#[derive(Debug, Default)]
struct Tables {
    seen: Seen,
    /// `lsh_l * lsh_k` directions of `head_dim + 1` numbers, table after table.
    directions: Vec<f32>,
    by_head: Vec<HeadTables>,
}

/// The keys of one key-value head.
#[derive(Debug, Default, Clone)]
struct HeadTables {
    mean: Vec<f32>,
    /// `M`.
    scale: f32,
    /// How many keys there were when it was last raised.
    scaled_at: usize,
    /// The centred keys, with the coordinate that completes them to length 1.
    keys: Vec<f32>,
    signatures: Vec<u64>,
}

impl KeyMemory for Tables {
    /// A scale or a mean of keys that are gone is made anew.
    fn truncate(&mut self, keys: usize) {
        let (count, first) = (self.seen.keys(), self.seen.first());
        if keys < first || self.by_head.iter().any(|tables| keys < tables.scaled_at) {
            self.seen.restart(keys);
        } else {
            for tables in &mut self.by_head {
                truncate(&mut tables.keys, count, keys);
                truncate(&mut tables.signatures, count, keys);
            }
            self.seen.truncate(keys);
        }
    }
}

impl HeadTables {
    fn grow(&mut self, new: &[f32], width: usize, directions: &[f32], bits: usize) {
        let centred = new.chunks(width).flat_map(|key| key.iter().zip(&self.mean).map(|(x, mean)| x - mean));
        let centred = centred.collect::<Vec<_>>();
        let longest = centred.chunks(width).map(|key| dot(key, key).sqrt()).fold(0.0, f32::max);
        let known = self.keys.chunks(width + 1).map(|key| &key[..width]);
        let keys = if longest > self.scale {
            // The old keys in their own length again, so that all stand for the same scale.
            let old = known.flatten().map(|x| x * self.scale).collect::<Vec<_>>();
            self.scale = longest * HEADROOM;
            self.scaled_at = (old.len() + centred.len()) / width;
            self.keys.clear();
            self.signatures.clear();
            [old, centred].concat()
        } else {
            centred
        };
        // As long as all keys are 0, so is the scale; the vectors are then the completing coordinate alone.
        let scale = self.scale.max(f32::MIN_POSITIVE);
        for key in keys.chunks(width) {
            let start = self.keys.len();
            self.keys.extend(key.iter().map(|x| x / scale));
            let length = dot(&self.keys[start..], &self.keys[start..]);
            self.keys.push((1.0 - length).max(0.0).sqrt());
            self.signatures.extend(sign(&self.keys[start..], directions, bits));
        }
    }
}

/// The signature of a vector: for each table, its bits from the first of a word on.
fn sign(vector: &[f32], directions: &[f32], bits: usize) -> Vec<u64> {
    let products = directions.chunks(vector.len()).map(|direction| dot(vector, direction)).collect::<Vec<_>>();
    products.chunks(bits).flat_map(pack).collect()
}

impl<B: Backend> MagicPig<B> {
    /// The sampler with given projections in place of drawn ones.
    ///
    /// # Shapes
    /// - projection: `[head_dim + 1, lsh_l * lsh_k]`; column `t * lsh_k + j` makes bit `j` of table `t`.
    pub fn with_projection(mut self, projection: Tensor<B, 2>) -> Self {
        self.projection = Some(projection);
        self
    }

    fn directions(&self, inputs: &AttentionInputs<B>, state: &LayerState) -> Result<Vec<f32>, AttentionError> {
        let width = inputs.keys().dims()[3] + 1;
        let count = self.config.lsh_l * self.config.lsh_k;
        match &self.projection {
            Some(projection) if projection.dims() == [width, count] => {
                Ok(projection.clone().transpose().to_data().convert::<f32>().iter::<f32>().collect())
            }
            Some(projection) => Err(AttentionError::Shape {
                tensor: "projection",
                found: projection.dims().to_vec(),
                expected: format!("[{width}, {count}] (head_dim + 1, lsh_l * lsh_k)"),
            }),
            None => {
                let mut rng = state.fixed_randomness(inputs.layer()).row(self.config.seed as usize);
                Ok((0..width * count).map(|_| StandardNormal.sample(&mut rng)).collect())
            }
        }
    }

    /// The probability of being kept at a cosine.
    fn probability(&self, cosine: f32) -> f64 {
        let tables = self.config.lsh_l as f64;
        let bit = 1.0 - f64::from(cosine.clamp(-1.0, 1.0)).acos() / std::f64::consts::PI;
        let table = bit.powi(self.config.lsh_k as i32);
        // Where tables hardly ever meet, 1 - (1 - p)^L loses all its digits.
        let at_least_one = -(tables * (-table).ln_1p()).exp_m1();
        match self.config.minimum_hits {
            1 => at_least_one,
            _ if table >= 1.0 => 1.0,
            _ if table * tables < 1e-4 => tables * (tables - 1.0) / 2.0 * table * table,
            _ => at_least_one - tables * table * ((tables - 1.0) * (-table).ln_1p()).exp(),
        }
    }
}

impl<B: Backend> Masker<B> for MagicPig<B> {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        let (shape, device) = (inputs.mask_shape(), inputs.device());
        let [batch, kv_heads, count, width] = inputs.keys().dims();
        let MagicPigConfig { lsh_k, center, minimum_hits, .. } = self.config;
        let drawn = self.directions(inputs, state)?;
        let memory = state.key_memory::<Tables>();
        let (new, anew) = memory.seen.advance(batch * kv_heads, count);
        let keys = Host::of_range(inputs.keys(), new.clone());
        let first = memory.seen.first();
        if anew {
            memory.directions = drawn;
            memory.by_head = (0..batch * kv_heads)
                .map(|head| HeadTables {
                    mean: if center { mean(&keys.head(head)[..first * width], width) } else { vec![0.0; width] },
                    ..HeadTables::default()
                })
                .collect();
        }
        let directions = &memory.directions;
        if !new.is_empty() {
            memory.by_head.par_iter_mut().enumerate().for_each(|(head, tables)| {
                // Keys that come again after some were taken back come as they did in decoding, one by one.
                let (begin, later) = keys.head(head).split_at(if anew { first * width } else { new.len() * width });
                tables.grow(begin, width, directions, lsh_k);
                later.chunks(width).for_each(|key| tables.grow(key, width, directions, lsh_k));
            });
        }
        let queries = Host::of(inputs.queries());
        let group = shape.heads / kv_heads;
        let words = self.config.lsh_l * lsh_k.div_ceil(64);
        let words_of_table = lsh_k.div_ceil(64);
        let tables = &memory.by_head;
        check_scores(inputs)?;
        let zeros = Tensor::from_data(TensorData::zeros::<f32, _>(shape.dims()), (&device, DType::F32));
        let open = candidate_scores(inputs, &mask, zeros);
        add_by_row(&mask, &open, |row, open| {
            let head = row / shape.queries;
            let HeadTables { keys, signatures, .. } = &tables[head / group];
            let mut query = queries.vector(head, row % shape.queries).to_vec();
            let length = dot(&query, &query).sqrt().max(f32::MIN_POSITIVE);
            query.iter_mut().for_each(|x| *x /= length);
            query.push(0.0);
            let signature = sign(&query, directions, lsh_k);
            let kept = candidates(open).into_iter().filter_map(|key| {
                let at = key as usize;
                let other = &signatures[at * words..][..words];
                let same = signature.chunks(words_of_table).zip(other.chunks(words_of_table)).filter(|(a, b)| a == b);
                if same.count() < minimum_hits {
                    return None;
                }
                let probability = self.probability(dot(&query, &keys[at * (width + 1)..][..width + 1])) as f32;
                // Smaller than f32 can hold, it has no finite inverse either.
                (probability > 0.0).then_some(Kept { key, probability: probability.min(1.0) })
            });
            kept.collect()
        })
    }

    fn samples(&self) -> bool {
        true
    }
}

fn mean(vectors: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0f64; width];
    for vector in vectors.chunks(width) {
        sum.iter_mut().zip(vector).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let count = (vectors.len() / width).max(1) as f64;
    sum.into_iter().map(|sum| (sum / count) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_binomial() {
        type B = crate::backend::Selected;
        let sampler = |lsh_l, lsh_k, minimum_hits| MagicPig::<B> {
            config: MagicPigConfig { lsh_l, lsh_k, center: true, minimum_hits, packing: Packing::Int64, seed: 0 },
            projection: None,
        };
        // At a right angle a bit agrees with probability 1/2.
        assert!((sampler(3, 1, 1).probability(0.0) - 7.0 / 8.0).abs() < 1e-12);
        assert!((sampler(3, 1, 2).probability(0.0) - 4.0 / 8.0).abs() < 1e-12);
        assert!((sampler(1, 40, 1).probability(0.0) / 0.5f64.powi(40) - 1.0).abs() < 1e-12);
        assert!((sampler(100, 30, 2).probability(0.0) / (4950.0 * 0.25f64.powi(30)) - 1.0).abs() < 1e-4);
        assert_eq!(sampler(7, 5, 2).probability(1.0), 1.0);
    }

    #[test]
    fn keys_that_are_their_own_mean_are_not_lost() {
        let mut tables = HeadTables { mean: vec![0.5, -2.0], ..HeadTables::default() };
        let directions = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        tables.grow(&[0.5, -2.0], 2, &directions, 2);
        assert_eq!(tables.keys, [0.0, 0.0, 1.0]);
        assert_eq!(tables.signatures, [0b10]);
        tables.grow(&[2.5, -2.0], 2, &directions, 2);
        assert_eq!(tables.scale, 2.0 * HEADROOM);
        assert_eq!(tables.keys[..3], [0.0, 0.0, 1.0]);
        assert_eq!(tables.signatures, [0b10, 0b11]);
    }
}
