//! Training with sparse attention: learned selectors, and what a training run shows of the attention in it.

mod hash_distillation;
mod metrics;
mod straight_through;

pub use hash_distillation::{HashDistillation, HashDistillationConfig, Relaxation};
pub use metrics::{DensityInput, DensityMetric, OutputErrorInput, OutputErrorMetric};
pub use straight_through::straight_through_sign;
