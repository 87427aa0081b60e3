//! Cases of the parts of selectors.

use burn::tensor::backend::Backend;
use sparse_attention_hub::{
    method::HashAttentionTopKConfig,
    prelude::LayerState,
    scorer::{Rounding, Scorer, ScorerConfig, pseudo_quantize},
};

use super::{
    chains::check_documented,
    fixtures::{config_of, context, host, inputs, keep, research_attention, weights, with_hash_weights},
    own::Problem,
    report::Outcome,
    vectors::{Case, Result, equal, holds},
};

/// Kind `pseudo_quantize`.
pub fn quantized(case: &Case) -> Result<Outcome> {
    let bits = case.entry.number("bits")? as u32;
    let x = case.tensor("x")?;
    let mut values = x.values.iter().map(|&value| value as f32).collect::<Vec<_>>();
    values.chunks_mut(x.width()).for_each(|vector| pseudo_quantize(vector, bits, Rounding::Nearest));
    case.expect("y", &values.into_iter().map(f64::from).collect::<Vec<_>>())?;
    Ok(Outcome::Passed)
}

/// Kind `masker_topk_ties`. The case allows any choice among equal scores. This library documents which one it makes.
pub fn ties<B: Backend>(case: &Case) -> Result<Outcome> {
    let maskers = case.entry.maskers()?;
    let (config, _file) = with_hash_weights(case, &maskers[0])?;
    let scorer = config_of::<HashAttentionTopKConfig>(&config)?.scorer();
    let scorer = ScorerConfig::<B>::init(&scorer, &context(case))?;
    let inputs = inputs::<B>(case)?;
    let scores = host(scorer.score(&inputs, &mut LayerState::new(0))?);
    case.expect("scores", &scores)?;
    let mask = keep(&research_attention(case, &maskers)?, &inputs, &mut LayerState::new(0), None)?;
    let (kept, keys) = (weights(&mask), inputs.mask_shape().keys);
    let (thresholds, counts) = (&case.tensor("threshold")?.values, &case.tensor("count")?.values);
    for (row, (kept, scores)) in kept.chunks(keys).zip(scores.chunks(keys)).enumerate() {
        let count = kept.iter().filter(|weight| **weight == 1.0).count();
        equal(&format!("the number of keys kept in row {row}"), count as f64, counts[row])?;
        for (&weight, &score) in kept.iter().zip(scores) {
            let fits = score == thresholds[row] || (weight == 1.0) == (score > thresholds[row]);
            holds(fits, || format!("a key of row {row} with the score {score} has the weight {weight}"))?;
        }
    }
    check_documented(case, &Problem::of::<B>(case)?, &mask)?;
    Ok(Outcome::Passed)
}
