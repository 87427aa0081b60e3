//! Makes what some methods need besides their configuration, for the recorded layers of `examples/data`:
//!
//! - `configs/weights/channels.json`, the outlier channels of Double Sparsity, found on the recorded queries and keys;
//! - `configs/weights/hyperplanes.safetensors`, untrained signatures for HashAttention: the same random hyperplanes for
//!   queries and keys, so that two vectors agree in a bit the more likely the smaller the angle between them is.
//!
//! `cargo run --release --example calibrate`

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;
use safetensors::{Dtype, tensor::TensorView};
use sparse_attention_hub::{backend::Selected, eval::Recording, scorer::ChannelCalibration};

const BITS: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let weights = root.join("configs/weights");
    std::fs::create_dir_all(&weights)?;
    let mut files = std::fs::read_dir(root.join("examples/data"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<PathBuf>, std::io::Error>>()?;
    files.retain(|file| file.is_file());
    files.sort();
    let mut calibration = ChannelCalibration::new();
    let mut hyperplanes = Vec::new();
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(42);
    for file in files {
        let recording = Recording::<Selected>::open(&file, &Default::default())?;
        calibration.add(&recording.inputs);
        let [_, heads, _, head_dim] = recording.inputs.queries().dims();
        let matrix = (0..heads * head_dim * BITS)
            .flat_map(|_| f32::to_le_bytes(StandardNormal.sample(&mut rng)))
            .collect::<Vec<u8>>();
        let zeros = vec![0u8; heads * BITS * 4];
        for part in ["query", "key"] {
            let name = |kind: &str| format!("hat.{}.{part}_{kind}.0", recording.inputs.layer());
            hyperplanes.push((name("matrix"), vec![heads, head_dim, BITS], matrix.clone()));
            hyperplanes.push((name("bias"), vec![heads, BITS], zeros.clone()));
        }
    }
    calibration.write(weights.join("channels.json"))?;
    let views = hyperplanes
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    safetensors::serialize_to_file(views, None, &weights.join("hyperplanes.safetensors"))?;
    println!("wrote {}", weights.display());
    Ok(())
}
