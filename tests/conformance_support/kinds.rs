//! The function that runs each kind of case.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use burn::tensor::backend::Backend;
use serde_json::Value;

use super::{
    attention, chains, decode, masks, own,
    report::Outcome,
    sampling, selectors, tables,
    vectors::{Case, Entry, Result, Vectors},
};
#[cfg(feature = "hf")]
use super::{models, texts};

type Run = fn(&Case) -> Result<Outcome>;

/// Runs a case if the library covers it. A panic of the library is a failure of this case only.
pub fn run<B: Backend>(vectors: &Vectors, entry: &Entry) -> Result<Outcome> {
    let Some(run) = function::<B>(entry)? else { return Ok(Outcome::NotCovered) };
    let case = vectors.load(entry)?;
    catch_unwind(AssertUnwindSafe(|| run(&case))).unwrap_or_else(|panic| Err(message(panic).into()))
}

/// The function for a case; `None` if its kind or one of its maskers is not covered yet.
fn function<B: Backend>(entry: &Entry) -> Result<Option<Run>> {
    let run: Run = match entry.kind.as_str() {
        "mask_convert" => masks::convert::<B>,
        "mask_merge" => masks::merge::<B>,
        "mask_merge_duplicates" => masks::merge_duplicates::<B>,
        "mask_density" => masks::density::<B>,
        "mask_apply" => masks::apply::<B>,
        "mask_apply_flag" => masks::apply_flag::<B>,
        "mask_row_wise" => masks::row_wise::<B>,
        "repeat_kv" => attention::repeat_kv::<B>,
        "attention_dense" => attention::dense::<B>,
        "attention_masked" => attention::masked::<B>,
        "attention_masked_flag" => attention::masked_flag::<B>,
        "masker" if chains::is_adaptive_shortcut(entry)? => chains::shortcut::<B>,
        "masker" if covered(&entry.maskers()?) => chains::masker::<B>,
        "chain" | "magic_pig" | "magic_pig_mask" if covered(&entry.maskers()?) => chains::chain::<B>,
        "decode_state" if covered(&entry.maskers()?) => decode::state::<B>,
        "masker_topk_ties" => selectors::ties::<B>,
        "pseudo_quantize" => selectors::quantized,
        "random_sampling" if covered_before_sampler(&entry.maskers()?) => sampling::random::<B>,
        "adaptive_sampling" if covered_before_sampler(&entry.maskers()?) => sampling::adaptive::<B>,
        "sampling_mask_budget" => sampling::mask_of_budget::<B>,
        "adaptive_sampling_range_table" => tables::sampling_range,
        "adaptive_base_count_table" => tables::base_count,
        "effective_size_table" => tables::effective_size::<B>,
        "adaptive_budget_table" => tables::budget,
        "norm_ppf_table" => tables::normal_quantile,
        "config_validation" => tables::config_validation::<B>,
        "chain_validation" => tables::chain_validation::<B>,
        #[cfg(feature = "hf")]
        "hf_model" => models::dense::<B>,
        #[cfg(feature = "hf")]
        "hf_sparse_decode" => models::sparse::<B>,
        #[cfg(feature = "hf")]
        "adapter_request" => texts::request::<B>,
        #[cfg(feature = "hf")]
        "tokenizer" => texts::tokenizer,
        _ => return Ok(None),
    };
    Ok(Some(run))
}

fn covered(maskers: &[Value]) -> bool {
    maskers
        .iter()
        .all(|masker| masker.get("type").and_then(Value::as_str).is_some_and(|name| own::MASKERS.contains(&name)))
}

/// Whether all maskers but the last are covered.
fn covered_before_sampler(maskers: &[Value]) -> bool {
    maskers.split_last().is_some_and(|(_, before)| covered(before))
}

fn message(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("panics: {}", text.unwrap_or("without a message"))
}
