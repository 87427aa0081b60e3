//! Conversions between the vectors and the library's types.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use safetensors::{Dtype, tensor::TensorView};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sparse_attention_hub::{
    attention::AttentionOutput,
    masker::MagicPigConfig,
    prelude::{
        AttentionInputs, Context, LayerState, Mask, MaskShape, Masker, MaskerConfig, MaskerRegistry, Requested,
        ResearchAttention, Visibility,
    },
};

use super::vectors::{Case, Check, Data, Result, all, equal, holds};

/// A request for all results of attention.
pub const EVERYTHING: Requested = Requested { weights: true, statistics: true };

/// Four dimensions. Leading dimensions of 1 are added if there are fewer than four.
pub fn four(dims: &[usize]) -> [usize; 4] {
    match *dims {
        [batch, heads, queries, keys] => [batch, heads, queries, keys],
        [ref leading @ .., last] => [1, 1, leading.iter().product(), last],
        [] => [1; 4],
    }
}

/// The shape of a mask with any number of dimensions.
pub fn shape_of(data: &Data) -> MaskShape {
    MaskShape::new(four(&data.dims))
}

/// The mask shape that a case has as a parameter.
pub fn shape_of_case(case: &Case) -> Result<MaskShape> {
    let dims = serde_json::from_value::<Vec<usize>>(case.entry.config("shape")?.clone())?;
    Ok(MaskShape::new(four(&dims)))
}

/// A tensor in f32.
pub fn tensor<B: Backend>(data: &Data) -> Tensor<B, 4> {
    let values = data.values.iter().map(|&value| value as f32).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(values, four(&data.dims)), &B::Device::default())
}

/// A tensor of indices.
pub fn indices<B: Backend>(data: &Data) -> Tensor<B, 4, Int> {
    let values = data.integers().map(|value| value as i32).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(values, four(&data.dims)), &B::Device::default())
}

/// A mask from weights.
pub fn dense_mask<B: Backend>(data: &Data) -> Result<Mask<B>> {
    Ok(Mask::from_dense(tensor(data))?)
}

/// The values of a tensor.
pub fn host<B: Backend>(tensor: Tensor<B, 4>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().iter::<f64>().collect()
}

/// The weights of a mask.
pub fn weights<B: Backend>(mask: &Mask<B>) -> Vec<f64> {
    host(mask.to_dense())
}

/// An output in the layout of the vectors, `[batch, queries, heads, value_dim]`.
pub fn output<B: Backend>(attention: &AttentionOutput<B>) -> Vec<f64> {
    host(attention.output.clone().swap_dims(1, 2))
}

/// The attention weights that were asked for.
pub fn attention_weights<B: Backend>(attention: &AttentionOutput<B>) -> Result<Vec<f64>> {
    Ok(host(attention.weights.clone().ok_or("the attention weights were requested and are not there")?))
}

/// The inputs of attention. If the case has no values, the keys are used as values.
pub fn inputs<B: Backend>(case: &Case) -> Result<AttentionInputs<B>> {
    let keys = tensor(case.tensor("k")?);
    let values = match case.find("v") {
        Some(values) => tensor(values),
        None => keys.clone(),
    };
    let layer = case.entry.number("layer_idx").unwrap_or(0.0) as usize;
    let inputs = AttentionInputs::new(tensor(case.tensor("q")?), keys, values)?
        .with_scale(case.entry.number("scaling")?)?
        .with_layer(layer);
    let count = inputs.mask_shape().keys;
    match case.find("attention_mask") {
        // The attention mask may have more columns than there are keys.
        Some(bias) => Ok(inputs.with_visibility(Visibility::Biased(tensor(bias).slice_dim(3, 0..count)))?),
        None => Ok(inputs),
    }
}

/// The file of a case's hash weights, removed when dropped.
pub struct HashFile(PathBuf);

impl HashFile {
    /// The file of the weights, if the case gives any.
    fn of(case: &Case) -> Result<Option<Self>> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let bytes =
            |data: &Data| data.values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect::<Vec<_>>();
        let tensors = case.starting("hat.").map(|(name, data)| (name, &data.dims, bytes(data))).collect::<Vec<_>>();
        if tensors.is_empty() {
            return Ok(None);
        }
        let views =
            tensors.iter().map(|(name, dims, bytes)| Ok((*name, TensorView::new(Dtype::F32, dims.to_vec(), bytes)?)));
        let views = views.collect::<Result<Vec<_>>>()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("conformance-hash-{}-{number}.safetensors", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        safetensors::serialize_to_file(views, None, &file.0)?;
        Ok(Some(file))
    }
}

impl Drop for HashFile {
    fn drop(&mut self) {
        // A file that is left in the folder does no harm.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The configuration of a masker, with the path of the case's hash weights if the masker needs them. The file exists as
/// long as the returned [HashFile].
pub fn with_hash_weights(case: &Case, masker: &Value) -> Result<(Value, Option<HashFile>)> {
    let mut masker = masker.clone();
    let file = if is_type(&masker, "hash_attention_top_k") { HashFile::of(case)? } else { None };
    if let Some(HashFile(path)) = &file {
        masker["hat_weights"] =
            path.to_str().ok_or("the folder for temporary files has a name that is no text")?.into();
    }
    Ok((masker, file))
}

/// Whether a masker is of a type.
pub fn is_type(masker: &Value, name: &str) -> bool {
    masker.get("type").and_then(Value::as_str) == Some(name)
}

/// The configuration of a masker whose type is known.
pub fn config_of<T: DeserializeOwned>(masker: &Value) -> Result<T> {
    let mut fields = masker.clone();
    if let Some(fields) = fields.as_object_mut() {
        fields.remove("type");
    }
    Ok(serde_json::from_value(fields)?)
}

/// The context in which the configurations of a case are built.
pub fn context<B: Backend>(case: &Case) -> Context<B> {
    MaskerRegistry::new().context(&B::Device::default()).in_directory(case.directory)
}

/// Maskers from their configurations, with the hash weights and the projection of the case.
pub fn maskers<B: Backend>(case: &Case, configs: &[Value]) -> Result<Vec<Box<dyn Masker<B>>>> {
    let (registry, context) = (MaskerRegistry::new(), context(case));
    let build = |masker: &Value| -> Result<Box<dyn Masker<B>>> {
        match case.find("projection") {
            Some(projection) if is_type(masker, "magic_pig") => {
                let sampler = config_of::<MagicPigConfig>(masker)?.init(&context)?;
                Ok(Box::new(sampler.with_projection(tensor(projection).squeeze_dims(&[0, 1]))))
            }
            _ => {
                let (masker, _file) = with_hash_weights(case, masker)?;
                Ok(registry.masker(&masker, &context)?)
            }
        }
    };
    configs.iter().map(build).collect()
}

/// A chain of [maskers].
pub fn research_attention<B: Backend>(case: &Case, configs: &[Value]) -> Result<ResearchAttention<B>> {
    Ok(ResearchAttention::new(maskers(case, configs)?)?)
}

/// The mask of a chain for a mask before it. Without one, the mask before it is empty.
pub fn keep<B: Backend>(
    chain: &ResearchAttention<B>,
    inputs: &AttentionInputs<B>,
    state: &mut LayerState,
    before: Option<&Data>,
) -> Result<Mask<B>> {
    let Some(before) = before else { return Ok(chain.mask(inputs, state)?) };
    let mut mask = dense_mask(before)?;
    for masker in chain.maskers() {
        if !mask.is_full() {
            mask = masker.add(inputs, state, mask)?;
        }
    }
    Ok(mask)
}

/// Whether the library has maskers of these types.
pub fn registered<B: Backend>(maskers: &[Value]) -> bool {
    let registry = MaskerRegistry::<B>::new();
    maskers.iter().all(|masker| registry.names().any(|name| masker.get("type").and_then(Value::as_str) == Some(name)))
}

/// Checks that the mask is marked as full or empty where the mask of the Python project is. A mask that keeps nothing
/// may be marked as empty even if that one is not.
pub fn check_flags<B: Backend>(case: &Case, mask: &Mask<B>) -> Check {
    let Some(flags) = case.entry.flags() else { return Ok(()) };
    let nothing_kept = || weights(mask).iter().all(|&weight| weight == 0.0);
    all([
        equal("is_full", mask.is_full(), flags.is_full),
        holds(mask.is_empty() == flags.is_empty || (mask.is_empty() && nothing_kept()), || {
            format!("is_empty is {}, not {}", mask.is_empty(), flags.is_empty)
        }),
    ])
}
