//! What attention is asked, and what it answers: the inputs with their visibility, the outputs and the gradients. The
//! public paths of these types are in [attention](crate::attention).

mod density;
mod error;
mod gradients;
mod inputs;
mod output;
mod phase;
mod visibility;
mod visible_keys;

pub use density::Density;
pub use error::AttentionError;
pub use gradients::{AttentionGradients, AttentionTrace};
pub use inputs::AttentionInputs;
pub use output::{AttentionOutput, Requested, SoftmaxStatistics};
pub use phase::Phase;
pub use visibility::Visibility;
pub(crate) use visibility::{take, take_columns};
pub(crate) use visible_keys::{RowKeys, VisibleKeys};
