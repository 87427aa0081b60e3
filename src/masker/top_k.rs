use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, Context, LayerState, Masker, MaskerConfig, NamedConfig, Size,
    rows::{add_by_row, by_falling_score, candidate_scores, candidates},
};
use crate::{
    attention::{AttentionError, AttentionInputs},
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
}

/// Configuration of [TopK] over exact scores, `{"type": "oracle_top_k", "heavy_size": 0.05}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OracleTopKConfig {
    /// How many keys to add for each query.
    pub heavy_size: Size,
}

/// Adds the keys with the highest scores: the *heavy hitters* of each query.
///
/// The budget comes on top of what is kept already, and only visible keys that are not kept yet compete for it; a row
/// with fewer of them keeps them all. Among equal scores the lower key wins.
///
/// Should be created with [TopKConfig] or [OracleTopKConfig].
#[derive(Debug)]
pub struct TopK<B: Backend> {
    size: Size,
    scorer: Box<dyn Scorer<B>>,
}

impl<B: Backend> TopK<B> {
    /// The selector of `heavy_size` keys by a scorer.
    ///
    /// # Errors
    /// If the size is neither a count of at least 1 nor a fraction in (0, 1].
    pub fn new(heavy_size: Size, scorer: Box<dyn Scorer<B>>) -> Result<Self, ConfigError> {
        heavy_size.validate_positive("heavy_size")?;
        Ok(Self { size: heavy_size, scorer })
    }
}

impl<B: Backend> MaskerConfig<B> for TopKConfig {
    type Masker = TopK<B>;

    fn init(&self, context: &Context<B>) -> Result<TopK<B>, ConfigError> {
        TopK::new(self.heavy_size, context.scorer(&self.scorer)?)
    }
}

impl<B: Backend> MaskerConfig<B> for OracleTopKConfig {
    type Masker = TopK<B>;

    fn init(&self, _context: &Context<B>) -> Result<TopK<B>, ConfigError> {
        TopK::new(self.heavy_size, Box::new(Oracle::default()))
    }
}

impl<B: Backend> Masker<B> for TopK<B> {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        let (shape, device) = (inputs.mask_shape(), inputs.device());
        let size = self.size.of(shape.keys);
        if size >= shape.keys {
            return Ok(Mask::full(shape, &device));
        }
        let scores = candidate_scores(inputs, &mask, self.scorer.score(inputs, state)?);
        Ok(add_by_row(&mask, &scores, |_, scores| largest(scores, size).into_iter().map(Kept::certainly).collect()))
    }
}

/// The `size` candidates with the highest scores, in ascending order of the keys, by partial selection.
fn largest(scores: &[f32], size: usize) -> Vec<u32> {
    let mut keys = candidates(scores);
    if size < keys.len() {
        keys.select_nth_unstable_by(size, by_falling_score(scores));
        keys.truncate(size);
        keys.sort_unstable();
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::largest;

    #[test]
    fn ties_go_to_the_lower_key_and_hidden_keys_are_never_chosen() {
        let scores = [1.0, 3.0, f32::NEG_INFINITY, 3.0, f32::NAN, 3.0, 0.0];
        assert_eq!(largest(&scores, 2), [1, 3]);
        assert_eq!(largest(&scores, 4), [0, 1, 3, 5]);
        assert_eq!(largest(&scores, 7), [0, 1, 3, 5, 6]);
        assert!(largest(&[f32::NEG_INFINITY; 3], 2).is_empty());
    }
}
