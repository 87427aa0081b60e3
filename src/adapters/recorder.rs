use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use burn::tensor::{Tensor, backend::Backend};

use crate::{
    eval::Recording,
    masker::Masker,
    nn::AttentionHook,
    problem::{AttentionError, AttentionInputs, Visibility},
    state::LayerState,
};

/// A hook that records queries, keys and values at chosen layers and positions. Attention itself is computed by another
/// hook.
///
/// A recording has the queries at the positions, and the keys and values of all positions up to the last of them. It is
/// complete when the model has processed the last position. The result does not depend on the size of the chunks.
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Distribution, Tensor};
/// use burn_flex::Flex;
/// use sparse_attention_hub::{
///     adapters::Recorder,
///     nn::{AttentionMode, GroupedQueryAttentionConfig, KvCache},
/// };
///
/// let device = Default::default();
/// let layer = GroupedQueryAttentionConfig::new(64, 4, 2).with_layer(3).init::<Flex>(&device)?;
/// let mut mode = AttentionMode::Dense;
/// let mut recorder = Recorder::new(&mut mode, [3], 96..100);
/// let tokens = Tensor::random([1, 100, 64], Distribution::Default, &device);
/// layer.forward_hooked(tokens, &mut KvCache::new(0), &mut recorder)?;
/// let recordings = recorder.finish()?;
/// assert_eq!(recordings[0].inputs.queries().dims(), [1, 4, 4, 16]);
/// assert_eq!(recordings[0].inputs.keys().dims(), [1, 2, 100, 16]);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Recorder<'a, B: Backend> {
    hook: &'a mut dyn AttentionHook<B>,
    layers: BTreeSet<usize>,
    positions: Range<usize>,
    parts: BTreeMap<usize, RecordedCalls<B>>,
}

/// The recorded calls of a layer.
struct RecordedCalls<B: Backend> {
    queries: Vec<Tensor<B, 4>>,
    /// The inputs of the call that reached the last position: its first query, and copies of the keys and values up to
    /// the last position. `None` before that call.
    last: Option<AttentionInputs<B>>,
}

impl<'a, B: Backend> Recorder<'a, B> {
    /// Creates a recorder for some layers and positions. Layers are counted from 0, as in [AttentionInputs::layer].
    pub fn new(
        hook: &'a mut dyn AttentionHook<B>,
        layers: impl IntoIterator<Item = usize>,
        positions: Range<usize>,
    ) -> Self {
        Self { hook, layers: layers.into_iter().collect(), positions, parts: BTreeMap::new() }
    }

    /// The recordings, ordered by layer.
    ///
    /// # Errors
    /// If a layer has not processed the last position.
    pub fn finish(mut self) -> Result<Vec<Recording<B>>, AttentionError> {
        let positions = self.positions.clone();
        let recording = |layer: &usize| {
            let parts = self.parts.remove(layer);
            let parts = parts.and_then(|parts| Some((parts.last?, Tensor::cat(parts.queries, 2))));
            let Some((last, queries)) = parts.filter(|(_, queries)| queries.dims()[2] == positions.len()) else {
                let value = format!("{positions:?} of layer {layer}");
                let allowed = "positions and layers that the model comes to";
                return Err(AttentionError::Value { field: "positions", value, allowed });
            };
            let inputs = like(&last, [queries, last.keys().clone(), last.values().clone()], positions.start)?;
            Ok(Recording { inputs, output: None })
        };
        self.layers.iter().map(recording).collect()
    }

    fn record(&mut self, inputs: &AttentionInputs<B>) -> Result<(), AttentionError> {
        let first = inputs.offset().max(0) as usize;
        let [_, _, count, _] = inputs.queries().dims();
        let found = self.positions.start.max(first)..self.positions.end.min(first + count);
        if !self.layers.contains(&inputs.layer()) || found.is_empty() {
            return Ok(());
        }
        let parts =
            self.parts.entry(inputs.layer()).or_insert_with(|| RecordedCalls { queries: Vec::new(), last: None });
        // Copies the tensors. While a view of a cache is held, appending the next token copies the whole cache.
        let owned = |tensor: Tensor<B, 4>| Tensor::from_data(tensor.to_data(), (&tensor.device(), tensor.dtype()));
        let queries = inputs.queries().clone().slice_dim(2, found.start - first..found.end - first);
        parts.queries.push(owned(queries));
        if found.end == self.positions.end {
            let past = |tensor: &Tensor<B, 4>| owned(tensor.clone().slice_dim(2, 0..found.end));
            let one = owned(inputs.queries().clone().slice_dim(2, 0..1));
            if let Visibility::Full | Visibility::Masked(_) | Visibility::Biased(_) = inputs.visibility() {
                let value = "not told by positions".to_owned();
                let allowed = "causal, with or without a window, to be recorded";
                return Err(AttentionError::Value { field: "visibility", value, allowed });
            }
            parts.last = Some(like(inputs, [one, past(inputs.keys()), past(inputs.values())], found.end - 1)?);
        }
        Ok(())
    }
}

/// The same attention over other tensors, with the first query at `position`.
fn like<B: Backend>(
    last: &AttentionInputs<B>,
    [queries, keys, values]: [Tensor<B, 4>; 3],
    first: usize,
) -> Result<AttentionInputs<B>, AttentionError> {
    let visibility = match last.visibility() {
        Visibility::Window { window, .. } => Visibility::Window { offset: first, window: *window },
        _ => Visibility::Causal { offset: first },
    };
    let inputs = AttentionInputs::new(queries, keys, values)?
        .with_scale(last.scale())?
        .with_visibility(visibility)?
        .with_layer(last.layer());
    let inputs = match last.softcap() {
        Some(cap) => inputs.with_softcap(cap)?,
        None => inputs,
    };
    let inputs = match last.phase_if_set() {
        Some(phase) => inputs.with_phase(phase),
        None => inputs,
    };
    match last.sink_logits() {
        Some(sink_logits) => inputs.with_sink_logits(sink_logits.clone()),
        None => Ok(inputs),
    }
}

impl<B: Backend> AttentionHook<B> for Recorder<'_, B> {
    fn attend(
        &mut self,
        maskers: &dyn Masker<B>,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
    ) -> Result<Tensor<B, 4>, AttentionError> {
        self.record(inputs)?;
        self.hook.attend(maskers, inputs, state)
    }
}
