//! Kernels for the host's processor. They know slices and nothing of tensors or backends.

mod attend;
mod backward;
mod bridge;
mod dropped;
mod gather;
mod host;
mod perceptron;
mod prefetch;
mod products;
mod reaching;
mod real;
mod scores;
mod select;
mod softcap;
mod softmax;
mod streams;
mod tile;

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

pub(crate) use backward::{band_backward, gather_backward};
pub(crate) use bridge::{band_attention, gather_attention};
pub use host::{Heads, HostTensor};
pub(crate) use perceptron::{Matrix, add_products};
pub(crate) use real::exp_f32;
use real::{Real, Stored};
pub(crate) use scores::{
    LABELS_AT_A_TIME, Label, Steps, add_agreement, add_label_products, agreement, group_logits, listed_logits, products,
};
pub(crate) use select::{heaviest, largest};
pub(crate) use softcap::softcap;
