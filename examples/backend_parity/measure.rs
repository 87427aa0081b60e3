use std::{collections::BTreeSet, error::Error, path::Path, time::Instant};

use burn::tensor::{
    Tensor,
    backend::{Backend, ops::AttentionModuleOptions},
    module::attention,
};
use serde::Serialize;
use serde_json::Value;
use sparse_attention_hub::{attention::AttentionError, io::from_json, kernels::native_path, mask::Csr, prelude::*};

use crate::{
    Arguments,
    problem::Problem,
    reference::{largest_error, rows_that_differ},
};

/// The results of one method on one backend.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub backend: String,
    pub method: String,
    /// Why the method does not work, if it does not.
    pub failure: Option<String>,
    /// The largest relative error of an output row, against f64 over the same keys.
    pub error: f64,
    /// The share of rows whose kept keys differ from those on the first backend.
    pub rows_that_differ: f64,
    /// The time of a decode step.
    pub milliseconds: Option<f64>,
    /// The parts that run on the host although the tensors are on a device.
    pub on_host: String,
}

impl Row {
    pub fn failed(backend: &str, method: &str, why: String) -> Self {
        Self {
            backend: backend.to_owned(),
            method: method.to_owned(),
            failure: Some(why),
            error: f64::NAN,
            rows_that_differ: f64::NAN,
            milliseconds: None,
            on_host: String::new(),
        }
    }
}

/// The name of the row for burn's own attention.
pub const OF_BURN: &str = "dense, of burn";

/// Dense attention.
pub fn dense<B: Backend>(backend: &str, problem: &Problem<B>, arguments: &Arguments) -> Row {
    let inputs = &problem.recorded;
    let everything = Mask::<B>::full(inputs.mask_shape(), &problem.device).to_csr();
    let output = dense_attention(inputs, Requested::default()).output;
    let step = |inputs: &AttentionInputs<B>| Ok(dense_attention(inputs, Requested::default()).output);
    Row {
        backend: backend.to_owned(),
        method: "dense".to_owned(),
        failure: None,
        error: largest_error(inputs, &everything, &output),
        rows_that_differ: 0.0,
        milliseconds: problem.step.as_ref().and_then(|inputs| milliseconds(arguments.steps, || step(inputs)).ok()),
        on_host: "nothing".to_owned(),
    }
}

/// Burn's dense attention for the last query, which sees every key. On libtorch this is torch's
/// `scaled_dot_product_attention`. Keys and values are repeated for the heads of a GQA group before the timing, because
/// not every backend supports fewer key-value heads.
pub fn of_burn<B: Backend>(backend: &str, problem: &Problem<B>, arguments: &Arguments) -> Result<Row, Box<dyn Error>> {
    let attend = |inputs: &AttentionInputs<B>| {
        let MaskShape { batch, heads, keys, .. } = inputs.mask_shape();
        let repeated = |tensor: &Tensor<B, 4>| {
            let [_, kv_heads, _, width] = tensor.dims();
            let groups = [batch, kv_heads, heads / kv_heads, keys, width];
            tensor.clone().unsqueeze_dim::<5>(2).expand(groups).reshape([batch, heads, keys, width])
        };
        let (queries, keys, values) = (inputs.queries().clone(), repeated(inputs.keys()), repeated(inputs.values()));
        let scale = Some(inputs.scale());
        move || {
            let options = AttentionModuleOptions { scale, ..Default::default() };
            attention(queries.clone(), keys.clone(), values.clone(), None, None, options)
        }
    };
    let queries = problem.recorded.mask_shape().queries;
    let last = problem.recorded.narrow_queries(queries - 1..queries)?;
    let everything = Mask::<B>::full(last.mask_shape(), &problem.device).to_csr();
    let step = problem.step.as_ref().map(|inputs| {
        let step = attend(inputs);
        milliseconds(arguments.steps, || Ok(step()))
    });
    Ok(Row {
        backend: backend.to_owned(),
        method: OF_BURN.to_owned(),
        failure: None,
        error: largest_error(&last, &everything, &attend(&last)()),
        rows_that_differ: 0.0,
        milliseconds: step.transpose()?,
        on_host: "nothing".to_owned(),
    })
}

/// The results of a method, and the keys that it kept.
pub fn method<B: Backend>(
    backend: &str,
    name: &str,
    file: &Path,
    problem: &Problem<B>,
    arguments: &Arguments,
    kept: Option<&Csr>,
) -> Result<(Row, Csr), Box<dyn Error>> {
    let attention = MaskerRegistry::new().research_attention_from_file(file, &problem.device)?;
    let inputs = &problem.recorded;
    let found = attention.forward(inputs, &mut LayerState::new(arguments.seed), Requested::default())?;
    let csr = found.mask.to_csr();
    let differ = kept.map_or(0, |kept| rows_that_differ(kept, &csr));
    let milliseconds = match &problem.step {
        // The first step reads all keys. The other steps find them in the state.
        Some(inputs) => {
            let mut state = LayerState::new(arguments.seed);
            let step = || Ok(attention.forward(inputs, &mut state, Requested::default())?.attention.output);
            Some(milliseconds(arguments.steps, step)?)
        }
        None => None,
    };
    let row = Row {
        backend: backend.to_owned(),
        method: name.to_owned(),
        failure: None,
        error: largest_error(inputs, &csr, &found.attention.output),
        rows_that_differ: differ as f64 / inputs.mask_shape().rows() as f64,
        milliseconds,
        on_host: if native_path::<B>() {
            "-".to_owned()
        } else {
            on_host(&from_json(&std::fs::read_to_string(file)?)?)
        },
    };
    Ok((row, csr))
}

/// The median time until the output of a step can be read, which is when the device has finished.
fn milliseconds<B: Backend>(
    steps: usize,
    mut step: impl FnMut() -> Result<Tensor<B, 4>, AttentionError>,
) -> Result<f64, AttentionError> {
    // The first runs compile and tune kernels.
    for _ in 0..3 {
        let _ = step()?.into_data();
    }
    let mut times = Vec::new();
    for _ in 0..steps {
        let start = Instant::now();
        let _ = step()?.into_data();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// The parts of a method that run on the host when the tensors are on a device. Maskers by position have none. Scorers
/// with a memory read the new keys. Exact scores are read. Sampling and selection always run on the host.
fn on_host(config: &Value) -> String {
    let mut parts = BTreeSet::new();
    collect(config, &mut parts);
    match parts.is_empty() {
        true => "nothing".to_owned(),
        false => parts.into_iter().collect::<Vec<_>>().join(", "),
    }
}

fn collect(config: &Value, parts: &mut BTreeSet<&'static str>) {
    const KEYS: &str = "new keys read, scores";
    const SCORES: &str = "scores read";
    const CHOICE: &str = "selection";
    match config {
        Value::Array(maskers) => maskers.iter().for_each(|masker| collect(masker, parts)),
        Value::Object(fields) => {
            match fields.get("type").and_then(Value::as_str) {
                None | Some("sink" | "local" | "causal") => {}
                Some("random_sampling") => parts.extend([CHOICE]),
                Some("oracle") if fields.contains_key("label_bits") => parts.extend([KEYS]),
                Some("oracle") => parts.extend([SCORES]),
                Some("oracle_top_k" | "oracle_top_p" | "adaptive_sampling" | "verified_sampling") => {
                    parts.extend([CHOICE, SCORES]);
                }
                Some("priority_sampling" | "pps_sampling") if !fields.contains_key("scorer") => {
                    parts.extend([CHOICE, SCORES]);
                }
                Some("top_k" | "top_p" | "threshold" | "priority_sampling" | "pps_sampling") => parts.extend([CHOICE]),
                Some("hash" | "channels" | "pages" | "pq" | "socket") => parts.extend([KEYS]),
                // All other types are presets of scorers with a memory.
                Some(_) => parts.extend([CHOICE, KEYS]),
            }
            fields.values().for_each(|field| collect(field, parts));
        }
        _ => {}
    }
}
