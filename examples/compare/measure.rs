use std::{error::Error, time::Instant};

use burn::tensor::{ElementConversion, Tensor, backend::Backend};
use serde::Serialize;
use sparse_attention_hub::{attention::AttentionError, eval::Recording, prelude::*};

use crate::Method;

/// The results of one method on one layer.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub method: String,
    pub layer: usize,
    /// The share of the visible query-key pairs that are kept.
    pub density: f64,
    pub output_error_median: f64,
    pub output_error_worst: f64,
    pub mass_kept: f64,
    pub milliseconds: f64,
    pub dense_milliseconds: f64,
}

/// Each time is the median of this number of runs, which alternate with dense runs.
const REPEATS: usize = 5;

/// The largest accepted difference between our dense attention and the recorded output, which another program computed
/// from half-precision tensors.
const RECORDED: f32 = 2e-3;

/// Runs a method and dense attention, and logs the call that is compared.
pub fn measure<B: Backend>(
    method: &Method<B>,
    recording: &Recording<B>,
    seed: u64,
) -> Result<(Row, AttentionReport), Box<dyn Error>> {
    let inputs = &recording.inputs;
    let dense = dense_attention(inputs, Requested::default()).output;
    if let Some(recorded) = &recording.output {
        let difference = (dense - recorded.clone()).abs().max().into_scalar().elem::<f32>();
        if difference.is_nan() || difference > RECORDED {
            let layer = inputs.layer();
            return Err(format!("layer {layer}: dense attention is {difference} from the recorded output").into());
        }
    }
    let report = method.logged.report(inputs, &mut LayerState::new(seed))?;
    let (mut dense, mut sparse) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        dense.push(milliseconds(|| Ok(dense_attention(inputs, Requested::default()).output))?);
        sparse.push(milliseconds(|| {
            let output = method.attention.forward(inputs, &mut LayerState::new(seed), Requested::default())?;
            Ok(output.attention.output)
        })?);
    }
    let row = Row {
        method: method.name.clone(),
        layer: inputs.layer(),
        density: report.density(),
        output_error_median: report.output_error_median(),
        output_error_worst: report.output_error_worst(),
        mass_kept: report.mass_kept(),
        milliseconds: median(sparse),
        dense_milliseconds: median(dense),
    };
    Ok((row, report))
}

/// The time until the result can be read, which is when the device has finished.
fn milliseconds<B: Backend>(
    work: impl FnOnce() -> Result<Tensor<B, 4>, AttentionError>,
) -> Result<f64, AttentionError> {
    let start = Instant::now();
    let _ = work()?.into_data();
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
