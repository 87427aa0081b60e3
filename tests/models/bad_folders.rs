//! The errors for folders, tokenizers, prompts and methods that do not fit.

use std::fs;

use burn::tensor::{DType, backend::Backend};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;
use sparse_attention_hub::{
    FileError,
    attention::AttentionError,
    masker::ConfigError,
    method::MaskerChainConfig,
    models::{LanguageModel, ModelError, Pretrained, Tokenizer},
    nn::AttentionMode,
};

use super::folder::{Folder, source};

fn error<B: Backend>(folder: &Folder) -> ModelError {
    match folder.model::<B>() {
        Ok(_) => panic!("the folder is spoilt"),
        Err(error) => error,
    }
}

pub fn missing_files_are_named<B: Backend>() {
    let folder = Folder::of("llama_tied");
    folder.remove("model.safetensors");
    let found = error::<B>(&folder);
    assert!(
        matches!(&found, ModelError::File(FileError::Open { path, .. }) if path.ends_with("model.safetensors")),
        "{found}"
    );
    folder.remove("config.json");
    let found = error::<B>(&folder);
    assert!(
        matches!(&found, ModelError::File(FileError::Open { path, .. }) if path.ends_with("config.json")),
        "{found}"
    );
    fs::remove_dir_all(&folder.0).expect("the folder is there");
    let found = error::<B>(&folder);
    assert!(matches!(&found, ModelError::Directory { path, .. } if *path == folder.0), "{found}");

    let folder = Folder::of("llama_sharded");
    folder.remove("model-00002-of-00003.safetensors");
    let found = error::<B>(&folder);
    assert!(
        matches!(&found, ModelError::MissingShards { missing, .. } if missing == "model-00002-of-00003.safetensors"),
        "{found}"
    );
    // An index must not name a file outside its folder.
    folder.edit("model.safetensors.index.json", |index| {
        index["weight_map"]["model.norm.weight"] = json!("../model.safetensors");
    });
    let found = error::<B>(&folder).to_string();
    assert!(found.contains("../model.safetensors"), "{found}");
    folder.write("model.safetensors.index.json", "{\"weight_map\": 3}");
    assert!(matches!(error::<B>(&folder), ModelError::File(FileError::Format { .. })));
}

pub fn weights_that_do_not_fit_are_named_together<B: Backend>() {
    let folder = Folder::of("llama_tied");
    folder.edit_tensors(|tensors| {
        tensors.retain(|(name, ..)| name != "model.norm.weight");
        for (name, dtype, shape, bytes) in &mut *tensors {
            match name.as_str() {
                "model.layers.0.mlp.up_proj.weight" => shape.reverse(),
                "model.layers.1.input_layernorm.weight" => {
                    *dtype = Dtype::I32;
                }
                "model.layers.1.self_attn.q_proj.weight" => {
                    shape[0] -= 1;
                    bytes.truncate(4 * shape.iter().product::<usize>());
                }
                _ => {}
            }
        }
        tensors.push(("model.layers.7.mlp.up_proj.weight".to_owned(), Dtype::F32, vec![1], vec![0; 4]));
        // Some checkpoints have both tensors, although they are not needed.
        tensors.push(("lm_head.weight".to_owned(), Dtype::F32, vec![1], vec![0; 4]));
        tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), Dtype::F32, vec![1], vec![0; 4]));
    });
    let ModelError::Weights { mismatch, .. } = error::<B>(&folder) else { panic!("the weights do not fit") };
    assert_eq!(mismatch.missing, ["model.norm.weight"]);
    assert_eq!(mismatch.extra, ["model.layers.7.mlp.up_proj.weight"]);
    let shapes = mismatch.misshapen.iter().map(|wrong| (wrong.name.as_str(), wrong.found != wrong.expected));
    let wanted = [("model.layers.0.mlp.up_proj.weight", true), ("model.layers.1.self_attn.q_proj.weight", true)];
    assert_eq!(shapes.collect::<Vec<_>>(), wanted);
    assert_eq!(mismatch.mistyped, [("model.layers.1.input_layernorm.weight".to_owned(), "I32".to_owned())]);
    let text = mismatch.to_string();
    assert!(text.contains("missing (1)") && text.contains("of another shape (2)"), "{text}");
}

pub fn tokenizers_of_another_model_are_refused<B: Backend>() {
    let folder = Folder::of("llama_tied");
    let vocabulary = folder.model::<B>().expect("the folder is whole").config().vocab_size;
    folder.write("tokenizer.json", fs::read(source("llama_text").join("tokenizer.json")).expect("it is there"));
    let load = || {
        let device = B::Device::default();
        Pretrained::<B>::from_directory(&folder.0, &MaskerChainConfig::default(), DType::F32, &device).err()
    };
    let found = load();
    assert!(
        matches!(found, Some(ModelError::Vocabulary { id: 511, vocabulary: known, .. }) if known == vocabulary),
        "{found:?}"
    );
    folder.write("tokenizer.json", "{\"version\": \"1.0\"}");
    assert!(matches!(load(), Some(ModelError::File(FileError::Format { format: "a tokenizer", .. }))));
    folder.remove("tokenizer.json");
    assert!(matches!(load(), Some(ModelError::File(FileError::Open { .. }))));
    assert!(matches!(
        Tokenizer::from_directory(source("llama_text")).and_then(|tokenizer| tokenizer.chat(&[])),
        Err(ModelError::ChatTemplate { .. })
    ));
}

pub fn a_prompt_that_is_too_long_is_refused_as_a_whole<B: Backend>() {
    let model = Folder::of("llama_tied").model::<B>().expect("the folder is whole");
    let positions = model.config().max_positions;
    let mut cache = model.cache(0);
    let mut forward = |tokens: &[u32]| {
        let result = model.prefill(tokens, &mut cache, 100, &mut AttentionMode::Dense);
        (result.err(), cache.len())
    };
    assert!(matches!(forward(&[3; 20]), (None, 20)));
    let found = forward(&vec![3; positions - 19]);
    assert!(
        matches!(&found, (Some(ModelError::TooLong { tokens, positions: most }), 20) if *tokens == positions + 1 && *most == positions),
        "{found:?}"
    );
    let vocabulary = model.config().vocab_size as u32;
    let found = forward(&[3, vocabulary, 3]);
    assert!(matches!(&found, (Some(ModelError::Token { token, .. }), 20) if *token == vocabulary), "{found:?}");
    assert!(matches!(forward(&[]), (Some(ModelError::NoTokens), 20)));
}

pub fn methods_for_another_model_are_refused<B: Backend>() {
    let folder = Folder::of("llama_tied");
    let model = folder.model::<B>().expect("the folder is whole");
    let (heads, head_dim) = (model.config().heads, model.config().head_dim);
    let method = |layers: &[usize], heads: usize, head_dim: usize| {
        let zeros = vec![0u8; 1 << 16];
        let mut views = Vec::new();
        for layer in layers {
            for part in ["query", "key"] {
                let shapes = [("matrix.0", vec![heads, head_dim, 8]), ("bias.0", vec![heads, 8])];
                for (name, shape) in shapes {
                    let bytes = &zeros[..4 * shape.iter().product::<usize>()];
                    let view = TensorView::new(Dtype::F32, shape, bytes).expect("the bytes are those of the shape");
                    views.push((format!("hat.{layer}.{part}_{name}"), view));
                }
            }
        }
        folder.write("hat.safetensors", safetensors::serialize(views, None).expect("the names differ"));
        let method = json!([{"type": "hash_attention_top_k", "heavy_size": 2, "hat_bits": 8, "hat_mlp_layers": 1,
                             "hat_mlp_hidden_size": 8, "hat_mlp_activation": "silu", "hat_weights": "hat.safetensors"}]);
        let mut method = MaskerChainConfig::from_json(&method.to_string()).expect("the method is a list");
        method.directory = folder.0.clone();
        method
    };
    // The method or the first token gives the error, and the cache stays empty.
    let run = |method: &MaskerChainConfig| {
        let mut model = model.clone();
        let set = model.set_method(method);
        let mut cache = model.cache(0);
        let forward = set.and_then(|()| model.forward(&[1; 9], &mut cache, &mut AttentionMode::Sparse).map(|_| ()));
        assert!(forward.is_ok() || cache.is_empty());
        forward
    };
    assert!(run(&method(&[0, 1], heads, head_dim)).is_ok());
    let found = run(&method(&[0, 1], heads, head_dim + 2));
    let is_of_shape =
        |error: &AttentionError| matches!(error, AttentionError::Shape { .. } | AttentionError::Value { .. });
    assert!(matches!(&found, Err(ModelError::Layer { layer: 0, source }) if is_of_shape(source)), "{found:?}");
    let found = run(&method(&[0, 1], heads + 1, head_dim));
    assert!(matches!(&found, Err(ModelError::Layer { layer: 0, .. })), "{found:?}");
    let found = run(&method(&[0], heads, head_dim));
    let is_of_layer = |error: &ModelError| match error {
        ModelError::Layer { layer, source } => *layer == 1 && matches!(source, AttentionError::NoWeights { .. }),
        ModelError::Config(ConfigError::File(FileError::Missing { .. })) => true,
        _ => false,
    };
    assert!(matches!(&found, Err(error) if is_of_layer(error)), "{found:?}");
    // A method that cannot be built does not change the model.
    let mut model = model.clone();
    model.set_method(&method(&[0, 1], heads, head_dim)).expect("the method fits");
    let missing = MaskerChainConfig::from_json(r#"[{"type": "nothing"}]"#).expect("the method is a list");
    assert!(matches!(model.set_method(&missing), Err(ModelError::Config(ConfigError::UnknownType { .. }))));
    assert_eq!(model.layers[1].attention.maskers.0.maskers().len(), 1);
}

pub fn numbers_that_the_backend_has_not_are_refused<B: Backend>() {
    let device = B::Device::default();
    for dtype in [DType::F16, DType::BF16] {
        let model =
            LanguageModel::<B>::from_directory(source("llama_tied"), &MaskerChainConfig::default(), dtype, &device);
        match B::supports_dtype(&device, dtype) {
            // Weights stored in f32 are computed in the requested type.
            true => {
                let model = model.expect("the folder is whole");
                let hidden = model.forward(&[1, 2, 3], &mut model.cache(0), &mut AttentionMode::Dense);
                assert_eq!(hidden.map(|hidden| hidden.dtype()).ok(), Some(dtype));
            }
            false => assert!(matches!(model, Err(ModelError::NumberType { .. }))),
        }
    }
    let method = MaskerChainConfig::default();
    let model = LanguageModel::<B>::from_directory(source("llama_tied"), &method, DType::I32, &device);
    assert!(matches!(model, Err(ModelError::NumberType { .. })));
}
