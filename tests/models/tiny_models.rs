//! Tiny models of every architecture against the results of transformers. `tests/models/tiny/make.py` makes both.

use std::{fs, ops::ControlFlow, path::Path};

use burn::tensor::{DType, backend::Backend};
use safetensors::SafeTensors;
use sparse_attention_hub::{
    method::MaskerChainConfig,
    models::{GenerationConfig, LanguageModel},
    nn::{AttentionHook, AttentionMode},
};

use super::common::{assert_close, product_rounding};

const MODELS: [&str; 6] = ["llama_biases", "llama_yarn", "mistral_window", "qwen2_windows", "qwen3", "gemma2"];

pub fn tiny_models_are_as_in_transformers<B: Backend>() {
    for name in MODELS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny").join(name);
        let bytes = fs::read(folder.join("vectors.safetensors")).expect("the vectors are there");
        let vectors = SafeTensors::deserialize(&bytes).expect("they are safetensors");
        let numbers = |name: &str| {
            let (words, _) = vectors.tensor(name).expect("it is there").data().as_chunks::<4>();
            words.to_vec()
        };
        let tokens = |name: &str| numbers(name).into_iter().map(u32::from_le_bytes).collect::<Vec<_>>();
        let wanted = numbers("logits").into_iter().map(|bytes| f64::from(f32::from_le_bytes(bytes)));
        let wanted = wanted.collect::<Vec<_>>();
        let device = B::Device::default();
        let model = LanguageModel::<B>::from_directory(&folder, &MaskerChainConfig::default(), DType::F32, &device);
        let model = model.unwrap_or_else(|error| panic!("{name}: {error}"));
        let prompt = tokens("input_ids");
        for chunk in [prompt.len(), 6] {
            let mut cache = model.cache(0);
            let mut found = Vec::new();
            for chunk in prompt.chunks(chunk) {
                let hidden = model.forward(chunk, &mut cache, &mut AttentionMode::Sparse).expect("the prompt is short");
                found.extend(model.logits(hidden).into_data().convert::<f32>().iter::<f32>());
            }
            // Logits are sums over vectors of 48 numbers, after three layers.
            let tolerance = 1e-4 + 16.0 * product_rounding::<B>();
            assert_close(&found, &wanted, tolerance, &format!("{name}, chunks of {chunk}"));
        }
        let generated = tokens("generated_ids");
        let mut config = GenerationConfig::default().with_max_new_tokens(generated.len());
        config.end_tokens = Vec::new();
        let (mut first, mut then) = (AttentionMode::Dense, AttentionMode::Sparse);
        let modes: [&mut dyn AttentionHook<B>; 2] = [&mut first, &mut then];
        let mut go_on = |_| Ok(ControlFlow::Continue(()));
        let found = model.generate(&prompt, &mut model.cache(0), &config, modes, &mut go_on);
        assert_eq!(found.expect("the prompt is short").tokens, generated, "{name}");
    }
}
