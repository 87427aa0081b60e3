//! Cases of several calls with one state: a prefill and decode steps.

use burn::tensor::backend::Backend;
use sparse_attention_hub::prelude::LayerState;

use super::{
    chains::check_documented,
    fixtures::{inputs, keep, research_attention, weights},
    products::Recording,
    report::{Outcome, Quirks, judge},
    vectors::{Case, Result},
};

/// Kind `decode_state`.
pub fn state<B: Backend>(case: &Case) -> Result<Outcome> {
    let maskers = case.entry.maskers()?;
    let chain = research_attention::<B>(case, &maskers)?;
    let mut state = LayerState::new(0);
    let mut recording = Recording::<B>::of(case, &maskers)?;
    let (mut all, mut first) = (Quirks::new(), None);
    for (number, call) in case.each_call()?.iter().enumerate() {
        let mask = keep(&chain, &inputs(call)?, &mut state, None)?;
        let problem = recording.problem(call, None)?;
        let outcome = judge(call.expect_mask("mask", &weights(&mask)), || check_documented(call, &problem, &mask));
        let outcome = outcome.map_err(|error| format!("call {number}: {error}"))?;
        if let Outcome::Differs { quirks, found } = outcome {
            all.extend(quirks);
            first.get_or_insert(format!("call {number}: {found}"));
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(first.map_or(Outcome::Passed, |found| Outcome::Differs { quirks: all, found }))
}
