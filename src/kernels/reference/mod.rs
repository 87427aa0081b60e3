//! Attention and its gradients in burn's tensor operations, which work on every backend. Native kernels are compared with
//! them.

mod attend;
#[cfg(feature = "train")]
mod backward;
pub(crate) mod dropped;
pub(crate) mod kept;
pub(crate) mod scores;
pub(crate) mod sink_logits;
pub(crate) mod window;

pub(crate) use attend::attend_in_blocks;
#[cfg(feature = "train")]
pub(crate) use backward::gradients_in_blocks;
