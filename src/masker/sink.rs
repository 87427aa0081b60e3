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

/// Configuration of [Sink], `{"type": "sink", "sink_size": 128}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// How many keys to keep at the start.
    pub sink_size: Size,
}

/// Keeps the first keys of the sequence: the *attention sinks* of [StreamingLLM](https://arxiv.org/abs/2309.17453).
/// Attention puts much of its weight on them when no other key is relevant.
///
/// Should be created with [SinkConfig].
#[derive(Module, Debug, Clone, Copy)]
pub struct Sink {
    size: Size,
}

impl<B: Backend> MaskerConfig<B> for SinkConfig {
    type Masker = Sink;

    fn init(&self, _context: &Context<B>) -> Result<Sink, ConfigError> {
        self.sink_size.validate_positive("sink_size")?;
        Ok(Sink { size: self.sink_size })
    }
}

impl<B: Backend> Masker<B> for Sink {
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
        Ok(mask.merge(&Mask::pattern(shape, Pattern::sink(size), &device))?)
    }

    fn keys_before_window(&self) -> Option<usize> {
        // If this many cached keys come before the window, the sink keeps only keys that the window hides. The same is
        // true if all keys are cached.
        self.size.count()
    }
}
