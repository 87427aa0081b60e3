//! What a method remembers and reports of one layer: keys of earlier calls, random numbers, and the draws of samplers. The
//! public paths of these types are in [masker](crate::masker).

mod layer_state;
mod memory;
mod sampling_report;

pub use layer_state::{LayerState, Randomness};
pub(crate) use layer_state::{check_indices, mix};
pub use memory::KeyMemory;
pub use sampling_report::{RowSample, SamplingReport};
