//! Files of weights and channels that fit given sizes, for methods that need them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use super::{Source, problem::Sizes};

/// The fields of `hash_attention_top_k` and of the scorer `hash`, with a file that has weights for layer 0.
pub fn hash(sizes: &Sizes) -> Value {
    let path = once(&format!("hash-{}-{}.safetensors", sizes.heads, sizes.head_dim), || {
        perceptrons(0, sizes.heads, [sizes.head_dim, HIDDEN, BITS])
    });
    json!({"hat_bits": BITS, "hat_mlp_layers": 2, "hat_mlp_hidden_size": HIDDEN, "hat_mlp_activation": "silu",
           "hat_weights": path})
}

/// The fields of `double_sparsity_top_k` and of the scorer `channels`, with a file that has channels for layer 0.
pub fn channels(sizes: &Sizes) -> Value {
    let path = once(&format!("channels-{}-{}.json", sizes.heads, sizes.head_dim), || {
        let in_order = |head| (0..sizes.head_dim).map(|at| (at + head) % sizes.head_dim).collect::<Vec<_>>();
        let by_head = (0..sizes.heads).map(in_order).collect::<Vec<_>>();
        json!({"model.layers.0.self_attn.qk_proj": by_head}).to_string().into_bytes()
    });
    json!({"sorted_channel_file": path, "channel_selection": "qk_proj"})
}

/// The length of signatures, and the size between the matrices of a perceptron.
const BITS: usize = 9;
const HIDDEN: usize = 3;

/// A safetensors file with perceptrons for the queries and keys of a layer.
pub fn perceptrons(layer: usize, heads: usize, widths: [usize; 3]) -> Vec<u8> {
    // The same numbers in every run, because a case must not depend on the process that wrote the file.
    let mut source = Source::seeded(5, widths[0] as u64);
    let mut tensors = Vec::new();
    for part in ["query", "key"] {
        for (index, width) in widths.windows(2).enumerate() {
            tensors.push((format!("hat.{layer}.{part}_matrix.{index}"), vec![heads, width[0], width[1]]));
            tensors.push((format!("hat.{layer}.{part}_bias.{index}"), vec![heads, width[1]]));
        }
    }
    let mut normal = |shape: &[usize]| {
        (0..shape.iter().product()).flat_map(|_| (source.normal() as f32).to_le_bytes()).collect::<Vec<_>>()
    };
    let bytes = tensors.iter().map(|(_, shape)| normal(shape)).collect::<Vec<_>>();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name, view.expect("the bytes are those of the shape"))
    });
    safetensors::serialize(views, None).expect("the names differ")
}

/// The folder for files. Processes share it.
fn folder() -> PathBuf {
    std::env::temp_dir().join("sparse-attention-hub-fuzz")
}

/// The path of a file whose content depends only on its name. It is written at the first call.
fn once(name: &str, content: impl FnOnce() -> Vec<u8>) -> PathBuf {
    static WRITTEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let path = folder().join(name);
    let mut written = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
    if written.insert(name.to_owned()) {
        // Another process may read the file at the same time, so the file is renamed when it is complete.
        let unfinished = folder().join(format!("{name}-{}", std::process::id()));
        write(&unfinished, &content());
        fs::rename(unfinished, &path).expect("the temporary folder can be written");
    }
    path
}

/// A temporary file that is removed when this is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Writes content to a file whose name is unique to this thread and has this extension.
    pub fn new(content: &[u8], extension: &str) -> Self {
        let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "-");
        let path = folder().join(format!("case-{}-{thread}.{extension}", std::process::id()));
        write(&path, content);
        Self(path)
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A file that stays in the temporary folder does no harm.
        let _ = fs::remove_file(&self.0);
    }
}

fn write(path: &Path, content: &[u8]) {
    if fs::write(path, content).is_err() {
        fs::create_dir_all(folder()).expect("the temporary folder can be written");
        fs::write(path, content).expect("the temporary folder can be written");
    }
}
