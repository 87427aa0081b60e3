//! From the vectors to the library and back.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use serde_json::Value;
use sparse_attention_hub::{
    attention::AttentionOutput,
    masker::ConfigError,
    prelude::{AttentionInputs, Mask, MaskShape, MaskerRegistry, Requested, ResearchAttention, Visibility},
};

use super::vectors::{Case, Check, Data, Result, all, equal, holds};

/// Everything that attention can be asked for.
pub const EVERYTHING: Requested = Requested { weights: true, statistics: true };

/// Four lengths, with the leading ones as one if there are not four.
pub fn four(dims: &[usize]) -> [usize; 4] {
    match *dims {
        [batch, heads, queries, keys] => [batch, heads, queries, keys],
        [ref leading @ .., last] => [1, 1, leading.iter().product(), last],
        [] => [1; 4],
    }
}

/// The shape of a mask of any number of dimensions.
pub fn shape_of(data: &Data) -> MaskShape {
    MaskShape::new(four(&data.dims))
}

/// The shape that a case has as parameter.
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

/// What attention is given; without values the keys stand for them.
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

/// A chain of maskers from their configurations.
pub fn research_attention<B: Backend>(
    case: &Case,
    maskers: &[Value],
) -> std::result::Result<ResearchAttention<B>, ConfigError> {
    let registry = MaskerRegistry::new();
    let context = registry.context(&B::Device::default()).in_directory(case.directory);
    let maskers =
        maskers.iter().map(|config| registry.masker(config, &context)).collect::<std::result::Result<_, _>>()?;
    ResearchAttention::new(maskers)
}

/// Whether the library has maskers of these types.
pub fn registered<B: Backend>(maskers: &[Value]) -> bool {
    let registry = MaskerRegistry::<B>::new();
    maskers.iter().all(|masker| registry.names().any(|name| masker.get("type").and_then(Value::as_str) == Some(name)))
}

/// Whether a mask is held as full and as empty where the Python project's is. A mask which keeps nothing may be held as
/// empty also where that one is not.
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
