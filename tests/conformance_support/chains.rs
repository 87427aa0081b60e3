//! Cases of one masker and of chains of them, without sampling.

use burn::tensor::backend::Backend;
use serde_json::Value;
use sparse_attention_hub::{
    masker::AdaptiveSamplingConfig,
    prelude::{LayerState, Mask},
};

use super::{
    bridge::{EVERYTHING, attention_weights, check_flags, dense_mask, inputs, output, research_attention, weights},
    own::{Kept, Problem, check_attention},
    report::{Outcome, Quirks, judge, listed},
    vectors::{Case, Check, Entry, Result, all, equal},
};

/// The quirks which a case names, are listed for its kind, and concern one of some maskers.
pub fn concerning(entry: &Entry, maskers: &[Value]) -> Quirks {
    let types = maskers.iter().filter_map(|masker| masker.get("type").and_then(Value::as_str)).collect::<Vec<_>>();
    let has = |name: &str| types.contains(&name);
    let is_sized =
        |masker: &Value| masker.as_object().is_some_and(|fields| fields.keys().any(|key| key.ends_with("_size")));
    let concerns = |quirk: &&str| match *quirk {
        "Q20" | "Q21" => has("local"),
        "Q22" => maskers.iter().any(is_sized),
        "Q23" => has("oracle_top_k"),
        "Q24" => has("oracle_top_p"),
        "Q28" => has("causal"),
        _ => false,
    };
    listed(entry).into_iter().filter(|quirk| concerns(quirk)).collect()
}

/// The configuration of the adaptive sampler.
pub fn adaptive_config(masker: &Value) -> Result<AdaptiveSamplingConfig> {
    let mut fields = masker.clone();
    if let Some(fields) = fields.as_object_mut() {
        fields.remove("type");
    }
    Ok(serde_json::from_value(fields)?)
}

/// Whether a case of one masker is an adaptive sampler that does not come to sampling.
pub fn is_adaptive_shortcut(entry: &Entry) -> Result<bool> {
    let maskers = entry.maskers()?;
    if maskers[0].get("type").and_then(Value::as_str) != Some("adaptive_sampling") {
        return Ok(false);
    }
    let config = adaptive_config(&maskers[0])?;
    let keys = entry.number("sk")? as usize;
    Ok(config.base_rate_sampling.is_zero() || config.range(keys).len() < 2)
}

/// What one masker makes of the mask before it.
fn add_one<B: Backend>(case: &Case) -> Result<Mask<B>> {
    let inputs = inputs::<B>(case)?;
    let before = match case.find("prev_mask") {
        Some(before) => dense_mask(before)?,
        None => Mask::empty(inputs.mask_shape(), &inputs.device()),
    };
    let chain = research_attention::<B>(case, &case.entry.maskers()?)?;
    Ok(chain.maskers()[0].add(&inputs, &mut LayerState::new(0), before)?)
}

/// Compares with the mask of the case and with how it is held.
fn expect_mask<B: Backend>(case: &Case, mask: &Mask<B>) -> Check {
    let is_full = case.entry.flags().map_or(mask.is_full(), |flags| flags.is_full);
    all([case.expect_mask("mask", &weights(mask)), equal("is_full", mask.is_full(), is_full)])
}

/// Kind `masker`.
pub fn masker<B: Backend>(case: &Case) -> Result<Outcome> {
    let mask = add_one::<B>(case)?;
    judge(expect_mask(case, &mask), || {
        let maskers = case.entry.maskers()?;
        let problem = Problem::of(case)?;
        let before = match case.find("prev_mask") {
            Some(before) => Kept::from(&problem, before.values.clone()),
            None => Kept::nothing(&problem),
        };
        before.chain(&problem, &maskers)?.check(&weights(&mask), mask.is_full())?;
        Ok(concerning(case.entry, &maskers))
    })
}

/// Kind `masker`, for a sampler which does not come to sampling.
pub fn shortcut<B: Backend>(case: &Case) -> Result<Outcome> {
    let mask = add_one::<B>(case)?;
    all([expect_mask(case, &mask), check_flags(case, &mask)])?;
    Ok(Outcome::Passed)
}

/// Kind `chain`.
pub fn chain<B: Backend>(case: &Case) -> Result<Outcome> {
    let maskers = case.entry.maskers()?;
    let chain = research_attention::<B>(case, &maskers)?;
    let found = chain.forward(&inputs(case)?, &mut LayerState::new(0), EVERYTHING)?;
    let output = output(&found.attention);
    let attention_weights = attention_weights(&found.attention)?;
    let as_dense = || all([case.expect("output", &output), case.expect("weights", &attention_weights)]);
    judge(all([expect_mask(case, &found.mask), as_dense()]), || {
        if maskers.is_empty() {
            // The Python project calls its mask empty, and attends as if it were full.
            all([equal("is_full", found.mask.is_full(), true), as_dense()])?;
            return Ok(vec!["Q01"]);
        }
        let problem = Problem::of(case)?;
        let kept = weights(&found.mask);
        all([
            Kept::nothing(&problem).chain(&problem, &maskers)?.check(&kept, found.mask.is_full()),
            check_attention(case, &output, Some(&attention_weights), &problem.attend(&kept)),
        ])?;
        let mut quirks = concerning(case.entry, &maskers);
        if case.tensor("output")?.values.iter().any(|value| value.is_nan()) {
            quirks.push("Q02");
        }
        Ok(quirks)
    })
}
