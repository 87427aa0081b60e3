//! A custom scorer and a custom masker. They are registered by name and used from a configuration text like the
//! built-in ones.
//!
//! `cargo run --release --example custom_masker`

#[path = "common/mod.rs"]
mod common;

use std::process::ExitCode;

use burn::tensor::{Tensor, backend::Backend};
use common::{end, find, say};
use serde::Deserialize;
use sparse_attention_hub::{
    attention::AttentionError,
    backend::Selected,
    eval::Recording,
    masker::ConfigError,
    prelude::*,
    scorer::{Scorer, ScorerConfig},
};

/// `{"type": "key_norm", "power": 2.0}`: keys with a large norm are important for every query.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyNorm {
    power: f64,
}

impl<B: Backend> ScorerConfig<B> for KeyNorm {
    type Scorer = Self;

    fn init(&self, _context: &Context<B>) -> Result<Self, ConfigError> {
        match self.power > 0.0 {
            true => Ok(*self),
            false => Err(ConfigError::value("power", self.power, "above 0")),
        }
    }
}

impl<B: Backend> Scorer<B> for KeyNorm {
    fn score(&self, inputs: &AttentionInputs<B>, _state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        let MaskShape { batch, heads, queries, keys } = inputs.mask_shape();
        let norms = inputs.keys().clone().powi_scalar(2).sum_dim(3).powf_scalar(self.power / 2.0);
        // `[batch, kv_heads, keys, 1]`, repeated for each query of each head of the GQA group.
        let by_group = norms.swap_dims(2, 3).unsqueeze_dim::<5>(2);
        let group = heads / inputs.kv_heads();
        Ok(by_group.expand([batch, inputs.kv_heads(), group, queries, keys]).reshape([batch, heads, queries, keys]))
    }
}

/// `{"type": "strided", "stride": 32}`: keeps one key in every `stride`, as in the Sparse Transformer.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strided {
    stride: usize,
}

impl<B: Backend> MaskerConfig<B> for Strided {
    type Masker = Self;

    fn init(&self, _context: &Context<B>) -> Result<Self, ConfigError> {
        match self.stride {
            0 => Err(ConfigError::value("stride", 0, "at least 1")),
            _ => Ok(*self),
        }
    }
}

impl<B: Backend> Masker<B> for Strided {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        _state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        let MaskShape { batch, heads, queries, keys } = inputs.mask_shape();
        let kept = (0..keys).map(|key| if key % self.stride == 0 { 1.0f32 } else { 0.0 }).collect::<Vec<_>>();
        let row = Tensor::<B, 1>::from_floats(kept.as_slice(), &inputs.device());
        let strided = Mask::from_dense(row.reshape([1, 1, 1, keys]).expand([batch, heads, queries, keys]))?;
        Ok(mask.merge(&strided)?)
    }
}

fn main() -> ExitCode {
    end(run())
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let device = Default::default();
    let mut registry = MaskerRegistry::<Selected>::new();
    registry.register::<Strided>("strided");
    registry.register_scorer::<KeyNorm>("key_norm");
    let attention = registry.research_attention(
        r#"[
            {"type": "local", "window_size": 64},
            {"type": "strided", "stride": 32},
            {"type": "top_k", "heavy_size": 0.05, "scorer": {"type": "key_norm", "power": 2.0}}
        ]"#,
        &device,
    )?;

    let data = find("examples/data/layer3.safetensors")?;
    let inputs = Recording::open(data, &device)?.inputs;
    let mut state = LayerState::new(42);
    let output = attention.forward(&inputs, &mut state, Requested::default())?;
    say!("{}", output.mask.picture(0, 0, 64).unwrap_or_default())?;
    let report = AttentionReport::of(&inputs, &output.mask)?;
    say!(
        "density {:.1} %, output error {:.3} (median head), mass kept {:.1} %",
        100.0 * report.density(),
        report.output_error_median(),
        100.0 * report.mass_kept()
    )?;
    Ok(())
}
