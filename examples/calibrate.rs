//! Creates the files that some methods need besides their configuration, for the recorded layers of `examples/data`:
//!
//! - `configs/weights/channels.json`: the outlier channels for Double Sparsity, found on the recorded queries and keys.
//! - `configs/weights/hyperplanes.safetensors`: untrained signatures for HashAttention. Queries and keys use the same
//!   random hyperplanes: the smaller the angle between two vectors, the more likely they agree in a bit.
//!
//! `cargo run --release --example calibrate -- --out configs/weights` recreates the files of this repository.

#[path = "common/mod.rs"]
mod common;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::Parser;
use common::{end, files, given_or, say};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;
use safetensors::{Dtype, SafeTensorError, tensor::TensorView};
use sparse_attention_hub::{backend::Selected, eval::Recording, io::OutputFile, scorer::ChannelCalibration};

/// Creates the files that Double Sparsity and HashAttention need for the recorded layers.
#[derive(Debug, Parser)]
#[command(name = "calibrate")]
struct Arguments {
    /// The folder for channels.json and hyperplanes.safetensors; existing files are replaced
    #[arg(long)]
    out: PathBuf,
    /// Folder of recorded tensors, with one safetensors file per layer
    #[arg(long)]
    data: Option<PathBuf>,
}

const BITS: usize = 32;

fn main() -> ExitCode {
    end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(&arguments.out)
        .map_err(|error| format!("cannot write to {}: {error}", arguments.out.display()))?;
    let channels = OutputFile::new(arguments.out.join("channels.json"))?;
    let hyperplanes = OutputFile::new(arguments.out.join("hyperplanes.safetensors"))?;
    let folder = given_or(&arguments.data, "examples/data")?;
    let mut calibration = ChannelCalibration::new();
    let mut tensors = Vec::new();
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(42);
    for file in files(&folder, "safetensors")? {
        let recording = Recording::<Selected>::open(&file, &Default::default())?;
        calibration.add(&recording.inputs);
        let [_, heads, _, head_dim] = recording.inputs.queries().dims();
        let matrix = (0..heads * head_dim * BITS)
            .flat_map(|_| f32::to_le_bytes(StandardNormal.sample(&mut rng)))
            .collect::<Vec<u8>>();
        let zeros = vec![0u8; heads * BITS * 4];
        for part in ["query", "key"] {
            let name = |kind: &str| format!("hat.{}.{part}_{kind}.0", recording.inputs.layer());
            tensors.push((name("matrix"), vec![heads, head_dim, BITS], matrix.clone()));
            tensors.push((name("bias"), vec![heads, BITS], zeros.clone()));
        }
    }
    calibration.write(channels.path())?;
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, SafeTensorError>>()?;
    hyperplanes.write(&safetensors::serialize(views, None)?)?;
    say!("wrote {} and {}", channels.path().display(), hyperplanes.path().display())?;
    Ok(())
}
