//! Kernels for the CPU. They work on slices, and know neither tensors nor backends.

pub(super) mod attend;
pub(super) mod backward;
mod compact_at_least;
mod dropped;
pub(super) mod gather;
pub(super) mod host;
mod perceptron;
mod prefetch;
mod products;
mod scores;
mod select;
pub(super) mod simd_float;
mod softcap;
pub(super) mod softmax;
mod streams;
mod tile;

pub use host::{Heads, HostTensor};
pub(crate) use perceptron::{Matrix, add_products};
pub(crate) use scores::{
    LABELS_AT_A_TIME, Label, Steps, add_label_products, add_sign_matches, group_logits, listed_logits, products,
    sign_matches,
};
pub(crate) use select::{heaviest, largest};
pub(crate) use simd_float::exp_f32;
pub(crate) use softcap::softcap;
