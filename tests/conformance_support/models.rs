//! Cases of whole language models: `hf_model` and `hf_sparse_decode`.

use burn::tensor::{DType, Tensor, backend::Backend};
use serde::Deserialize;
use serde_json::Value;
use sparse_attention_hub::{
    masker::NamedConfig,
    method::MaskerChainConfig,
    models::{LanguageModel, LanguageModelCache},
    nn::{AttentionHook, AttentionMode},
};

use super::{
    chains::concerning,
    documented::Documented,
    fixtures::with_hash_weights,
    report::{Outcome, judge},
    vectors::{Case, Check, Result, all, equal},
};
use crate::common::product_rounding;

/// Sets the method of a model to the maskers of a case, with the hash weights of the case.
fn set_method<B: Backend>(case: &Case, maskers: &[Value], model: &mut LanguageModel<B>) -> Result<()> {
    let configs = maskers.iter().map(|masker| with_hash_weights(case, masker)).collect::<Result<Vec<_>>>()?;
    let named = configs.iter().map(|(masker, _)| NamedConfig::deserialize(masker));
    let maskers = named.collect::<std::result::Result<Vec<_>, _>>()?;
    // The files of the weights must exist until here.
    Ok(model.set_method(&MaskerChainConfig { maskers: maskers.into(), directory: case.directory.to_owned() })?)
}

/// The model of a case, without a method.
pub fn model<B: Backend>(case: &Case) -> Result<LanguageModel<B>> {
    let folder = case.directory.join(case.entry.text("model_dir")?);
    Ok(LanguageModel::from_directory(folder, &MaskerChainConfig::default(), DType::F32, &B::Device::default())?)
}

/// The tokens that a case gives.
fn tokens(case: &Case, name: &str) -> Result<Vec<u32>> {
    Ok(case.tensor(name)?.integers().map(u32::try_from).collect::<std::result::Result<_, _>>()?)
}

/// A model with its cache.
struct Sequence<B: Backend> {
    model: LanguageModel<B>,
    cache: LanguageModelCache<B>,
}

impl<B: Backend> Sequence<B> {
    fn new(model: LanguageModel<B>) -> Self {
        let cache = model.cache(0);
        Self { model, cache }
    }

    /// The logits after each of the given tokens.
    fn logits(&mut self, tokens: &[u32], hook: &mut dyn AttentionHook<B>) -> Result<Vec<f64>> {
        let hidden = self.model.forward(tokens, &mut self.cache, hook)?;
        Ok(host(self.model.logits(hidden)))
    }
}

fn host<B: Backend>(logits: Tensor<B, 3>) -> Vec<f64> {
    logits.into_data().convert::<f64>().iter::<f64>().collect()
}

/// The token with the largest logit. Among equal logits it is the first one.
fn best(logits: &[f64]) -> u32 {
    let mut best = 0;
    for (at, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = at;
        }
    }
    best as u32
}

/// The addition to the tolerance of logits for rounded operands. Logits are sums over vectors of up to 128 numbers,
/// after two layers.
fn rounding<B: Backend>() -> f64 {
    16.0 * product_rounding::<B>()
}

/// Kind `hf_model`.
pub fn dense<B: Backend>(case: &Case) -> Result<Outcome> {
    let mut sequence = Sequence::new(model::<B>(case)?);
    let prompt = tokens(case, "input_ids")?;
    let logits = sequence.logits(&prompt, &mut AttentionMode::Dense)?;
    let vocabulary = logits.len() / prompt.len();
    let wanted = tokens(case, "generated_ids")?;
    let mut found = vec![best(&logits[logits.len() - vocabulary..])];
    while found.len() < wanted.len() {
        let last = found[found.len() - 1];
        found.push(best(&sequence.logits(&[last], &mut AttentionMode::Dense)?));
    }
    all([case.expect_product("logits", &logits, rounding::<B>()), equal("generated_ids", found, wanted)])?;
    in_chunks::<B>(case, &prompt, &logits)?;
    Ok(Outcome::Passed)
}

/// The same prompt in chunks gives the same logits.
fn in_chunks<B: Backend>(case: &Case, prompt: &[u32], wanted: &[f64]) -> Check {
    let mut sequence = Sequence::new(model::<B>(case)?);
    let mut found = Vec::new();
    for chunk in prompt.chunks(7) {
        found.extend(sequence.logits(chunk, &mut AttentionMode::Dense)?);
    }
    super::vectors::close("logits in chunks", &found, wanted, case.entry.tolerance().widened(rounding::<B>()))
}

/// Kind `hf_sparse_decode`.
pub fn sparse<B: Backend>(case: &Case) -> Result<Outcome> {
    let maskers = case.entry.maskers()?;
    let mut model = model::<B>(case)?;
    set_method(case, &maskers, &mut model)?;
    let mut sequence = Sequence::new(model);
    let mut documented = Documented::<B>::of(case, &maskers);
    sequence.logits(&tokens(case, "context_ids")?, &mut AttentionMode::Dense)?;
    let mut as_expected = Vec::new();
    if case.find("question_ids").is_some() {
        let logits = sequence.logits(&tokens(case, "question_ids")?, &mut documented)?;
        as_expected.push(case.expect_product("question_logits", &logits, rounding::<B>()));
    }
    let mut steps = Vec::new();
    for token in tokens(case, "step_ids")? {
        steps.extend(sequence.logits(&[token], &mut documented)?);
    }
    as_expected.push(case.expect_product("step_logits", &steps, rounding::<B>()));
    judge(all(as_expected), || {
        documented.check()?;
        Ok(concerning(case.entry, &maskers))
    })
}
