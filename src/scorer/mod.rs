//! Scorers: each estimates how much every query cares for every key, and a selector picks by it.

mod built_in;
mod channel_calibration;
mod channels;
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
mod socket;

use std::fmt::Debug;

use burn::tensor::{Tensor, backend::Backend};
use serde::de::DeserializeOwned;

pub use built_in::BuiltInScorer;
pub(crate) use built_in::{BuiltInScorerRecord, kind_of_record};
pub use channel_calibration::ChannelCalibration;
pub use channels::{ChannelSelection, Channels, ChannelsConfig};
pub use fit::Fit;
pub(crate) use fit::Fits;
#[cfg(feature = "train")]
pub(crate) use hash::repeat_heads;
pub use hash::{Activation, Hash, HashConfig};
pub use hash_weights::{HashWeights, HeadLinear, HeadPerceptrons, LayerPerceptrons};
pub(crate) use keys::{Host, dot, pack, truncate};
pub use oracle::{Oracle, OracleConfig};
pub use pages::{PageFit, Pages, PagesConfig};
pub use pq::{Pq, PqConfig};
pub use quantize::{Rounding, pseudo_quantize};
pub use socket::{Socket, SocketConfig};

use crate::{
    attention::{AttentionError, AttentionInputs},
    masker::{ConfigError, Context, LayerState, Registry, ShareGroup, fields},
};

/// An estimate of the logit of every query-key pair.
pub trait Scorer<B: Backend>: Debug + Send + Sync {
    /// The scores: higher means more important. What is hidden or already kept may have any score; selectors leave it
    /// out.
    ///
    /// # Shapes
    /// - output: `[batch, heads, queries, keys]`
    ///
    /// # Errors
    /// If the scorer cannot work with the inputs.
    fn score(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Tensor<B, 4>, AttentionError>;

    /// The same scores, without the bias of the visibility, one query at a time and on the host, so that the scores of
    /// all pairs never stand in memory together. `None`, the default, where a scorer cannot do that.
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

    /// Whether the scorer remembers something of the keys between calls, and so must see all of them. Default: it does.
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

/// A [scorer](Scorer) that knows all keys, at work on one query after the other.
pub trait RowScorer: Sync {
    /// Fills in the scores of a query for all query heads that share a key-value head. Key-value heads are counted over
    /// the batch.
    ///
    /// # Shapes
    /// - scores: `[heads / kv_heads, keys]`
    fn score_group(&self, kv_head: usize, query: usize, scores: &mut [f32]);

    /// Fills in the sum of a query's scores over the `heads` that share a key-value head, in the first row of `scores`; the
    /// other rows are left with anything.
    ///
    /// # Shapes
    /// - scores: `[heads, keys]`
    fn score_group_sum(&self, kv_head: usize, query: usize, heads: usize, scores: &mut [f32]) {
        self.score_group(kv_head, query, scores);
        ShareGroup::Mean.combine(scores, heads);
    }
}

/// The configuration of a scorer, as it stands in a file beside its `"type"`.
///
/// A configuration should refuse fields that it does not know (`#[serde(deny_unknown_fields)]`).
pub trait ScorerConfig<B: Backend>: DeserializeOwned {
    /// The scorer that it configures.
    type Scorer: Scorer<B> + 'static;

    /// The scorer.
    ///
    /// # Errors
    /// If a value makes no sense; the error names the field, the value and what is allowed.
    fn init(&self, context: &Context<B>) -> Result<Self::Scorer, ConfigError>;
}

/// The library's scorers by name.
pub(crate) fn built_in<B: Backend>() -> Registry<B, dyn Scorer<B>> {
    let mut scorers = Registry::new("scorer");
    insert::<B, OracleConfig>(&mut scorers, "oracle");
    insert::<B, HashConfig>(&mut scorers, "hash");
    insert::<B, ChannelsConfig>(&mut scorers, "channels");
    insert::<B, PagesConfig>(&mut scorers, "pages");
    insert::<B, PqConfig>(&mut scorers, "pq");
    insert::<B, SocketConfig>(&mut scorers, "socket");
    scorers
}

pub(crate) fn insert<B: Backend, C: ScorerConfig<B>>(
    scorers: &mut Registry<B, dyn Scorer<B>>,
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
