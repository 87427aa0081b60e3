//! What methods are evaluated on.

mod recording;

pub use recording::Recording;
