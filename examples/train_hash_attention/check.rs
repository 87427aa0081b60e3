//! Compares the written weights with random ones in attention.

use std::{error::Error, path::Path};

use burn::tensor::{Tensor, TensorData, backend::Backend};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::json;
use sparse_attention_hub::{
    eval::Recording,
    masker::TopK,
    prelude::*,
    scorer::{Activation, Hash, HashWeights, HeadPerceptrons, LayerPerceptrons},
};

use crate::{
    common::{find, say},
    data::Layer,
    shape,
};

const SINK_AND_WINDOW: usize = 128;
const HEAVY: Size = Size::Fraction(1.0 / 16.0);

/// Good untrained signatures: the same random hyperplanes for queries and keys. The smaller the angle between two
/// vectors, the more likely they agree in a bit.
pub fn hyperplanes<B: Backend>(layer: &Layer<B>, seed: u64) -> LayerPerceptrons<B> {
    let [_, heads, _, head_dim] = layer.held_out.queries().dims();
    let bits = shape().hat_bits;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let numbers = (0..heads * head_dim * bits).map(|_| StandardNormal.sample(&mut rng)).collect::<Vec<f32>>();
    let device = layer.held_out.queries().device();
    let matrix = Tensor::from_data(TensorData::new(numbers, [heads, head_dim, bits]), &device);
    let part = || HeadPerceptrons::new([(matrix.clone(), Tensor::zeros([heads, bits], &device))]);
    LayerPerceptrons { query: part(), key: part() }
}

/// Loads the weights through a method configuration, as a user does, and compares them with random weights on a
/// recording that has values: a prompt of 4,096 tokens, twice the length of the training pieces.
pub fn report<B: Backend>(file: &Path, random: HashWeights<B>, device: &B::Device) -> Result<(), Box<dyn Error>> {
    let file = std::path::absolute(file)?;
    let method = json!([
        {"type": "sink", "sink_size": SINK_AND_WINDOW},
        {"type": "local", "window_size": SINK_AND_WINDOW},
        {"type": "hash_attention_top_k", "heavy_size": HEAVY, "hat_bits": shape().hat_bits,
         "hat_mlp_layers": shape().hat_mlp_layers, "hat_mlp_hidden_size": shape().hat_mlp_hidden_size,
         "hat_mlp_activation": shape().hat_mlp_activation, "hat_weights": file},
    ]);
    let registry = MaskerRegistry::new();
    let trained = registry.research_attention(&method.to_string(), device)?;
    let context = registry.context(device);
    let heavy: Box<dyn Masker<B>> = Box::new(TopK::new(HEAVY, Hash::new(random.clone(), Activation::Silu))?);
    let mut maskers = Vec::new();
    for fixed in &method.as_array().map_or(Vec::new(), Vec::clone)[..2] {
        maskers.push(registry.masker(fixed, &context)?);
    }
    maskers.push(heavy);
    let random_attention = ResearchAttention::new(maskers)?;
    say!("\nhash_attention_top_k on a recorded prompt of 4,096 tokens, twice as long as the text trained on:")?;
    say!("| layer | density | median output error, random | trained | mass kept, random | trained |")?;
    say!("|---|---|---|---|---|---|")?;
    for (layer, _) in random.layers() {
        let Ok(recording) = find(&format!("examples/data/layer{layer}.safetensors")) else {
            say!("| {layer} | no values are recorded for this layer, so there is no output to compare | | | | |")?;
            continue;
        };
        let inputs = Recording::<B>::open(&recording, device)?.inputs;
        let random = random_attention.report(&inputs, &mut LayerState::new(0))?;
        let trained = trained.report(&inputs, &mut LayerState::new(0))?;
        say!(
            "| {layer} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} |",
            trained.density(),
            random.output_error_median(),
            trained.output_error_median(),
            random.mass_kept(),
            trained.mass_kept()
        )?;
    }
    Ok(())
}
