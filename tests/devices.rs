//! Differences between devices and backends: the largest size of a tensor, and the width of indices.

mod common;

use burn::tensor::{Int, IntDType, Tensor, TensorData, backend::Backend};
use common::*;
use sparse_attention_hub::{
    attention::{AttentionError, reference_attention},
    kernels::largest_tensor,
    mask::{KeyIndices, MaskError},
    prelude::*,
};

on_each_backend!(
    a_tensor_beyond_the_device_limit_is_an_error,
    a_tensor_of_the_largest_size_works,
    indices_may_have_any_width,
);

/// The smallest number of queries and keys for which the f32 scores of all pairs exceed the device's limit.
fn first_length_beyond_the_limit<B: Backend>() -> Option<usize> {
    let limit = largest_tensor::<B>(&B::Device::default())?;
    Some((limit as f64 / 4.0).sqrt() as usize + 1)
}

fn a_tensor_beyond_the_device_limit_is_an_error<B: Backend>() {
    let Some(length) = first_length_beyond_the_limit::<B>() else {
        assert_eq!(largest_tensor::<B>(&B::Device::default()), None);
        return;
    };
    let device = B::Device::default();
    let zeros = || Tensor::<B, 4>::zeros([1, 1, length, 1], &device);
    let inputs = AttentionInputs::new(zeros(), zeros(), zeros()).unwrap().causal().unwrap();
    let shape = inputs.mask_shape();
    let named = |error: AttentionError| {
        let AttentionError::DeviceLimit(limit) = &error else { panic!("{error}") };
        assert_eq!(limit.shape, [1, 1, length, length]);
        assert!(limit.bytes > limit.limit && error.to_string().contains(&limit.limit.to_string()), "{error}");
    };
    let weights = Requested { weights: true, statistics: false };
    named(masked_attention(&inputs, &Mask::full(shape, &device), weights).unwrap_err());
    named(reference_attention(&inputs, &Mask::full(shape, &device), weights).unwrap_err());
    for method in [
        r#"[{"type": "oracle_top_k", "heavy_size": 4}]"#,
        r#"[{"type": "adaptive_sampling", "base_rate_sampling": 0.1, "epsilon": 0.1, "delta": 0.1, "init_offset": 0,
             "local_offset": 0}]"#,
        r#"[{"type": "magic_pig", "lsh_l": 2, "lsh_k": 2}]"#,
    ] {
        let attention = MaskerRegistry::new().research_attention(method, &device).unwrap();
        named(attention.mask(&inputs, &mut LayerState::new(1)).unwrap_err());
    }
    // The union of these patterns is not a pattern. In dense form, the mask exceeds the device's limit.
    let pattern = |window, offset| Mask::<B>::pattern(shape, Pattern { sink: 0, window, offset }, &device);
    let merged = pattern(length / 2, 0).merge(&pattern(length / 2, -7)).unwrap_err();
    assert!(matches!(merged, MaskError::DeviceLimit(_)), "{merged}");
}

/// A tensor of the size limit still works: the sums of its ones are right. The test uses at most 1 GiB.
fn a_tensor_of_the_largest_size_works<B: Backend>() {
    let device = B::Device::default();
    let Some(limit) = largest_tensor::<B>(&device) else { return };
    let length = limit.min(1 << 30) as usize / 4 / 1024;
    let ones = Tensor::<B, 2>::from_data(TensorData::new(vec![1f32; length * 1024], [length, 1024]), &device);
    let sums = ones.sum_dim(1).into_data().convert::<f32>().to_vec::<f32>().unwrap();
    assert!(sums.len() == length && sums.iter().all(|&sum| sum == 1024.0));
}

/// A backend gathers with integers of one width. Lists of key indices may have any width.
fn indices_may_have_any_width<B: Backend>() {
    let device = B::Device::default();
    let dims = [1, 1, 2, 3];
    let wanted = [0.0, 1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.0];
    for width in [IntDType::I32, IntDType::I64] {
        if !B::supports_dtype(&device, width.into()) {
            continue;
        }
        let indices = Tensor::<B, 4, Int>::from_data(TensorData::new(vec![3i32, 1, -1, 1, -1, -1], dims), &device);
        let rows = KeyIndices::new(indices.cast(width), tensor(&[0.5, 1.0, 0.0, 1.0, 0.0, 0.0], dims)).unwrap();
        let mask = Mask::from_indices(MaskShape::new([1, 1, 2, 4]), rows).unwrap();
        assert_eq!(host(&mask.to_dense()), wanted, "{width:?}");
    }
}
