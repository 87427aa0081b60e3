//! The keys as PQCache quantises them. The library draws the keys from which its centroids start, so they cannot be
//! computed a second time. The tests read the quantised keys from the library, and check that they are a result of
//! k-means.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use burn::tensor::{Tensor, backend::Backend};
use serde_json::Value;
use sparse_attention_hub::{
    attention::AttentionError,
    masker::TopK,
    method::PqCacheConfig,
    prelude::{AttentionInputs, LayerState, ResearchAttention},
    scorer::{Pq, PqConfig, Scorer, ScorerConfig},
};

use super::{
    fixtures::{config_of, context, host, inputs, is_type, keep, maskers},
    own::Problem,
    vectors::{Case, Check, Data, Result, holds},
};

/// Quantised keys by head and position, `[batch, kv_heads, keys, head_dim]`.
type Keys = Vec<f64>;

/// The scorer, which also records the quantised keys.
#[derive(Debug)]
struct Recorder {
    scorer: Pq,
    keys: Arc<Mutex<Keys>>,
}

impl<B: Backend> Scorer<B> for Recorder {
    fn score(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
    ) -> std::result::Result<Tensor<B, 4>, AttentionError> {
        let ([batch, heads, ..], [_, kv_heads, _, width]) = (inputs.queries().dims(), inputs.keys().dims());
        // The product of a key with a unit vector is a channel of the key.
        let units = Tensor::<B, 2>::eye(width, &inputs.device()).unsqueeze::<4>().expand([batch, heads, width, width]);
        let channels = AttentionInputs::new(units, inputs.keys().clone(), inputs.values().clone())?;
        let channels = channels.with_scale(1.0)?.with_layer(inputs.layer());
        let products = self.scorer.score(&channels, state)?.swap_dims(2, 3);
        // All heads of a GQA group read the same keys.
        let first_of_groups =
            (0..heads).step_by(heads / kv_heads).map(|head| products.clone().slice_dim(1, head..head + 1));
        let keys = host(Tensor::cat(first_of_groups.collect(), 1));
        *self.keys.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = keys;
        self.scorer.score(inputs, state)
    }
}

/// A chain whose PQCache maskers record the keys.
pub struct Recording<B: Backend> {
    chain: ResearchAttention<B>,
    state: LayerState,
    by_place: Vec<(usize, PqConfig, Arc<Mutex<Keys>>)>,
}

impl<B: Backend> Recording<B> {
    /// A recording of the chain with these configurations, before its first call.
    pub fn of(case: &Case, configs: &[Value]) -> Result<Self> {
        let mut chain = maskers::<B>(case, configs)?;
        let mut by_place = Vec::new();
        for (place, config) in configs.iter().enumerate().filter(|(_, config)| is_type(config, "pq_cache")) {
            let config = config_of::<PqCacheConfig>(config)?;
            let scorer = ScorerConfig::<B>::init(&config.scorer(), &context(case))?;
            let keys = Arc::<Mutex<Keys>>::default();
            chain[place] = Box::new(TopK::new(config.heavy_size, Box::new(Recorder { scorer, keys: keys.clone() }))?);
            by_place.push((place, config.scorer(), keys));
        }
        Ok(Self { chain: ResearchAttention::new(chain)?, state: LayerState::new(0), by_place })
    }

    /// The problem of the next call, with the keys that the chain quantises in it.
    pub fn problem<'a>(&mut self, case: &'a Case<'a>, before: Option<&Data>) -> Result<Problem<'a>> {
        let problem = Problem::of::<B>(case)?;
        if self.by_place.is_empty() {
            return Ok(problem);
        }
        keep(&self.chain, &inputs(case)?, &mut self.state, before)?;
        let mut quantized = BTreeMap::new();
        for (place, config, keys) in &self.by_place {
            let keys = std::mem::take(&mut *keys.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
            // A full chain does not score keys, so nothing is recorded.
            if !keys.is_empty() {
                check_quantized(case, config, &keys)?;
                quantized.insert(*place, keys);
            }
        }
        Ok(problem.with_quantized_keys(quantized))
    }
}

/// The problem of a case that calls a chain once.
pub fn problem<'a, B: Backend>(case: &'a Case<'a>, configs: &[Value], before: Option<&Data>) -> Result<Problem<'a>> {
    Recording::<B>::of(case, configs)?.problem(case, before)
}

/// Checks that the keys are quantised as documented. In each part a head has at most as many centroids as codes. Each
/// key has the nearest centroid. After a single call, the sum of the squared distances to the centroids is at most that
/// to the mean.
fn check_quantized(case: &Case, config: &PqConfig, quantized: &Keys) -> Check {
    let keys = case.tensor("k")?;
    let (count, width, codes) = (keys.dims[2], keys.width(), 1 << config.pq_bits);
    for (head, (keys, quantized)) in keys.values.chunks(count * width).zip(quantized.chunks(count * width)).enumerate()
    {
        for first in (0..width).step_by(config.pq_sub_dim) {
            let channels = first..width.min(first + config.pq_sub_dim);
            let part = |keys: &[f64]| keys.chunks(width).map(|key| key[channels.clone()].to_vec()).collect::<Vec<_>>();
            let (keys, quantized) = (part(keys), part(quantized));
            let mut centroids = quantized.clone();
            centroids.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
            centroids.dedup();
            let place = || format!("in channels {channels:?} of key-value head {head}");
            holds(centroids.len() <= codes, || format!("{} centroids {}", centroids.len(), place()))?;
            let mut sum = 0.0;
            for (key, own) in keys.iter().zip(&quantized) {
                let nearest = centroids.iter().map(|centroid| distance(key, centroid)).fold(f64::INFINITY, f64::min);
                let own = distance(key, own);
                holds(own <= nearest + 1e-5 * (1.0 + nearest), || format!("{own} and not {nearest} far {}", place()))?;
                sum += own;
            }
            let mean = (0..channels.len()).map(|at| keys.iter().map(|key| key[at]).sum::<f64>() / count as f64);
            let mean = mean.collect::<Vec<_>>();
            let most = keys.iter().map(|key| distance(key, &mean)).sum::<f64>() * (1.0 + 1e-5);
            let most = if count <= codes { 1e-9 } else { most };
            holds(case.calls.len() > 1 || sum <= most, || format!("{sum} far in all, more than {most}, {}", place()))?;
        }
    }
    Ok(())
}

/// The square of the distance.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}
