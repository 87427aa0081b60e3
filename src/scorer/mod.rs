//! Scorers estimate how important every key is for every query. A selector chooses keys by these scores.

mod built_in;
mod channel_calibration;
mod channels;
mod context;
mod fit;
mod hash;
#[cfg(feature = "hf")]
mod hash_checkpoint;
mod hash_weights;
mod keys;
mod labels;
mod oracle;
mod pages;
mod pq;
mod quantize;
mod share_group;
mod socket;
pub(crate) mod table;

use std::fmt::Debug;

use burn::tensor::{Tensor, backend::Backend};
use serde::de::DeserializeOwned;

pub use built_in::BuiltInScorer;
pub(crate) use built_in::{HeldScorer, kind_of_record, registry};
pub use channel_calibration::ChannelCalibration;
pub use channels::{ChannelSelection, Channels, ChannelsConfig};
pub use context::Context;
pub use fit::Fit;
pub(crate) use fit::Fits;
#[cfg(feature = "train")]
pub(crate) use hash::repeat_heads;
pub use hash::{Activation, Hash, HashConfig};
pub use hash_weights::{HashWeights, HeadLinear, HeadPerceptrons, LayerPerceptrons};
pub(crate) use keys::{Host, dot, pack, reorder, truncate};
pub use oracle::{Oracle, OracleConfig};
pub use pages::{PageFit, Pages, PagesConfig};
pub use pq::{Pq, PqConfig};
pub use quantize::{Rounding, pseudo_quantize};
pub use share_group::ShareGroup;
pub use socket::{Socket, SocketConfig};

use crate::{
    config::{ConfigError, Registry, fields},
    problem::{AttentionError, AttentionInputs},
    state::LayerState,
};

/// An estimate of the logit of every query-key pair.
pub trait Scorer<B: Backend>: Debug + Send + Sync {
    /// The scores. A higher score means a more important key. Hidden and already kept keys may have any score, because
    /// selectors leave them out.
    ///
    /// # Shapes
    /// - output: `[batch, heads, queries, keys]`
    ///
    /// # Errors
    /// If the scorer cannot work with the inputs.
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError>;

    /// Computes the same scores for one query at a time, on the host and without the bias of the visibility. The scores
    /// of all pairs are then never in memory together. `None` if the scorer cannot do this, which is the default.
    ///
    /// # Errors
    /// If the scorer cannot work with the inputs.
    fn by_row<'a>(
        &'a self,
        inputs: &'a AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<Option<Box<dyn RowScorer + 'a>>, AttentionError> {
        let _ = (inputs, state);
        Ok(None)
    }

    /// Whether the scorer remembers keys between calls. Such a scorer must see every key. The default is `true`.
    fn remembers(&self) -> bool {
        true
    }
}

impl<B: Backend, S: Scorer<B> + ?Sized> Scorer<B> for Box<S> {
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError> {
        self.as_ref().score(inputs, state)
    }

    fn by_row<'a>(
        &'a self,
        inputs: &'a AttentionInputs<B>,
        state: &'a mut LayerState,
    ) -> Result<Option<Box<dyn RowScorer + 'a>>, AttentionError> {
        self.as_ref().by_row(inputs, state)
    }

    fn remembers(&self) -> bool {
        self.as_ref().remembers()
    }
}

/// A [scorer](Scorer) that has read all keys and now scores one query after the other.
pub trait RowScorer: Sync {
    /// Writes the scores of a query, for all query heads that share a key-value head. `kv_head` counts the key-value
    /// heads of all sequences in the batch.
    ///
    /// # Shapes
    /// - scores: `[heads / kv_heads, keys]`
    fn score_group(&self, kv_head: usize, query: usize, scores: &mut [f32]);

    /// Writes the sum of a query's scores over the `heads` that share a key-value head. The sum is in the first row of
    /// `scores`. The other rows may hold any numbers.
    ///
    /// # Shapes
    /// - scores: `[heads, keys]`
    fn score_group_sum(&self, kv_head: usize, query: usize, heads: usize, scores: &mut [f32]) {
        self.score_group(kv_head, query, scores);
        ShareGroup::Mean.combine(scores, heads);
    }
}

/// The configuration of a scorer, as it is written in a file next to its `"type"`.
///
/// A configuration should refuse unknown fields (`#[serde(deny_unknown_fields)]`).
pub trait ScorerConfig<B: Backend>: DeserializeOwned {
    /// The scorer that it configures.
    type Scorer: Scorer<B> + 'static;

    /// Creates the scorer.
    ///
    /// # Errors
    /// If a value is not allowed. The error names the field, the value and what is allowed.
    fn init(&self, context: &Context<B>) -> Result<Self::Scorer, ConfigError>;
}

/// Adds a scorer under a name, or replaces the scorer with this name.
pub(crate) fn insert<B: Backend, C: ScorerConfig<B>>(
    scorers: &mut Registry<Context<B>, dyn Scorer<B>>,
    name: impl Into<String>,
) {
    scorers.insert(name, |named, context| Ok(Box::new(fields::<C>(named)?.init(context)?)));
}

fn validate_label_bits(bits: u32) -> Result<(), ConfigError> {
    match bits {
        1..=16 => Ok(()),
        _ => Err(ConfigError::value("label_bits", bits, "in 1..=16, where 16 does not quantise")),
    }
}
