//! Kernels for the CPU. They work on slices. Only the modules `tensor_io`, `flex` and `ndarray` know tensors and
//! backends.

mod attend;
mod backward;
mod compact_at_least;
mod dropped;
mod gather;
mod host;
mod perceptron;
mod prefetch;
mod products;
mod scores;
mod select;
mod simd_float;
mod softcap;
mod softmax;
mod streams;
mod tensor_io;
mod tile;

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

pub(crate) use backward::{band_backward, gather_backward};
pub use host::{Heads, HostTensor};
pub(crate) use perceptron::{Matrix, add_products};
pub(crate) use scores::{
    LABELS_AT_A_TIME, Label, Steps, add_label_products, add_sign_matches, group_logits, listed_logits, products,
    sign_matches,
};
pub(crate) use select::{heaviest, largest};
pub(crate) use simd_float::exp_f32;
use simd_float::{SimdFloat, StoredFloat};
pub(crate) use softcap::softcap;
pub(crate) use tensor_io::{band_attention, gather_attention};
