//! What methods are evaluated on.

mod recording;
mod study;
mod top_k_recall;

pub use recording::Recording;
pub use study::{ErrorStudy, RowErrors};
pub use top_k_recall::TopKRecall;
