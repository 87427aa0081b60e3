//! Maskers: each adds keys to a mask, and a chain of them is a method.

mod adaptive_sampling;
mod built_in;
mod causal;
mod chain;
mod chain_config;
mod chain_record;
mod choice;
mod context;
mod error;
mod exact_logits;
pub(crate) mod limits;
mod local;
mod magic_pig;
mod method_config;
mod population;
mod pps_sampling;
mod presets;
mod priority_sampling;
mod quest;
mod random_sampling;
mod registry;
mod report;
mod residual;
mod rows;
pub mod sampling;
mod share_group;
mod sink;
mod size;
mod state;
pub(crate) mod table;
mod threshold;
mod top_k;
mod top_p;
mod tuple;
mod verified_sampling;

use std::fmt::Debug;

use burn::tensor::backend::Backend;

pub use adaptive_sampling::{AdaptiveBudget, AdaptiveSampling, AdaptiveSamplingConfig};
pub use built_in::BuiltInMasker;
pub use causal::{Causal, CausalConfig};
pub use chain::MaskerChain;
pub use chain_config::MaskerChainConfig;
pub use chain_record::RecordError;
pub(crate) use choice::{Choice, at_most_one_sampler};
pub use context::{Context, NamedConfig};
pub(crate) use context::{Registry, fields};
pub use error::ConfigError;
pub use local::{Local, LocalConfig};
pub use magic_pig::{MagicPig, MagicPigConfig, Packing};
pub use method_config::{LayerMaskers, MaskersConfig, PhasesConfig};
pub use pps_sampling::{PpsSampling, PpsSamplingConfig};
pub use presets::{DoubleSparsityTopKConfig, HashAttentionTopKConfig, PqCacheConfig};
pub use priority_sampling::{PrioritySampling, PrioritySamplingConfig};
pub use quest::{QuestTopK, QuestTopKConfig};
pub use random_sampling::{RandomSampling, RandomSamplingConfig};
pub use registry::{MaskerConfig, MaskerRegistry};
pub use report::{RowSample, SamplingReport};
pub(crate) use rows::by_candidates;
pub use share_group::ShareGroup;
pub use sink::{Sink, SinkConfig};
pub use size::Size;
pub(crate) use state::mix;
pub use state::{KeyMemory, LayerState, Randomness};
pub use threshold::{Threshold, ThresholdConfig};
pub use top_k::{OracleTopKConfig, TopK, TopKConfig};
pub use top_p::{OracleTopPConfig, TopP, TopPConfig};
pub use verified_sampling::{Target, VerifiedSampling, VerifiedSamplingConfig};

use crate::{
    attention::{AttentionError, AttentionInputs},
    mask::Mask,
};

/// A rule that adds keys to a mask.
///
/// Given what the maskers before it kept, a masker returns that mask with more keys. It never takes a key away, and it
/// changes neither the mask it was given nor the tensors. A masker which keeps keys that a query may not see does no
/// harm: attention hides them, and [density](Mask::density) counts them only in its second figure.
///
/// # Example
/// A masker of one's own:
/// ```
/// use burn::tensor::backend::Backend;
/// use sparse_attention_hub::{
///     attention::{AttentionError, AttentionInputs},
///     mask::{Mask, Pattern},
///     masker::{LayerState, Masker},
/// };
///
/// /// Keeps the first key and each query's own.
/// #[derive(Debug)]
/// struct Ends;
///
/// impl<B: Backend> Masker<B> for Ends {
///     fn add(
///         &self,
///         inputs: &AttentionInputs<B>,
///         _state: &mut LayerState,
///         mask: Mask<B>,
///     ) -> Result<Mask<B>, AttentionError> {
///         let ends = Pattern { sink: 1, window: 1, offset: inputs.offset() };
///         Ok(mask.merge(&Mask::pattern(mask.shape(), ends, &mask.device()))?)
///     }
/// }
/// ```
pub trait Masker<B: Backend>: Debug + Send + Sync {
    /// The mask with more keys.
    ///
    /// # Errors
    /// If the masker cannot work with the inputs.
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError>;

    /// The keys that the masker keeps where it is the whole method. A chain without maskers keeps all of them here: it is
    /// the absence of a method.
    ///
    /// # Errors
    /// If the masker cannot work with the inputs.
    fn mask(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Mask<B>, AttentionError> {
        state.enter(0);
        self.add(inputs, state, Mask::empty(inputs.mask_shape(), &inputs.device()))
    }

    /// How many keys before a sliding window must be there for the masker to keep of the window what it would keep if all
    /// keys were there; `None`, the default, where that is all of them. A layer with a window gives up what no masker
    /// needs.
    ///
    /// A masker that remembers something of keys, draws, or goes by how many keys there are, needs all.
    fn keys_before_window(&self) -> Option<usize> {
        None
    }

    /// Whether the masker samples keys to stand for others. A chain holds at most one that does.
    fn samples(&self) -> bool {
        false
    }
}
