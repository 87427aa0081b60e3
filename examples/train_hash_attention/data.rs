//! Queries and keys of a model on text: what signatures are trained on.

use std::{collections::BTreeMap, error::Error, path::Path};

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use safetensors::{Dtype, SafeTensors};
use sparse_attention_hub::prelude::*;

/// The queries and keys of one layer.
pub struct Layer<B: Backend> {
    pub number: usize,
    /// Pieces of text to train on.
    pub train: Vec<AttentionInputs<B>>,
    /// A piece that is not trained on.
    pub held_out: AttentionInputs<B>,
}

/// Reads a folder of `NAME_layerNUMBER.safetensors`, where the piece named `held_out` is the one to measure on.
pub fn read<B: Backend>(folder: &Path, device: &B::Device) -> Result<Vec<Layer<B>>, Box<dyn Error>> {
    let listing =
        std::fs::read_dir(folder).map_err(|error| format!("cannot open the folder {}: {error}", folder.display()))?;
    let mut files = listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
    files.sort();
    let mut layers = BTreeMap::<usize, (Vec<_>, Option<_>)>::new();
    for file in files {
        let inputs = open(&file, device).map_err(|error| format!("{}: {error}", file.display()))?;
        let (train, held_out) = layers.entry(inputs.layer()).or_default();
        match file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("held_out")) {
            true => *held_out = Some(inputs),
            false => train.push(inputs),
        }
    }
    let layer = |(number, (train, held_out)): (usize, (Vec<_>, Option<_>))| match held_out {
        Some(held_out) if !train.is_empty() => Ok(Layer { number, train, held_out }),
        _ => Err(format!("{} needs a held-out piece and another one of layer {number}", folder.display())),
    };
    let layers = layers.into_iter().map(layer).collect::<Result<Vec<_>, _>>()?;
    match layers.is_empty() {
        true => Err(format!("the folder {} has no .safetensors file", folder.display()).into()),
        false => Ok(layers),
    }
}

/// `q` and `k` of a file. There are no values: choosing keys needs none, and the keys stand in for them.
fn open<B: Backend>(file: &Path, device: &B::Device) -> Result<AttentionInputs<B>, Box<dyn Error>> {
    let bytes = std::fs::read(file)?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let metadata = |name: &str| -> Result<&String, String> {
        header.metadata().as_ref().and_then(|all| all.get(name)).ok_or(format!("its metadata has no `{name}`"))
    };
    let tensor = |name: &str| -> Result<Tensor<B, 4>, Box<dyn Error>> {
        let view = tensors.tensor(name)?;
        let dtype = match view.dtype() {
            Dtype::F16 => DType::F16,
            Dtype::F32 => DType::F32,
            other => return Err(format!("`{name}` holds {other:?}, but must hold F16 or F32").into()),
        };
        match view.shape().len() {
            4 => {
                let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
                Ok(Tensor::from_data(data.convert::<f32>(), device))
            }
            _ => Err(format!("`{name}` has the shape {:?}, but must have 4 dimensions", view.shape()).into()),
        }
    };
    let keys = tensor("k")?;
    let inputs = AttentionInputs::new(tensor("q")?, keys.clone(), keys)?.causal()?;
    Ok(inputs.with_scale(metadata("scaling")?.parse()?)?.with_layer(metadata("layer")?.parse()?))
}
