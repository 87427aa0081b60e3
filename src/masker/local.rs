use burn::{module::Module, tensor::backend::Backend};
use serde::{Deserialize, Serialize};

use super::{Masker, MaskerConfig};
use crate::{
    config::{ConfigError, Size},
    mask::{Mask, Pattern},
    problem::{AttentionError, AttentionInputs},
    scorer::Context,
    state::LayerState,
};

/// Configuration of [Local], `{"type": "local", "window_size": 128}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalConfig {
    /// How many keys to keep up to and including the query's own position.
    pub window_size: Size,
}

/// Keeps the keys just before each query: a *sliding window*, as in [Longformer](https://arxiv.org/abs/2004.05150) and
/// [StreamingLLM](https://arxiv.org/abs/2309.17453).
///
/// Query `i` is at position `offset + i` ([AttentionInputs::offset]). It keeps the `window_size` keys that end with
/// that position, in a prefill and in a decode step. A window at least as long as all keys keeps everything, including
/// visible keys after the query.
///
/// Should be created with [LocalConfig].
#[derive(Module, Debug, Clone, Copy)]
pub struct Local {
    size: Size,
}

impl<B: Backend> MaskerConfig<B> for LocalConfig {
    type Masker = Local;

    fn init(&self, _context: &Context<B>) -> Result<Local, ConfigError> {
        self.window_size.validate_positive("window_size")?;
        Ok(Local { size: self.window_size })
    }
}

impl<B: Backend> Masker<B> for Local {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        _state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        let (shape, device) = (inputs.mask_shape(), inputs.device());
        let size = self.size.of(shape.keys);
        if size >= shape.keys {
            return Ok(Mask::full(shape, &device));
        }
        let window = Pattern::local(size, inputs.offset());
        Ok(mask.merge(&Mask::pattern(shape, window, &device))?)
    }

    fn keys_before_window(&self) -> Option<usize> {
        self.size.count().map(|_| 0)
    }
}
