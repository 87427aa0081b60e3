//! What a method remembers and reports of one layer: keys of earlier calls, random numbers, and the draws of samplers. The
//! public paths of these types are in [masker](crate::masker).

mod layer_state;
mod sampling_report;

pub(crate) use layer_state::mix;
pub use layer_state::{KeyMemory, LayerState, Randomness};
pub use sampling_report::{RowSample, SamplingReport};
