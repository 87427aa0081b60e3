//! Evaluation of methods: recordings, tasks, perplexity, recall, and studies of errors.

mod attention_meter;
#[cfg(feature = "hf")]
mod perplexity;
mod recording;
mod save_recording;
mod scores;
mod study;
#[cfg(feature = "hf")]
pub mod tasks;
mod top_k_recall;

pub use attention_meter::AttentionMeter;
#[cfg(feature = "hf")]
pub use perplexity::{Perplexity, PerplexityConfig};
pub use recording::Recording;
pub use scores::Score;
pub use study::{ErrorStudy, RowErrors};
pub use top_k_recall::TopKRecall;
