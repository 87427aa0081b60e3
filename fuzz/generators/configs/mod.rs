//! Method files. Valid ones are accepted and written back. Wrong ones are refused with an error that names the fault.
//! Any other text is accepted or refused without a panic.

mod layers;
mod phases;
mod rotary;
mod wrong;

use burn::tensor::DType;
use serde_json::Value;
use sparse_attention_hub::{
    attention::Phase,
    masker::LayerState,
    method::{MaskerChain, MaskerChainConfig, MaskerRegistry},
};

use super::{
    B, Checked, Fault, Source, about, device,
    fault::hold,
    methods::{Wanted, method},
    mutations,
    problem::{Problem, Sizes, VisibilityCase},
};

/// The sizes for which the methods of this kind are valid.
const SIZES: Sizes = Sizes { batch: 1, heads: 2, kv_heads: 1, queries: 3, keys: 5, head_dim: 4, value_dim: 2 };

/// One case.
///
/// # Errors
/// If a property does not hold.
pub fn check(source: &mut Source) -> Checked {
    match source.below(16) {
        0..3 => valid(source),
        3 => phases::check(source),
        4..9 => wrong::check(source),
        9..13 => {
            let text = method(source, &SIZES, Wanted::Any).text();
            let text = mutations::of_text(source, &text);
            check_text(&text, source).map(|_| ())
        }
        13 => extreme(source),
        14 => layers::check(source),
        _ => rotary::check(source),
    }
}

fn valid(source: &mut Source) -> Checked {
    let method = method(source, &SIZES, Wanted::Any);
    let text = method.text();
    let accepted = check_both(&text)?;
    hold!(accepted, "a valid method is accepted", "{text}: {}", refusal(&text));
    check_written(&text)
}

/// A text is accepted as a method or refused, with the same result in both ways of reading it, and without a panic.
/// Returns whether it is accepted.
///
/// # Errors
/// If the two ways differ, or an accepted method is written as a different one.
pub fn check_text(text: &str, source: &mut Source) -> Result<bool, Fault> {
    let accepted = check_both(text)?;
    if accepted {
        check_written(text)?;
        check_call(text, source)?;
    }
    Ok(accepted)
}

/// Whether a text is a method, according to the registry and to the chain module.
fn check_both(text: &str) -> Result<bool, Fault> {
    let registry = MaskerRegistry::<B>::new().research_attention(text, &device()).map(|_| ());
    let chain = chain(text).map(|_| ());
    let short = text.chars().take(400).collect::<String>();
    let alike = registry.is_ok() == chain.is_ok();
    hold!(alike, "registry and chain agree", "{short}: {registry:?} and {chain:?}");
    if let Err(error) = &registry {
        let message = error.to_string();
        hold!(!message.is_empty(), "an error says something", "{short}");
        hold!(message.len() <= text.len() + 2_000, "an error is short", "{short}: {} characters", message.len());
    }
    Ok(registry.is_ok())
}

fn chain(text: &str) -> Result<MaskerChain<B>, String> {
    let config = MaskerChainConfig::from_json(text).map_err(|error| error.to_string())?;
    config.init(&device()).map_err(|error| error.to_string())
}

/// The error for a text.
fn refusal(text: &str) -> String {
    chain(text).err().unwrap_or_default()
}

/// Writing a method and reading it again must give the same method.
fn check_written(text: &str) -> Checked {
    let lost = |error: String| Fault::new("a method is written as it was read", format!("{text}: {error}"));
    let config = MaskerChainConfig::from_json(text).map_err(|error| lost(error.to_string()))?;
    let written = serde_json::to_string(&config).map_err(|error| lost(error.to_string()))?;
    let again = MaskerChainConfig::from_json(&written).map_err(|error| lost(format!("{written}: {error}")))?;
    hold!(config == again, "a method is written as it was read", "{text} as {written}");
    Ok(())
}

/// An accepted method can be called, or returns an error.
fn check_call(text: &str, source: &mut Source) -> Checked {
    let Ok(chain) = chain(text) else { return Ok(()) };
    about(text.to_owned());
    let problem = Problem::of(source, SIZES, DType::F32, VisibilityCase::Causal(2));
    let inputs = problem.inputs().map_err(|error| Fault::new("valid inputs are accepted", error.to_string()))?;
    let inputs = inputs.with_phase(*source.pick(&Phase::ALL));
    let mask = sparse_attention_hub::masker::Masker::mask(&chain, &inputs, &mut LayerState::new(1));
    if let Ok(mask) = mask {
        let weights = super::numbers::numbers(&mask.to_dense());
        let probabilities = weights.iter().all(|weight| (0.0..=1.0).contains(weight));
        hold!(probabilities, "a weight is a probability", "{text}: {weights:?}");
    }
    Ok(())
}

/// Replaces a number of a valid method by a very small one, or by one that no memory can hold.
fn extreme(source: &mut Source) -> Checked {
    let method = method(source, &SIZES, Wanted::Any);
    let mut json = method.json;
    let Some(Value::Object(fields)) = json.as_array_mut().and_then(|list| list.last_mut()) else { return Ok(()) };
    let numbers = fields.iter().filter(|(_, value)| value.is_number()).map(|(name, _)| name.clone());
    let numbers = numbers.collect::<Vec<_>>();
    if numbers.is_empty() {
        return Ok(());
    }
    let field = source.pick(&numbers).clone();
    let whole = [u64::MAX, i64::MAX as u64, 1 << 62, 1_000_000_000_000];
    let shares = [5e-324, 1e-300, 1.0 - f64::EPSILON, 1.0];
    fields[&field] = match source.once_in(3) {
        true => (*source.pick(&shares)).into(),
        false => (*source.pick(&whole)).into(),
    };
    check_text(&json.to_string(), source).map(|_| ())
}
