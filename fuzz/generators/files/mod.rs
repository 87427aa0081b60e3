//! Files of weights and channels. Changed files are refused, or read as complete weights. Cut files are refused.

mod archive;
mod channel_file;
mod checkpoint;
mod pickle;
mod tensors;

use burn::tensor::DType;
use serde_json::json;
use sparse_attention_hub::{
    FileError,
    masker::LayerState,
    method::{MaskerChain, MaskerChainConfig},
    scorer::{Activation, HashConfig, HashWeights},
};

use super::{
    B, Checked, Fault, Source, about, device,
    fault::hold,
    numbers::numbers,
    problem::{Problem, Sizes, VisibilityCase},
    weights::Scratch,
};

/// The expected result for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// The file is read.
    Read,
    /// The file is refused. The text is the name of this property.
    Refused(&'static str),
    /// Either result is right.
    Either,
}

/// A file, with a description of how it was made.
struct Made {
    content: Vec<u8>,
    extension: &'static str,
    expected: Expected,
    how: String,
}

/// One case.
///
/// # Errors
/// If a property does not hold.
pub fn check(source: &mut Source) -> Checked {
    let made = match source.below(8) {
        0..3 => tensors::make(source),
        3..5 => checkpoint::make(source),
        5 => pickle::make(source),
        _ => channel_file::make(source),
    };
    about(format!("{}, {}", made.extension, made.how));
    let read = read(&made.content, made.extension).map_err(|fault| fault.of(&made.how))?;
    let Made { extension, how, .. } = &made;
    match made.expected {
        Expected::Read => hold!(read.is_ok(), "a good file is read", "{extension}, {how}: {read:?}"),
        Expected::Refused(property) => hold!(read.is_err(), property, "{extension}, {how}"),
        Expected::Either => {}
    }
    Ok(())
}

/// Reads a file with any content, in one format or in all formats. Returns whether it is accepted.
///
/// # Errors
/// If it is read as weights that are not complete.
pub fn check_content(content: &[u8], extension: Option<&str>) -> Result<bool, Fault> {
    let formats = match extension {
        Some(extension) => vec![extension],
        None => vec!["safetensors", "pt", "json"],
    };
    formats.into_iter().try_fold(false, |accepted, format| Ok(accepted | read(content, format)?.is_ok()))
}

/// Reads a file with any content.
///
/// # Errors
/// If it is read as weights that are not complete.
pub fn read(content: &[u8], extension: &str) -> Result<Result<(), String>, Fault> {
    let file = Scratch::new(content, extension);
    match extension {
        "json" => read_channels(&file),
        _ => read_weights(&file),
    }
}

/// The configuration with which weights are read. It fits `tests/data/hash_attention.pt`.
fn config() -> HashConfig {
    HashConfig {
        hat_bits: 5,
        hat_mlp_layers: 2,
        hat_mlp_hidden_size: 3,
        hat_mlp_activation: Activation::Silu,
        hat_weights: None,
    }
}

fn read_weights(file: &Scratch) -> Result<Result<(), String>, Fault> {
    let read = |path: std::path::PathBuf| HashWeights::<B>::from_file(path, &config(), &device());
    let weights = match read(file.path().to_owned()) {
        Ok(weights) => weights,
        Err(error) => return Ok(Err(said(&error)?)),
    };
    let numbers = whole(&weights)?;
    let copy = Scratch::new(&[], "copy.safetensors");
    let lost = |error: FileError| Fault::new("weights are written as they were read", error.to_string());
    weights.save(copy.path().to_owned()).map_err(lost)?;
    let again = whole(&read(copy.path().to_owned()).map_err(lost)?)?;
    hold!(
        numbers.len() == again.len() && numbers.iter().zip(&again).all(|(a, b)| super::numbers::same(a, b)),
        "weights are written as they were read",
        "{} and {} tensors",
        numbers.len(),
        again.len()
    );
    Ok(Ok(()))
}

/// The numbers of the weights, whose shapes must be those of the configuration.
fn whole(weights: &HashWeights<B>) -> Result<Vec<Vec<f64>>, Fault> {
    let config = config();
    let mut all = Vec::new();
    hold!(weights.layers().next().is_some(), "weights that are read are whole", "no layer");
    for (number, layer) in weights.layers() {
        for perceptrons in [&layer.query, &layer.key] {
            let layers = perceptrons.layers.len();
            hold!(layers == config.hat_mlp_layers, "weights that are read are whole", "{layers} matrices");
            for (index, linear) in perceptrons.layers.iter().enumerate() {
                let ([heads, _, out], bias) = (linear.matrix.val().dims(), linear.bias.val().dims());
                let width = if index == 0 { config.hat_mlp_hidden_size } else { config.hat_bits };
                let fits = out == width && bias == [heads, width] && heads > 0;
                hold!(fits, "weights that are read are whole", "layer {number}: {heads} heads, {out} wide, {bias:?}");
                all.push(numbers(&linear.matrix.val()));
                all.push(numbers(&linear.bias.val()));
            }
        }
    }
    Ok(all)
}

fn read_channels(file: &Scratch) -> Result<Result<(), String>, Fault> {
    let config = json!([{"type": "double_sparsity_top_k", "heavy_size": 2, "sorted_channel_file": file.path(),
                         "group_factor": 2, "label_bits": 4, "channel_selection": "qk_proj"}]);
    let chain = MaskerChainConfig::from_json(&config.to_string()).and_then(|config| config.init::<B>(&device()));
    let chain: MaskerChain<B> = match chain {
        Ok(chain) => chain,
        Err(error) => return Ok(Err(said(&error)?)),
    };
    let sizes = Sizes { batch: 1, heads: 2, kv_heads: 1, queries: 2, keys: 5, head_dim: 4, value_dim: 1 };
    let problem = Problem::of(&mut Source::seeded(1, 1), sizes, DType::F32, VisibilityCase::Causal(3));
    let inputs = problem.inputs().map_err(|error| Fault::new("valid inputs are accepted", error.to_string()))?;
    // The call finds channels of other layers, heads or sizes.
    let called = sparse_attention_hub::masker::Masker::mask(&chain, &inputs, &mut LayerState::new(1));
    Ok(called.map(|_| ()).map_err(|error| error.to_string()))
}

/// The message of an error. It must not be empty, and must not contain the whole file.
fn said(error: &impl ToString) -> Result<String, Fault> {
    let message = error.to_string();
    let fits = !message.is_empty() && message.len() < 4_000;
    hold!(fits, "an error is short and says something", "{} characters", message.len());
    Ok(message)
}
