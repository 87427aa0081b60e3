//! Files of weights and channels for given sizes, and the scorers that read them.

use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use super::{Sizes, generator, normal};

/// A path for a test file that is made for given sizes.
pub fn scratch(kind: &str, sizes: &Sizes) -> std::path::PathBuf {
    let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "-");
    let name = format!("{kind}-{}-{}-{thread}", sizes.heads, sizes.head_dim);
    std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Random two-layer perceptrons for each head, for two layers of a model.
pub fn hash(sizes: &Sizes) -> Value {
    let (path, widths) = (scratch("hash", sizes), [sizes.head_dim, 7, 70]);
    let mut rng = generator(5);
    let mut tensors = Vec::new();
    for (layer, part) in [(0, "query"), (0, "key"), (1, "query"), (1, "key")] {
        for (index, width) in widths.windows(2).enumerate() {
            let shape = vec![sizes.heads, width[0], width[1]];
            tensors.push((format!("hat.{layer}.{part}_matrix.{index}"), shape));
            tensors.push((format!("hat.{layer}.{part}_bias.{index}"), vec![sizes.heads, width[1]]));
        }
    }
    let numbers = tensors.iter().map(|(_, shape)| normal(&mut rng, shape.iter().product()));
    let bytes = numbers.map(|x| x.into_iter().flat_map(f32::to_le_bytes).collect()).collect::<Vec<Vec<u8>>>();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &path).unwrap();
    json!({"type": "hash", "hat_bits": 70, "hat_mlp_layers": 2, "hat_mlp_hidden_size": 7, "hat_mlp_activation": "silu",
           "hat_weights": path})
}

/// Channels in a different order for each head, for two layers of a model.
pub fn channels(sizes: &Sizes) -> Value {
    let path = scratch("channels", sizes);
    let in_order = |head| (0..sizes.head_dim).map(|channel| (channel + head) % sizes.head_dim).collect::<Vec<_>>();
    let by_head = (0..sizes.heads).map(in_order).collect::<Vec<_>>();
    let layers = json!({"model.layers.0.self_attn.qk_proj": by_head, "model.layers.1.self_attn.qk_proj": by_head});
    std::fs::write(&path, layers.to_string()).unwrap();
    let factor = if sizes.head_dim > 2 { 2 } else { 1 };
    json!({"type": "channels", "sorted_channel_file": path, "group_factor": factor, "label_bits": 4,
           "channel_selection": "qk_proj"})
}

/// A temporary folder of one test. It is removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new<B: Backend>(name: &str) -> Self {
        let backend = B::name(&B::Device::default()).replace(|c: char| !c.is_alphanumeric(), "_");
        let folder = std::env::temp_dir().join(format!("{name}_{backend}_{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
        Self(folder)
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).expect("the temporary folder can be written");
    }

    /// Tensors of zeros.
    pub fn write_tensors(&self, name: &str, tensors: &[(&str, &[usize])]) {
        let zeros = [0u8; 4096];
        let view =
            |dims: &[usize]| TensorView::new(Dtype::F32, dims.to_vec(), &zeros[..4 * dims.iter().product::<usize>()]);
        let views = tensors.iter().map(|(name, dims)| (*name, view(dims).expect("the bytes are those of the shape")));
        self.write(name, safetensors::serialize(views, None).expect("the names differ"));
    }

    /// The names of the files in the folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let listing = std::fs::read_dir(&self.0).expect("the folder is there");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.expect("the folder can be read").file_name().to_string_lossy().into_owned()
        };
        let mut names = listing.map(name).collect::<Vec<_>>();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that is left in the temporary directory does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
