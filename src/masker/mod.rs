//! Maskers. A masker adds keys to a mask, and a chain of maskers is a [method](crate::method).

mod adaptive_sampling;
mod causal;
mod exact_logits;
mod local;
mod magic_pig;
mod population;
mod pps_sampling;
mod priority_sampling;
mod quest;
mod random_sampling;
mod residual;
mod rows;
pub mod sampling;
mod sink;
mod threshold;
mod top_k;
mod top_p;
mod verified_sampling;

use std::fmt::Debug;

use burn::tensor::backend::Backend;
use serde::de::DeserializeOwned;

pub use adaptive_sampling::{AdaptiveBudget, AdaptiveSampling, AdaptiveSamplingConfig};
pub use causal::{Causal, CausalConfig};
pub use local::{Local, LocalConfig};
pub use magic_pig::{MagicPig, MagicPigConfig, Packing};
pub use pps_sampling::{PpsSampling, PpsSamplingConfig};
pub use priority_sampling::{PrioritySampling, PrioritySamplingConfig};
pub use quest::{QuestTopK, QuestTopKConfig};
pub use random_sampling::{RandomSampling, RandomSamplingConfig};
pub(crate) use rows::by_candidates;
pub use sink::{Sink, SinkConfig};
pub use threshold::{Threshold, ThresholdConfig};
pub use top_k::{OracleTopKConfig, TopK, TopKConfig};
pub use top_p::{OracleTopPConfig, TopP, TopPConfig};
pub use verified_sampling::{Target, VerifiedSampling, VerifiedSamplingConfig};

pub use crate::{
    config::{ConfigError, NamedConfig, Size},
    scorer::{Context, ShareGroup},
    state::{KeyMemory, LayerState, Randomness, RowSample, SamplingReport},
};
use crate::{
    mask::Mask,
    problem::{AttentionError, AttentionInputs},
};

/// A rule that adds keys to a mask.
///
/// A masker gets the mask of the maskers before it and returns this mask with more keys. It never removes a key and
/// does not change the input tensors. It may keep keys that a query does not see: attention hides them, and
/// [density](Mask::density) counts them only in its field `all`.
///
/// # Example
/// A custom masker:
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

    /// The keys that the masker keeps as the whole method. A chain without maskers keeps all keys here, because it
    /// stands for dense attention.
    ///
    /// # Errors
    /// If the masker cannot work with the inputs.
    fn mask(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Mask<B>, AttentionError> {
        state.enter(0);
        self.add(inputs, state, Mask::empty(inputs.mask_shape(), &inputs.device()))
    }

    /// How many keys before a sliding window the masker needs. With these keys it keeps the same keys of the window as
    /// with all keys. `None`, the default, means that it needs all keys. A layer with a window gives up the keys that
    /// no masker needs.
    ///
    /// A masker needs all keys if it remembers something computed from keys, draws random numbers, or depends on the
    /// number of keys.
    fn keys_before_window(&self) -> Option<usize> {
        None
    }

    /// Whether the masker samples keys that represent other keys. A chain has at most one such masker.
    fn samples(&self) -> bool {
        false
    }
}

/// The configuration of a masker: the fields beside its `"type"` in a method file.
///
/// A configuration should refuse fields that it does not know (`#[serde(deny_unknown_fields)]`).
pub trait MaskerConfig<B: Backend>: DeserializeOwned {
    /// The masker that it configures.
    type Masker: Masker<B> + 'static;

    /// The masker.
    ///
    /// # Errors
    /// If a value makes no sense; the error names the field, the value and what is allowed.
    fn init(&self, context: &Context<B>) -> Result<Self::Masker, ConfigError>;
}
