//! Files of weights and channels: valid files are read, and invalid files give an error that says what is wrong.

mod common;

use std::path::Path;

use burn::tensor::{Tensor, backend::Backend};
use serde_json::{Value, json};
use sparse_attention_hub::{
    attention::AttentionError,
    masker::ConfigError,
    prelude::*,
    scorer::{Activation, HashConfig, HashWeights},
};

use common::{Sizes, files::Folder, inputs as inputs_of, on_each_backend};

on_each_backend!(
    bad_files_are_named,
    repeated_keys_are_refused,
    weights_for_other_layers_and_heads_are_refused,
    checkpoints,
);

const SIZES: Sizes = Sizes::new(1, 2, 1, 3, 20, 4);

fn build<B: Backend>(folder: &Path, config: Value) -> Result<ResearchAttention<B>, ConfigError> {
    let registry = MaskerRegistry::new();
    let context = registry.context(&B::Device::default()).in_directory(folder);
    ResearchAttention::new(vec![registry.masker(&config, &context)?])
}

fn hash(file: &str) -> Value {
    json!({"type": "hash_attention_top_k", "heavy_size": 4, "hat_bits": 5, "hat_mlp_layers": 2,
           "hat_mlp_hidden_size": 3, "hat_mlp_activation": "silu", "hat_weights": file})
}

fn channels(file: &str, group_factor: usize) -> Value {
    json!({"type": "double_sparsity_top_k", "heavy_size": 4, "sorted_channel_file": file,
           "group_factor": group_factor, "label_bits": 4, "channel_selection": "q_proj"})
}

/// A size that no memory can hold.
const ABSURD: u64 = 1_000_000_000_000;

fn with_scorer(scorer: Value) -> Value {
    json!({"type": "top_k", "heavy_size": 4, "scorer": scorer})
}

/// The tensors of a two-layer perceptron for layer 2 of a model.
const HASH: [(&str, &[usize]); 8] = [
    ("hat.2.query_matrix.0", &[2, 4, 3]),
    ("hat.2.query_bias.0", &[2, 3]),
    ("hat.2.query_matrix.1", &[2, 3, 5]),
    ("hat.2.query_bias.1", &[2, 5]),
    ("hat.2.key_matrix.0", &[2, 4, 3]),
    ("hat.2.key_bias.0", &[2, 3]),
    ("hat.2.key_matrix.1", &[2, 3, 5]),
    ("hat.2.key_bias.1", &[2, 5]),
];

fn bad_files_are_named<B: Backend>() {
    let folder = Folder::new::<B>("sah_bad_files");
    folder.write("text.safetensors", "no tensors");
    folder.write_tensors("other.safetensors", &[("weights", &[3])]);
    folder.write_tensors("short.safetensors", &HASH[..7]);
    let mut wide = HASH;
    wide[2].1 = &[2, 3, 6];
    folder.write_tensors("wide.safetensors", &wide);
    folder.write("text.json", "no channels");
    folder
        .write("twice.json", r#"{"model.layers.0.self_attn.q_proj": [[0]], "model.layers.0.self_attn.q_proj": [[1]]}"#);
    folder.write(
        "again.json",
        r#"{"model.layers.0.self_attn.q_proj": [[0]], "model.layers.00.self_attn.q_proj": [[1]]}"#,
    );
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    folder.write("twice.safetensors", [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat());
    std::fs::create_dir(folder.path("folder.safetensors")).expect("the temporary folder can be written");
    folder.write("other.json", r#"{"model.layers.0.self_attn.k_proj": [[0, 1, 2, 3]]}"#);
    let cases = [
        (hash("none.safetensors"), vec!["cannot open", "none.safetensors"]),
        (hash("text.safetensors"), vec!["text.safetensors is not a safetensors file"]),
        (hash("other.safetensors"), vec!["other.safetensors has no `hat.0.query_matrix.0`", "it has weights"]),
        (hash("short.safetensors"), vec!["has no `hat.2.key_bias.1`"]),
        (hash("wide.safetensors"), vec!["`hat.2.query_matrix.1`", "[2, 3, 6]", "[heads, 3, 5]"]),
        (hash("none.pt"), vec!["none.pt"]),
        (hash("twice.safetensors"), vec!["twice.safetensors", "the key `a` stands twice"]),
        (hash("folder.safetensors"), vec!["folder.safetensors is a folder"]),
        (channels("twice.json", 2), vec!["twice.json", "`model.layers.0.self_attn.q_proj` stands twice"]),
        (channels("again.json", 2), vec!["again.json", "`model.layers.0.self_attn.q_proj` stands twice"]),
        (channels("none.json", 2), vec!["cannot open", "none.json"]),
        (channels("text.json", 2), vec!["text.json is not a file of sorted channels"]),
        (channels("other.json", 2), vec!["has no `model.layers.0.self_attn.q_proj`", "it has model.layers.0"]),
        (channels("other.json", 0), vec!["`group_factor` is 0", "at least 1"]),
        (
            json!({"type": "pq_cache", "heavy_size": 4, "pq_sub_dim": 2, "pq_bits": 17}),
            vec!["`pq_bits` is 17", "1..=16"],
        ),
        (json!({"type": "pq_cache", "heavy_size": 4, "pq_sub_dim": 0, "pq_bits": 4}), vec!["`pq_sub_dim` is 0"]),
        (json!({"type": "quest_top_k", "heavy_size": 4, "page_size": 0, "label_bits": 8}), vec!["`page_size` is 0"]),
        (json!({"type": "quest_top_k", "heavy_size": 4, "page_size": 4, "label_bits": 17}), vec!["`label_bits` is 17"]),
        (json!({"type": "magic_pig", "lsh_l": 4, "lsh_k": 65}), vec!["`lsh_k` is 65"]),
        (json!({"type": "magic_pig", "lsh_l": ABSURD, "lsh_k": 4}), vec!["`lsh_l` is 1000000000000", "in 1..=16384"]),
        (json!({"type": "magic_pig", "lsh_l": 4, "lsh_k": ABSURD, "packing": "float32"}), vec!["`lsh_k`", "1..=1024"]),
        (
            json!({"type": "magic_pig", "lsh_l": 16384, "lsh_k": 1024, "packing": "float32"}),
            vec!["`lsh_l * lsh_k` is 16777216"],
        ),
        (with_scorer(json!({"type": "socket", "tables": ABSURD, "bits": 4, "temperature": 0.4})), vec!["`tables`"]),
        (with_scorer(json!({"type": "pages", "page_size": ABSURD})), vec!["`page_size` is 1000000000000"]),
        (with_scorer(json!({"type": "pq", "pq_sub_dim": ABSURD, "pq_bits": 4})), vec!["`pq_sub_dim`"]),
        (
            json!({"type": "hash_attention_top_k", "heavy_size": 4, "hat_bits": ABSURD, "hat_mlp_layers": 2,
                   "hat_mlp_hidden_size": 3, "hat_mlp_activation": "silu"}),
            vec!["`hat_bits` is 1000000000000"],
        ),
        (
            json!({"type": "hash_attention_top_k", "heavy_size": 4, "hat_bits": 5, "hat_mlp_layers": u64::MAX,
                   "hat_mlp_hidden_size": 3, "hat_mlp_activation": "silu", "hat_weights": "other.safetensors"}),
            vec!["`hat_mlp_layers` is 18446744073709551615"],
        ),
    ];
    for (config, parts) in cases {
        let message = build::<B>(folder.root(), config.clone()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{config}: {message}");
    }
}

/// JSON does not say which of two values of the same key is used.
fn repeated_keys_are_refused<B: Backend>() {
    for (json, key) in [
        (r#"[{"type": "sink", "sink_size": 1, "sink_size": 2}]"#, "sink_size"),
        (r#"[{"type": "sink", "sink_size": 1, "type": "local"}]"#, "type"),
        (r#"[{"type": "top_k", "heavy_size": 4, "scorer": {"type": "oracle", "type": "pages"}}]"#, "type"),
    ] {
        let found = MaskerRegistry::<B>::new().research_attention(json, &B::Device::default()).map(|_| ());
        let chain = MaskerChainConfig::from_json(json).map(|_| ());
        for error in [found.unwrap_err(), chain.unwrap_err()] {
            assert!(matches!(error, ConfigError::NotAChain { .. }), "{error}");
            assert!(error.to_string().contains(&format!("the key `{key}` stands twice")), "{error}");
        }
    }
}

fn weights_for_other_layers_and_heads_are_refused<B: Backend>() {
    let folder = Folder::new::<B>("sah_other_layers");
    folder.write_tensors("hash.safetensors", &HASH);
    folder.write(
        "channels.json",
        r#"{"model.layers.2.self_attn.q_proj": [[0, 1, 2, 3], [3, 2, 1, 0]],
                                      "model.layers.3.self_attn.q_proj": [[0, 1, 2, 4], [3, 2, 1, 0]]}"#,
    );
    let inputs = |layer, heads| {
        let sizes = Sizes { heads, ..SIZES };
        inputs_of::<B>(sizes, 7).with_layer(layer)
    };
    let run = |config: &Value, inputs| {
        let attention = build::<B>(folder.root(), config.clone()).expect("the files are right");
        attention.mask(&inputs, &mut LayerState::new(1)).map(|_| ())
    };
    for config in [hash("hash.safetensors"), channels("channels.json", 2)] {
        assert_eq!(run(&config, inputs(2, 2)), Ok(()), "{config}");
        let error = run(&config, inputs(1, 2)).unwrap_err();
        assert!(matches!(error, AttentionError::NoWeights { layer: 1, .. }), "{config}: {error}");
        let error = run(&config, inputs(2, 3)).unwrap_err();
        assert!(matches!(error, AttentionError::Shape { .. }), "{config}: {error}");
    }
    // The file names a channel that the head does not have.
    let error = run(&channels("channels.json", 2), inputs(3, 2)).unwrap_err();
    assert!(matches!(error, AttentionError::Shape { tensor: "sorted channels", .. }), "{error}");
    // There are more groups than channels.
    let error = run(&channels("channels.json", 8), inputs(2, 2)).unwrap_err();
    assert!(matches!(error, AttentionError::Value { field: "group_factor", .. }), "{error}");
}

/// `tests/data/hash_attention.pt` has the layout of the published files, with layers 2 and 3 and two heads. The numbers
/// of the matrices of `[3, 4]` and `[5, 3]` count up from `1000 layer + 500 (key) + 100 head + 50 index`. Those of the
/// biases count down.
fn checkpoints<B: Backend>() {
    let config = HashConfig {
        hat_bits: 5,
        hat_mlp_layers: 2,
        hat_mlp_hidden_size: 3,
        hat_mlp_activation: Activation::Silu,
        hat_weights: None,
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hash_attention.pt");
    let read = |config: &HashConfig| HashWeights::<B>::from_file(file.clone(), config, &B::Device::default());
    if cfg!(not(feature = "hf")) {
        assert!(read(&config).unwrap_err().to_string().contains("--features hf"));
        return;
    }
    let weights = read(&config).expect("the file is right");
    assert_eq!(weights.layers().map(|(layer, _)| layer).collect::<Vec<_>>(), [2, 3]);
    let values = |tensor: Tensor<B, 2>| tensor.into_data().convert::<f32>().to_vec::<f32>().expect("these are f32");
    for (layer, perceptrons) in weights.layers() {
        for (part, perceptrons) in [(0, &perceptrons.query), (500, &perceptrons.key)] {
            assert_eq!(perceptrons.layers.len(), 2);
            for (index, linear) in perceptrons.layers.iter().enumerate() {
                let (matrix, bias) = (linear.matrix.val(), linear.bias.val());
                let [width_in, width_out] = [[4, 3], [3, 5]][index];
                assert_eq!(matrix.dims(), [2, width_in, width_out]);
                for head in 0..2 {
                    let base = (1000 * layer + part + 100 * head + 50 * index) as f32;
                    let matrix = values(matrix.clone().slice_dim(0, head..head + 1).squeeze_dim(0));
                    for (at, value) in matrix.into_iter().enumerate() {
                        assert_eq!(value, base + (at % width_out * width_in + at / width_out) as f32);
                    }
                    let bias = values(bias.clone().slice_dim(0, head..head + 1));
                    assert_eq!(bias, (0..width_out).map(|at| -base - at as f32).collect::<Vec<_>>());
                }
            }
        }
    }
    let error = read(&HashConfig { hat_bits: 6, ..config.clone() }).unwrap_err().to_string();
    assert!(error.contains("[5, 3]") && error.contains("[6, 3]"), "{error}");
    let error = read(&HashConfig { hat_mlp_layers: 3, ..config }).unwrap_err().to_string();
    assert!(error.contains("2.learning_to_hash_transformation_q.0.4.weight"), "{error}");
}
