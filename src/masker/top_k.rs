use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, Context, LayerState, Masker, MaskerConfig, NamedConfig, ShareGroup, Size, rows::by_candidates,
};
use crate::{
    attention::{AttentionError, AttentionInputs},
    kernels::cpu::largest,
    mask::{Kept, Mask},
    scorer::{Oracle, Scorer},
};

/// Configuration of [TopK], `{"type": "top_k", "heavy_size": 0.05, "scorer": {"type": "oracle"}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopKConfig {
    /// How many keys to add for each query.
    pub heavy_size: Size,
    /// What tells their importance.
    pub scorer: NamedConfig,
    /// Whether the heads of a group choose together. Default: each for itself.
    #[serde(default)]
    pub share_group: ShareGroup,
}

/// Configuration of [TopK] over exact scores, `{"type": "oracle_top_k", "heavy_size": 0.05}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OracleTopKConfig {
    /// How many keys to add for each query.
    pub heavy_size: Size,
    /// Whether the heads of a group choose together. Default: each for itself.
    #[serde(default)]
    pub share_group: ShareGroup,
}

/// Adds the keys with the highest scores: the *heavy hitters* of each query.
///
/// The budget comes on top of what is kept already, and only visible keys that are not kept yet compete for it; a row
/// with fewer of them keeps them all. Among equal scores the lower key wins. They are found by partial selection, without
/// sorting the row.
///
/// Should be created with [TopKConfig] or [OracleTopKConfig].
#[derive(Debug)]
pub struct TopK<B: Backend> {
    size: Size,
    scorer: Box<dyn Scorer<B>>,
    share: ShareGroup,
}

impl<B: Backend> TopK<B> {
    /// The selector of `heavy_size` keys by a scorer.
    ///
    /// # Errors
    /// If the size is neither a count of at least 1 nor a fraction in (0, 1].
    pub fn new(heavy_size: Size, scorer: Box<dyn Scorer<B>>) -> Result<Self, ConfigError> {
        heavy_size.validate_positive("heavy_size")?;
        Ok(Self { size: heavy_size, scorer, share: ShareGroup::No })
    }

    /// What each row gains; `None`: every key.
    pub(crate) fn choose(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: &Mask<B>,
    ) -> Result<Option<Vec<Vec<Kept>>>, AttentionError> {
        let keys = inputs.mask_shape().keys;
        let size = self.size.of(keys);
        if size >= keys {
            return Ok(None);
        }
        let rows = by_candidates(inputs, mask, self.scorer.as_ref(), state, self.share, |_, scores| {
            largest(scores, size).into_iter().map(Kept::certainly).collect()
        })?;
        Ok(Some(rows))
    }

    /// Lets the heads of a group choose together, or not.
    pub fn with_share_group(self, share: ShareGroup) -> Self {
        Self { share, ..self }
    }
}

impl<B: Backend> MaskerConfig<B> for TopKConfig {
    type Masker = TopK<B>;

    fn init(&self, context: &Context<B>) -> Result<TopK<B>, ConfigError> {
        Ok(TopK::new(self.heavy_size, context.scorer(&self.scorer)?)?.with_share_group(self.share_group))
    }
}

impl<B: Backend> MaskerConfig<B> for OracleTopKConfig {
    type Masker = TopK<B>;

    fn init(&self, _context: &Context<B>) -> Result<TopK<B>, ConfigError> {
        Ok(TopK::new(self.heavy_size, Box::new(Oracle::default()))?.with_share_group(self.share_group))
    }
}

impl<B: Backend> Masker<B> for TopK<B> {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        Ok(match self.choose(inputs, state, &mask)? {
            None => Mask::full(inputs.mask_shape(), &inputs.device()),
            Some(rows) => mask.merge_disjoint(&rows)?,
        })
    }
}
