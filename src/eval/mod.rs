//! What methods are evaluated on.

mod recording;
mod study;

pub use recording::Recording;
pub use study::{ErrorStudy, RowErrors};
