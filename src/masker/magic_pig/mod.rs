mod tables;

use burn::{
    module::{Content, Module, ModuleDisplay},
    tensor::{DType, Tensor, TensorData, backend::Backend},
};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tables::{HeadTables, Longer, Tables, sign};

use super::{
    Masker, MaskerConfig,
    rows::{add_by_row, candidate_scores, candidates},
};
use crate::{
    config::{ConfigError, limits},
    kernels::reference::scores::check_scores,
    mask::{Kept, Mask},
    problem::{AttentionError, AttentionInputs, VisibleKeys},
    scorer::{Context, Fit, Host, dot},
    state::LayerState,
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
    /// Number of bits of a hash, in 1..=64, or in 1..=1024 for the packing `float32`. `lsh_l` times `lsh_k` is at most
    /// 1048576.
    pub lsh_k: usize,
    /// Whether the mean of the fitted keys is subtracted from all keys. This changes no attention weight and spreads
    /// the directions of the keys. Default: true.
    #[serde(default = "yes")]
    pub center: bool,
    /// The number of tables in which query and key must fall into the same bucket: 1, as in the Python project, or 2,
    /// as in the paper. Default: 1.
    #[serde(default = "one")]
    pub minimum_hits: usize,
    /// The Python project's choice of storage. It is accepted so that the project's files can be read. Signatures are
    /// always stored as packed bits.
    #[serde(default)]
    pub packing: Packing,
    /// The seed of the projections, in addition to the seed of the state. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// The keys to which the mean and the length `M` are fitted. Default: the first 256 keys of the sequence. The fit
    /// is repeated each time the number of keys has doubled.
    #[serde(default)]
    pub fit: Fit,
}

/// How the Python project stores signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// 64 bits in an integer.
    #[default]
    Int64,
    /// One number for each bit.
    Float32,
}

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

/// Samples keys by locality-sensitive hashing ([MagicPIG](https://arxiv.org/abs/2410.16179)). A key is kept if it falls
/// into the query's bucket in at least `minimum_hits` of the `lsh_l` hash tables. The angle between query and key gives
/// the exact probability of this event. The mask stores this probability as the weight of the key.
///
/// Keys `k` become `(k, sqrt(M^2 - |k|^2)) / M` and queries `q` become `(q, 0) / |q|` (the transform of simple LSH).
/// The angle then falls as the inner product rises. One bit collides with probability `c = 1 - angle / pi`, and one
/// table with probability `p = c^lsh_k`. With `L = lsh_l`, a key is kept with probability `1 - (1 - p)^L` if one hit is
/// enough, and with `1 - (1 - p)^L - L p (1 - p)^(L - 1)` if two hits are needed.
///
/// `M` belongs to a sequence and key-value head. It is 1.5 times the length of the longest of the [fitted keys](Fit). A
/// longer key is not in the tables: every query that sees it keeps it with certainty, until the next fit. A query to
/// which no fit applies keeps all keys that it sees. With `"fit": "prompt"`, a longer key makes `M` grow, and all keys
/// are hashed again. Signatures are remembered, so a step hashes the new keys only. Keys are centred, queries are not.
/// The projections are drawn once from the seeds. Sampling is exact over this draw, but the draws of successive steps
/// are not independent.
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
        let MagicPigConfig { lsh_l, lsh_k, center, minimum_hits, seed, fit, .. } = &self.config;
        content
            .add("lsh_l", lsh_l)
            .add("lsh_k", lsh_k)
            .add("center", center)
            .add("minimum_hits", minimum_hits)
            .add("seed", seed)
            .add_debug_attribute("fit", fit)
            .optional()
    }
}

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
                let mut rng = state.fixed_randomness(inputs.layer(), self.config.seed);
                Ok((0..width * count).map(|_| StandardNormal.sample(&mut rng)).collect())
            }
        }
    }

    /// The probability that a key is kept, for the cosine of the angle between query and key.
    fn probability(&self, cosine: f32) -> f64 {
        let tables = self.config.lsh_l as f64;
        let bit = 1.0 - f64::from(cosine.clamp(-1.0, 1.0)).acos() / std::f64::consts::PI;
        let table = bit.powi(self.config.lsh_k as i32);
        // For a small `p`, `1 - (1 - p)^L` loses all its digits.
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
        let MagicPigConfig { lsh_k, center, minimum_hits, fit, .. } = self.config;
        check_scores(inputs)?;
        state.continue_with(inputs)?;
        if state.key_memory::<Tables>().directions.is_empty() {
            let drawn = self.directions(inputs, state)?;
            state.key_memory::<Tables>().directions = drawn;
        }
        let visible = VisibleKeys::of(inputs);
        let Tables { directions, fits } = state.key_memory::<Tables>();
        let plan = fits.plan(fit, visible.rows(), count);
        let keys = Host::of_range(inputs.keys(), plan.from..count);
        let longer = if fit == Fit::Prompt { Longer::Raise } else { Longer::StayOut };
        fits.grow(count, |tables, to, new| {
            let new_of = |head: usize| &keys.head(head)[(new.start - plan.from) * width..];
            let anew = tables.by_head.is_empty();
            if anew {
                let fitted = |head| HeadTables::fitted(new_of(head), to, center, width);
                tables.by_head = (0..batch * kv_heads).map(fitted).collect();
            }
            tables.by_head.par_iter_mut().enumerate().for_each(|(head, tables)| {
                // New tables take the keys after the fitted ones one by one, as in decoding. `M` then grows as it did
                // before some keys were taken back.
                let (begin, later) = new_of(head).split_at(if anew { to * width } else { new.len() * width });
                tables.grow(begin, directions, lsh_k, longer);
                later.chunks(width).for_each(|key| tables.grow(key, directions, lsh_k, longer));
            });
        });
        let queries = Host::of(inputs.queries());
        let group = shape.heads / kv_heads;
        let words = self.config.lsh_l * lsh_k.div_ceil(64);
        let words_of_table = lsh_k.div_ceil(64);
        let zeros = Tensor::from_data(TensorData::zeros::<f32, _>(shape.dims()), (&device, DType::F32));
        let open = candidate_scores(inputs, &mask, zeros);
        add_by_row(&mask, &open, |row, open| {
            let head = row / shape.queries;
            let mut query = queries.vector(head, row % shape.queries).to_vec();
            let length = dot(&query, &query).sqrt().max(f32::MIN_POSITIVE);
            let all = || candidates(open).into_iter().map(Kept::certainly).collect();
            let fitted = fits.of_row(fit, &visible.row(head, row % shape.queries));
            let Some(tables) = fitted.filter(|_| !query.iter().any(|x| x.is_nan())) else { return all() };
            let HeadTables { keys, signatures, longer, .. } = &tables.by_head[head / group];
            query.iter_mut().for_each(|x| *x /= length);
            query.push(0.0);
            let signature = sign(&query, directions, lsh_k);
            let kept = candidates(open).into_iter().filter_map(|key| {
                if longer.binary_search(&key).is_ok() {
                    return Some(Kept::certainly(key));
                }
                let at = key as usize;
                let other = &signatures[at * words..][..words];
                let same = signature.chunks(words_of_table).zip(other.chunks(words_of_table)).filter(|(a, b)| a == b);
                if same.count() < minimum_hits {
                    return None;
                }
                let probability = self.probability(dot(&query, &keys[at * (width + 1)..][..width + 1])) as f32;
                // A probability that f32 rounds to 0 has no finite inverse, so the key is left out.
                (probability > 0.0).then_some(Kept { key, probability: probability.min(1.0) })
            });
            kept.collect()
        })
    }

    fn samples(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_binomial() {
        type B = crate::backend::Selected;
        let sampler = |lsh_l, lsh_k, minimum_hits| MagicPig::<B> {
            config: MagicPigConfig {
                lsh_l,
                lsh_k,
                center: true,
                minimum_hits,
                packing: Packing::Int64,
                seed: 0,
                fit: Fit::default(),
            },
            projection: None,
        };
        // At a right angle a bit agrees with probability 1/2.
        assert!((sampler(3, 1, 1).probability(0.0) - 7.0 / 8.0).abs() < 1e-12);
        assert!((sampler(3, 1, 2).probability(0.0) - 4.0 / 8.0).abs() < 1e-12);
        assert!((sampler(1, 40, 1).probability(0.0) / 0.5f64.powi(40) - 1.0).abs() < 1e-12);
        assert!((sampler(100, 30, 2).probability(0.0) / (4950.0 * 0.25f64.powi(30)) - 1.0).abs() < 1e-4);
        assert_eq!(sampler(7, 5, 2).probability(1.0), 1.0);
    }
}
