use std::marker::PhantomData;

use burn::{
    module::{Content, Module, ModuleDisplay},
    tensor::backend::Backend,
};
use serde::{Deserialize, Serialize};

use super::{Masker, MaskerConfig, rows::choose_together};
use crate::{
    config::{ConfigError, NamedConfig, Size},
    kernels::cpu::largest,
    mask::{Chosen, Mask},
    problem::{AttentionError, AttentionInputs},
    scorer::{Context, HeldScorer, Oracle, Scorer, ShareGroup},
    state::LayerState,
};

/// Configuration of [TopK], `{"type": "top_k", "heavy_size": 0.05, "scorer": {"type": "oracle"}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopKConfig {
    /// How many keys to add for each query.
    pub heavy_size: Size,
    /// The scorer that estimates their importance.
    pub scorer: NamedConfig,
    /// Whether the query heads of a GQA group choose their keys together. Default: each head chooses for itself.
    #[serde(default)]
    pub share_group: ShareGroup,
}

/// Configuration of [TopK] over exact scores, `{"type": "oracle_top_k", "heavy_size": 0.05}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OracleTopKConfig {
    /// How many keys to add for each query.
    pub heavy_size: Size,
    /// Whether the query heads of a GQA group choose their keys together. Default: each head chooses for itself.
    #[serde(default)]
    pub share_group: ShareGroup,
}

/// Adds the keys with the highest scores: the *heavy hitters* of each query.
///
/// The budget is in addition to the keys that are already kept. Only visible keys that are not kept yet compete for it.
/// A row with fewer such keys than the budget keeps all of them. Among equal scores the lower key wins. The keys are
/// found by partial selection, without sorting the row.
///
/// It is a burn module if its scorer is one. Should be created with [TopKConfig] or [OracleTopKConfig].
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct TopK<B: Backend, E = Box<dyn Scorer<B>>> {
    size: Size,
    scorer: E,
    share: ShareGroup,
    backend: PhantomData<B>,
}

impl<B: Backend, E: Module<B> + ModuleDisplay> ModuleDisplay for TopK<B, E> {
    fn custom_content(&self, content: Content) -> Option<Content> {
        content
            .add_debug_attribute("heavy_size", &self.size)
            .add("scorer", &self.scorer)
            .add_debug_attribute("share_group", &self.share)
            .optional()
    }
}

impl<B: Backend, E: Scorer<B>> TopK<B, E> {
    /// A selector of the `heavy_size` keys with the highest scores.
    ///
    /// # Errors
    /// If the size is neither a count of at least 1 nor a fraction in (0, 1].
    pub fn new(heavy_size: Size, scorer: E) -> Result<Self, ConfigError> {
        heavy_size.validate_positive("heavy_size")?;
        Ok(Self { size: heavy_size, scorer, share: ShareGroup::No, backend: PhantomData })
    }

    /// The keys that each row gains. `None` stands for every key.
    pub(crate) fn choose(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: &Mask<B>,
    ) -> Result<Option<Chosen>, AttentionError> {
        let keys = inputs.mask_shape().keys;
        let size = self.size.of(keys);
        if size >= keys {
            return Ok(None);
        }
        let choose = |scores: &[f32]| largest(scores, size);
        Ok(Some(choose_together(inputs, mask, &self.scorer, state, self.share, choose)?))
    }

    /// Sets whether the query heads of a GQA group choose their keys together.
    pub fn with_share_group(self, share: ShareGroup) -> Self {
        Self { share, ..self }
    }
}

impl TopKConfig {
    /// The selector, with a scorer that `E` holds.
    pub(crate) fn over<B: Backend, E: HeldScorer<B>>(&self, context: &Context<B>) -> Result<TopK<B, E>, ConfigError> {
        let scorer = E::from_config(&self.scorer, context)?;
        Ok(TopK::new(self.heavy_size, scorer)?.with_share_group(self.share_group))
    }
}

impl OracleTopKConfig {
    /// The selector, with a scorer that `E` holds.
    pub(crate) fn over<B: Backend, E: HeldScorer<B>>(&self, _context: &Context<B>) -> Result<TopK<B, E>, ConfigError> {
        Ok(TopK::new(self.heavy_size, E::holding(Oracle::default()))?.with_share_group(self.share_group))
    }
}

impl<B: Backend> MaskerConfig<B> for TopKConfig {
    type Masker = TopK<B>;

    fn init(&self, context: &Context<B>) -> Result<TopK<B>, ConfigError> {
        self.over(context)
    }
}

impl<B: Backend> MaskerConfig<B> for OracleTopKConfig {
    type Masker = TopK<B>;

    fn init(&self, context: &Context<B>) -> Result<TopK<B>, ConfigError> {
        self.over(context)
    }
}

impl<B: Backend, E: Scorer<B>> Masker<B> for TopK<B, E> {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        Ok(match self.choose(inputs, state, &mask)? {
            None => Mask::full(inputs.mask_shape(), &inputs.device()),
            Some(chosen) => mask.with_chosen(&chosen)?,
        })
    }

    fn keys_before_window(&self) -> Option<usize> {
        self.size.count().filter(|_| !self.scorer.remembers()).map(|_| 0)
    }
}
