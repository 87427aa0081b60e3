use burn::{module::Module, tensor::backend::Backend};
use serde::{Deserialize, Serialize};

use super::{Masker, MaskerConfig};
use crate::{
    config::ConfigError,
    mask::{Mask, Pattern},
    problem::{AttentionError, AttentionInputs},
    scorer::Context,
    state::LayerState,
};

/// Configuration of [Causal], `{"type": "causal"}`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CausalConfig {}

/// Keeps every key up to and including the query's own position.
///
/// Under causal [visibility](crate::attention::Visibility) it gives dense attention. Under full visibility it makes
/// attention causal.
///
/// Should be created with [CausalConfig].
#[derive(Module, Debug, Clone, Copy, Default)]
pub struct Causal;

impl<B: Backend> MaskerConfig<B> for CausalConfig {
    type Masker = Causal;

    fn init(&self, _context: &Context<B>) -> Result<Causal, ConfigError> {
        Ok(Causal)
    }
}

impl<B: Backend> Masker<B> for Causal {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        _state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        let (shape, device) = (inputs.mask_shape(), inputs.device());
        let causal = Pattern::causal(inputs.offset());
        Ok(mask.merge(&Mask::pattern(shape, causal, &device))?)
    }

    fn keys_before_window(&self) -> Option<usize> {
        Some(0)
    }
}
