use std::path::Path;

use burn::tensor::{Tensor, backend::Backend};

use crate::{
    io::{FileError, TensorFile},
    problem::{AttentionInputs, Visibility},
};

/// Queries, keys and values of one layer, recorded from a model.
///
/// The file is in safetensors format. It holds `q` `[batch, heads, queries, head_dim]`, and `k` and `v` `[batch,
/// kv_heads, keys, head_dim]`, all of floating-point numbers. It may hold `out`, the output of dense attention in the
/// shape of `q`. Its metadata may give `scaling` (default `1 / sqrt(head_dim)`), `layer` (default 0), and `visibility`
/// (default `causal`). `causal` means that the queries are at the last positions of the keys; `full` means that every
/// query sees every key.
#[derive(Debug, Clone)]
pub struct Recording<B: Backend> {
    /// The inputs of attention, in f32.
    pub inputs: AttentionInputs<B>,
    /// The output of dense attention at the time of recording, if the file holds it.
    pub output: Option<Tensor<B, 4>>,
}

const FORMAT: &str = "a recording of attention";

impl<B: Backend> Recording<B> {
    /// Reads a recording from a file.
    ///
    /// # Errors
    /// If the file cannot be read, lacks a tensor, or holds shapes or metadata that do not fit each other.
    pub fn open(path: impl AsRef<Path>, device: &B::Device) -> Result<Self, FileError> {
        let file = TensorFile::open(path.as_ref().to_owned())?;
        let [queries, keys, values] = ["q", "k", "v"].map(|name| file.tensor::<B, 4>(name, device));
        let inputs = AttentionInputs::new(queries?, keys?, values?).map_err(|error| file.unusable(FORMAT, error))?;
        let inputs = match file.metadata("visibility") {
            None | Some("causal") => inputs.causal(),
            Some("full") => inputs.with_visibility(Visibility::Full),
            Some(other) => {
                let reason = format!("its visibility is `{other}`, but must be `causal` or `full`");
                return Err(file.unusable(FORMAT, reason));
            }
        };
        let inputs = inputs.map_err(|error| file.unusable(FORMAT, error))?;
        let inputs = match number::<f64>(&file, "scaling")? {
            Some(scaling) => inputs.with_scale(scaling).map_err(|error| file.unusable(FORMAT, error))?,
            None => inputs,
        };
        let inputs = inputs.with_layer(number(&file, "layer")?.unwrap_or(0));
        let output = match file.names().any(|name| name == "out") {
            true => Some(file.tensor::<B, 4>("out", device)?),
            false => None,
        };
        match &output {
            Some(output) if output.dims() != inputs.queries().dims() => {
                Err(file.shape("out", &output.dims(), format!("{:?}, as `q` is", inputs.queries().dims())))
            }
            _ => Ok(Self { inputs, output }),
        }
    }
}

fn number<T: std::str::FromStr>(file: &TensorFile, name: &str) -> Result<Option<T>, FileError> {
    let Some(text) = file.metadata(name) else { return Ok(None) };
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(file.unusable(FORMAT, format!("its {name} is `{text}`, which is no number"))),
    }
}
