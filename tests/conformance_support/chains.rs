//! Cases of one masker and of chains, without sampling.

use burn::tensor::backend::Backend;
use serde_json::Value;
use sparse_attention_hub::{
    masker::AdaptiveSamplingConfig,
    method::ResearchOutput,
    prelude::{LayerState, Mask, masked_attention},
};

use super::{
    fixtures::{
        EVERYTHING, attention_weights, check_flags, config_of, inputs, is_type, keep, output, research_attention,
        weights,
    },
    own::{Kept, Problem, check_attention, check_original},
    products,
    report::{Outcome, Quirks, ROUNDED, judge, listed},
    vectors::{Case, Check, Entry, Result, all, equal},
};
use crate::common::{attention_rounding, weights_rounding};

/// The quirks that the case names, that are listed for its kind, and that concern one of the given maskers.
pub fn concerning(entry: &Entry, maskers: &[Value]) -> Quirks {
    let types = maskers.iter().filter_map(|masker| masker.get("type").and_then(Value::as_str)).collect::<Vec<_>>();
    let has = |name: &str| types.contains(&name);
    let is_sized =
        |masker: &Value| masker.as_object().is_some_and(|fields| fields.keys().any(|key| key.ends_with("_size")));
    let heads = entry.number("b").unwrap_or(1.0) * entry.number("h_kv").unwrap_or(1.0);
    let centres = |masker: &Value| masker.get("center").and_then(Value::as_bool) == Some(true);
    let concerns = |quirk: &&str| match *quirk {
        "Q20" | "Q21" => has("local"),
        "Q22" => maskers.iter().any(is_sized),
        "Q23" => ["oracle_top_k", "hash_attention_top_k", "double_sparsity_top_k"].into_iter().any(has),
        "Q24" => has("oracle_top_p"),
        "Q26" => has("double_sparsity_top_k"),
        "Q27" => has("quest_top_k"),
        "Q28" => has("causal") || has("pq_cache"),
        "Q50" => has("magic_pig"),
        "Q51" => has("magic_pig") && heads > 1.0,
        "Q53" => has("magic_pig") && maskers.iter().any(centres),
        _ => false,
    };
    listed(entry).into_iter().filter(|quirk| concerns(quirk)).collect()
}

/// Whether a case of one masker is an adaptive sampler that does not sample, because its base rate is 0 or its range
/// has fewer than two keys.
pub fn is_adaptive_shortcut(entry: &Entry) -> Result<bool> {
    let maskers = entry.maskers()?;
    if !is_type(&maskers[0], "adaptive_sampling") {
        return Ok(false);
    }
    let config = config_of::<AdaptiveSamplingConfig>(&maskers[0])?;
    let keys = entry.number("sk")? as usize;
    Ok(config.base_rate_sampling.is_zero() || config.range(keys).len() < 2)
}

/// The mask that the maskers return for the mask before them.
fn add<B: Backend>(case: &Case) -> Result<Mask<B>> {
    let chain = research_attention(case, &case.entry.maskers()?)?;
    keep(&chain, &inputs::<B>(case)?, &mut LayerState::new(0), case.find("prev_mask"))
}

/// Compares with the mask of the case, and with its flags for full and empty.
fn expect_mask<B: Backend>(case: &Case, mask: &Mask<B>) -> Check {
    let is_full = case.entry.flags().map_or(mask.is_full(), |flags| flags.is_full);
    all([case.expect_mask("mask", &weights(mask)), equal("is_full", mask.is_full(), is_full)])
}

/// Checks that a mask is the documented one, which is computed a second time. Returns the quirks that explain the
/// difference to the mask of the case.
pub fn check_documented<B: Backend>(case: &Case, problem: &Problem, mask: &Mask<B>) -> Result<Quirks> {
    let maskers = case.entry.maskers()?;
    let start = || match case.find("prev_mask") {
        Some(before) => Kept::from(problem, before.values.clone()),
        None => Kept::nothing(problem),
    };
    let own = start().chain(problem, &maskers)?;
    own.check(&weights(mask), mask.is_full())?;
    let mut quirks = concerning(case.entry, &maskers);
    if let [earlier @ .., last] = &maskers[..]
        && is_type(last, "magic_pig")
        && !case.entry.flags().is_some_and(|flags| flags.is_full)
    {
        check_original(case, problem, last, &start().chain(problem, earlier)?.weights)?;
        if problem.keeps_hidden(&case.tensor("mask")?.values) {
            quirks.push("Q57");
        }
    }
    if quirks.is_empty() && problem.is_rounded() && own.expect_where_clear(case, "mask", &weights(mask)).is_ok() {
        quirks.push(ROUNDED);
    }
    Ok(quirks)
}

/// Kind `masker`.
pub fn masker<B: Backend>(case: &Case) -> Result<Outcome> {
    let mask = add::<B>(case)?;
    judge(expect_mask(case, &mask), || {
        let problem = products::problem::<B>(case, &case.entry.maskers()?, case.find("prev_mask"))?;
        check_documented(case, &problem, &mask)
    })
}

/// Kind `masker`, for an [adaptive sampler that does not sample](is_adaptive_shortcut).
pub fn shortcut<B: Backend>(case: &Case) -> Result<Outcome> {
    let mask = add::<B>(case)?;
    all([expect_mask(case, &mask), check_flags(case, &mask)])?;
    Ok(Outcome::Passed)
}

/// The kinds `chain`, `magic_pig` and `magic_pig_mask`.
pub fn chain<B: Backend>(case: &Case) -> Result<Outcome> {
    let maskers = case.entry.maskers()?;
    let chain = research_attention::<B>(case, &maskers)?;
    let (inputs, mut state) = (inputs(case)?, LayerState::new(0));
    let found = match case.find("prev_mask") {
        None => chain.forward(&inputs, &mut state, EVERYTHING)?,
        before => {
            let mask = keep(&chain, &inputs, &mut state, before)?;
            ResearchOutput { attention: masked_attention(&inputs, &mask, EVERYTHING)?, mask }
        }
    };
    let output = output(&found.attention);
    let attention_weights = attention_weights(&found.attention)?;
    let problem = products::problem::<B>(case, &maskers, case.find("prev_mask"))?;
    let own = problem.attend(&weights(&found.mask));
    check_attention::<B>(case, &output, Some(&attention_weights), &own)?;
    let as_dense = || {
        all([
            case.expect_product_if_there("output", &output, attention_rounding::<B>()),
            case.expect_product_if_there("weights", &attention_weights, weights_rounding::<B>()),
        ])
    };
    judge(all([expect_mask(case, &found.mask), as_dense()]), || {
        if maskers.is_empty() {
            // The Python project marks the mask as empty, and attends as if it were full.
            all([equal("is_full", found.mask.is_full(), true), as_dense()])?;
            return Ok(vec!["Q01"]);
        }
        let mut quirks = check_documented(case, &problem, &found.mask)?;
        if case.find("output").is_some_and(|output| output.values.iter().any(|value| value.is_nan())) {
            quirks.retain(|quirk| *quirk != ROUNDED);
            quirks.push("Q02");
        }
        Ok(quirks)
    })
}
