use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use rand::{Rng, seq::index};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Context, Fit, RowScorer, Scorer, ScorerConfig,
    fit::Fits,
    keys::{Host, all_scores, dot, reorder},
};
use crate::{
    config::{ConfigError, limits},
    kernels::cpu::{products, softcap},
    problem::{AttentionError, AttentionInputs, VisibleKeys},
    state::{KeyMemory, LayerState},
};

/// Configuration of [Pq], `{"type": "pq", "pq_sub_dim": 32, "pq_bits": 6}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PqConfig {
    /// Channels in a part, in 1..=65536. The last part is shorter if the head dimension is not a multiple.
    pub pq_sub_dim: usize,
    /// Bits of a code, in 1..=16. Each part has `2^bits` centroids.
    pub pq_bits: u32,
    /// The keys to which the centroids are fitted. Default: the first 256 keys of the sequence, then the first 512, and
    /// so on.
    #[serde(default)]
    pub fit: Fit,
}

/// Dot products of the query with quantised keys ([PQCache](https://arxiv.org/abs/2407.12820)), by *product
/// quantisation*.
///
/// Keys are cut into parts of `pq_sub_dim` channels. For each part and key-value head, k-means makes `2^pq_bits`
/// centroids from the [keys of the fit](Fit). A key is remembered as the codes of its nearest centroids. A new key gets
/// its codes without changing the centroids. For a query, the dot products with all centroids are computed once, and
/// the score of a key is the sum of the products of its codes. Queries without a fit have exact scores.
///
/// The initial centroids are random keys, drawn with the state's seed. Should be created with [PqConfig].
#[derive(Module, Debug, Clone, Copy)]
pub struct Pq {
    config: PqConfig,
}

/// Rounds of k-means. After them, the centroids hardly move.
const ROUNDS: usize = 12;

impl<B: Backend> ScorerConfig<B> for PqConfig {
    type Scorer = Pq;

    fn init(&self, _context: &Context<B>) -> Result<Pq, ConfigError> {
        limits::CHANNELS.check("pq_sub_dim", self.pq_sub_dim)?;
        match self.pq_bits {
            1..=16 => Ok(Pq { config: *self }),
            bits => Err(ConfigError::value("pq_bits", bits, "in 1..=16, since a code is held in 16 bits")),
        }
    }
}

/// The quantisation of one part of the keys of a key-value head.
#[derive(Debug, Default, Clone)]
struct Part {
    /// The first channel of the part.
    first: usize,
    width: usize,
    centroids: Vec<f32>,
    codes: Vec<u16>,
}

impl Part {
    fn nearest(&self, vector: &[f32]) -> u16 {
        let distance = |centroid: &[f32]| centroid.iter().zip(vector).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        let nearest = (0u16..)
            .zip(self.centroids.chunks(self.width))
            .map(|(code, centroid)| (distance(centroid), code))
            .min_by(|(a, i), (b, j)| a.total_cmp(b).then(i.cmp(j)));
        nearest.map_or(0, |(_, code)| code)
    }

    /// Lloyd's algorithm. The initial centroids are drawn from the vectors.
    fn cluster(&mut self, vectors: &[&[f32]], count: usize, rng: &mut impl Rng) {
        let first = index::sample(rng, vectors.len(), count.min(vectors.len()));
        self.centroids = first.iter().flat_map(|at| vectors[at].iter().copied()).collect();
        for _ in 0..ROUNDS {
            let mut sums = vec![0f64; self.centroids.len()];
            let mut members = vec![0u32; self.centroids.len() / self.width];
            for vector in vectors {
                let code = usize::from(self.nearest(vector));
                members[code] += 1;
                let sum = &mut sums[code * self.width..][..self.width];
                sum.iter_mut().zip(*vector).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            let centroids = self.centroids.chunks_mut(self.width).zip(sums.chunks(self.width)).zip(members);
            // A centroid without members stays where it is.
            for ((centroid, sum), members) in centroids.filter(|(_, members)| *members > 0) {
                centroid.iter_mut().zip(sum).for_each(|(x, sum)| *x = (sum / f64::from(members)) as f32);
            }
        }
    }
}

/// The parts of each key-value head of each sequence in the batch.
#[derive(Debug, Clone, Default)]
struct Codebook {
    by_head: Vec<Vec<Part>>,
}

#[derive(Debug, Clone, Default)]
struct Codebooks(Fits<Codebook>);

impl KeyMemory for Codebooks {
    fn truncate(&mut self, keys: usize) {
        self.0.truncate(keys, |codebook, _, keys| {
            codebook.by_head.iter_mut().flatten().for_each(|part| part.codes.truncate(keys));
            true
        });
    }

    fn reorder(&mut self, indices: &[usize], batch: usize) {
        self.0.contents_mut().for_each(|codebook| reorder(&mut codebook.by_head, indices, batch));
    }
}

impl<B: Backend> Scorer<B> for Pq {
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

impl Pq {
    fn rows<'a, B: Backend>(
        &self,
        inputs: &AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<PqRows<'a>, AttentionError> {
        let PqConfig { pq_sub_dim, pq_bits, fit } = self.config;
        let [batch, kv_heads, count, width] = inputs.keys().dims();
        state.continue_with(inputs)?;
        let generators = (0..kv_heads).map(|head| state.fixed_randomness(inputs.layer(), head as u64));
        let generators = generators.collect::<Vec<_>>();
        let visible = VisibleKeys::of(inputs);
        let codebooks = &mut state.key_memory::<Codebooks>().0;
        let plan = codebooks.plan(fit, visible.rows(), count);
        let keys = Host::of_range(inputs.keys(), plan.from..count);
        codebooks.grow(count, |codebook, to, new| {
            let anew = codebook.by_head.is_empty();
            if anew {
                let parts = (0..width).step_by(pq_sub_dim).map(|first| {
                    let width = pq_sub_dim.min(width - first);
                    Part { first, width, ..Part::default() }
                });
                codebook.by_head = vec![parts.collect(); batch * kv_heads];
            }
            codebook.by_head.par_iter_mut().enumerate().for_each(|(head, parts)| {
                let mut rng = generators[head % kv_heads].clone();
                let new = &keys.head(head)[(new.start - plan.from) * width..];
                for part in parts {
                    let channels = part.first..part.first + part.width;
                    let vectors = new.chunks(width).map(|key| &key[channels.clone()]).collect::<Vec<_>>();
                    if anew {
                        part.cluster(&vectors[..to], 1 << pq_bits, &mut rng);
                    }
                    let codes = vectors.iter().map(|vector| part.nearest(vector)).collect::<Vec<_>>();
                    part.codes.extend(codes);
                }
            });
        });
        Ok(PqRows {
            fit,
            scale: inputs.scale() as f32,
            softcap: inputs.softcap(),
            group: inputs.mask_shape().heads / kv_heads,
            queries: Host::of(inputs.queries()),
            exact_keys: Host::of_range(inputs.keys(), 0..plan.exact),
            visible,
            codebooks,
        })
    }
}

struct PqRows<'a> {
    fit: Fit,
    scale: f32,
    softcap: Option<f64>,
    group: usize,
    queries: Host,
    /// The keys that rows without a fit see.
    exact_keys: Host,
    visible: VisibleKeys,
    codebooks: &'a Fits<Codebook>,
}

impl RowScorer for PqRows<'_> {
    fn score_group(&self, kv_head: usize, query: usize, scores: &mut [f32]) {
        let count = scores.len() / self.group;
        for (head, scores) in (kv_head * self.group..).zip(scores.chunks_exact_mut(count)) {
            let row = self.visible.row(head, query);
            let query = self.queries.vector(head, query);
            scores.fill(0.0);
            match self.codebooks.of_row(self.fit, &row) {
                Some(codebook) => add_by_code(&codebook.by_head[kv_head], query, self.scale, scores),
                None => {
                    let query = query.iter().map(|x| x * self.scale).collect::<Vec<_>>();
                    let keys = self.exact_keys.head(kv_head);
                    products(&query, keys, query.len(), &mut scores[..self.exact_keys.dims[2]]);
                }
            }
        }
        softcap(scores, self.softcap);
    }
}

/// Adds the dot products of a query with the quantised keys to scores.
fn add_by_code(parts: &[Part], query: &[f32], scale: f32, scores: &mut [f32]) {
    for part in parts {
        let channels = &query[part.first..part.first + part.width];
        let product = |centroid: &[f32]| dot(channels, centroid) * scale;
        let products = part.centroids.chunks(part.width).map(product).collect::<Vec<_>>();
        for (score, &code) in scores.iter_mut().zip(&part.codes) {
            *score += products[usize::from(code)];
        }
    }
}
