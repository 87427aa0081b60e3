//! Methods: chains of maskers, how they are read from files, and attention over the keys that they keep.

mod built_in;
mod chain;
mod chain_config;
mod chain_record;
mod choice;
mod efficient;
mod method_config;
mod presets;
mod registry;
mod research;
mod step_log;
mod tuple;

pub use built_in::BuiltInMasker;
pub use chain::MaskerChain;
pub use chain_config::MaskerChainConfig;
pub use chain_record::RecordError;
pub use efficient::{DoubleSparsity, DoubleSparsityConfig, EfficientAttention, HashAttention, HashAttentionConfig};
pub use method_config::{LayerMaskers, MaskersConfig, PhasesConfig};
pub use presets::{DoubleSparsityTopKConfig, HashAttentionTopKConfig, PqCacheConfig};
pub use registry::MaskerRegistry;
pub use research::{ResearchAttention, ResearchOutput};
