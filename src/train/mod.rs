//! Training with sparse attention: learned selectors, and metrics of attention for a training run.

mod hash_distillation;
mod metrics;
mod straight_through;

pub use hash_distillation::{HashDistillation, HashDistillationConfig, Relaxation};
pub use metrics::{DensityInput, DensityMetric, OutputErrorInput, OutputErrorMetric};
pub use straight_through::straight_through_sign;
