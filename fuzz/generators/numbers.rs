//! Conversions between tensors and numbers on the host.

use burn::tensor::{DType, Tensor, TensorData};

use super::{B, device};

/// A tensor of these numbers in a type.
pub fn tensor<const D: usize>(values: &[f64], dims: [usize; D], dtype: DType) -> Tensor<B, D> {
    let data = TensorData::new(values.to_vec(), dims).convert_dtype(dtype);
    Tensor::from_data(data, (&device(), dtype))
}

/// The numbers of a tensor.
pub fn numbers<const D: usize>(tensor: &Tensor<B, D>) -> Vec<f64> {
    tensor.to_data().convert::<f64>().iter::<f64>().collect()
}

/// The relative rounding error of a type.
pub fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON,
        DType::F16 => 2_f64.powi(-10),
        DType::BF16 => 2_f64.powi(-7),
        _ => f64::from(f32::EPSILON),
    }
}

/// Whether two lists hold the same numbers. NaN equals NaN here.
pub fn same(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && first_difference(a, b).is_none()
}

/// The index at which two lists first differ.
pub fn first_difference(a: &[f64], b: &[f64]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b && !(a.is_nan() && b.is_nan()))
}

/// The index at which two lists first differ by more than a share of the largest number.
pub fn first_far(a: &[f64], b: &[f64], share: f64) -> Option<usize> {
    let largest = a.iter().chain(b).copied().filter(|x| x.is_finite()).fold(1.0, |x: f64, y| x.max(y.abs()));
    a.iter().zip(b).position(|(a, b)| {
        let close = (a - b).abs() <= share * largest;
        a != b && !(a.is_nan() && b.is_nan()) && !close
    })
}
