use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

use super::{AttentionError, Phase, Visibility};
use crate::{device::check_size, mask::MaskShape};

/// The inputs of attention, and of a method that chooses keys for it.
///
/// Heads are grouped (GQA): query head `h` reads key-value head `h / (heads / kv_heads)`, and keys and values are never
/// repeated in memory.
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Distribution, Tensor};
/// use burn_flex::Flex;
/// use sparse_attention_hub::attention::AttentionInputs;
///
/// let device = Default::default();
/// let random = |dims| Tensor::<Flex, 4>::random(dims, Distribution::Default, &device);
/// // Four queries at the end of 63 keys; six query heads read two key-value heads.
/// let inputs = AttentionInputs::new(random([1, 6, 4, 60]), random([1, 2, 63, 60]), random([1, 2, 63, 60]))?.causal()?;
/// assert_eq!(inputs.offset(), 59);
/// # }
/// # Ok::<(), sparse_attention_hub::attention::AttentionError>(())
/// ```
#[derive(Debug, Clone)]
pub struct AttentionInputs<B: Backend> {
    queries: Tensor<B, 4>,
    keys: Tensor<B, 4>,
    values: Tensor<B, 4>,
    visibility: Visibility<B>,
    scale: f64,
    softcap: Option<f64>,
    sink_logits: Option<Tensor<B, 1>>,
    layer: usize,
    /// The phase, if it was set.
    phase: Option<Phase>,
    /// The position of the first query, if it follows neither from the visibility nor from the lengths.
    first_position: Option<isize>,
}

impl<B: Backend> AttentionInputs<B> {
    /// Inputs with full [visibility](Self::with_visibility), the [scale](Self::with_scale) `1 / sqrt(head_dim)`, no
    /// [softcap](Self::with_softcap), no [sinks](Self::with_sink_logits), layer 0, and the [phase](Self::phase) that
    /// follows from the lengths.
    ///
    /// # Shapes
    /// - queries: `[batch, heads, queries, head_dim]`
    /// - keys: `[batch, kv_heads, keys, head_dim]`
    /// - values: `[batch, kv_heads, keys, value_dim]`
    ///
    /// # Errors
    /// If the shapes do not fit each other, a length is 0, `heads` is not a multiple of `kv_heads`, the three are of
    /// different float types, or a tensor is larger than the device can hold.
    pub fn new(queries: Tensor<B, 4>, keys: Tensor<B, 4>, values: Tensor<B, 4>) -> Result<Self, AttentionError> {
        let [batch, heads, _, head_dim] = queries.dims();
        let [_, kv_heads, key_count, _] = keys.dims();
        let shape_error = |tensor, found: [usize; 4], expected: String| {
            Err(AttentionError::Shape { tensor, found: found.to_vec(), expected })
        };
        for (tensor, dims) in [("queries", queries.dims()), ("keys", keys.dims()), ("values", values.dims())] {
            if dims.contains(&0) {
                return shape_error(tensor, dims, "at least 1 in every dimension".into());
            }
        }
        let expected_keys = [batch, kv_heads, key_count, head_dim];
        if keys.dims() != expected_keys {
            let expected = format!("[{batch}, kv_heads, keys, {head_dim}], as the queries are");
            return shape_error("keys", keys.dims(), expected);
        }
        if values.dims()[..3] != expected_keys[..3] {
            let expected = format!("[{batch}, {kv_heads}, {key_count}, value_dim], as the keys are");
            return shape_error("values", values.dims(), expected);
        }
        if heads % kv_heads != 0 {
            return Err(AttentionError::HeadGroups { heads, kv_heads });
        }
        let types = [queries.dtype(), keys.dtype(), values.dtype()];
        if types[1..] != [types[0]; 2] {
            let [queries, keys, values] = types;
            return Err(AttentionError::MixedTypes { queries, keys, values });
        }
        for (what, tensor) in [("queries", &queries), ("keys", &keys), ("values", &values)] {
            check_size::<B>(what, &tensor.dims(), tensor.dtype(), &tensor.device())?;
        }
        Ok(Self {
            scale: 1.0 / (head_dim as f64).sqrt(),
            queries,
            keys,
            values,
            visibility: Visibility::Full,
            softcap: None,
            sink_logits: None,
            layer: 0,
            phase: None,
            first_position: None,
        })
    }

    /// Which keys each query may see.
    ///
    /// # Errors
    /// If a tensor in it does not have the shape `[batch or 1, heads or 1, queries, keys]`, a window is 0, or the
    /// queries would stand at positions that do not fit in 32 bits.
    pub fn with_visibility(mut self, visibility: Visibility<B>) -> Result<Self, AttentionError> {
        visibility.validate(self.mask_shape())?;
        self.visibility = visibility;
        Ok(self)
    }

    /// Causal visibility for queries that are the last positions of the keys: a whole prefill, a chunk of a prefill, or
    /// a decode step.
    ///
    /// # Errors
    /// If there are more queries than keys.
    pub fn causal(self) -> Result<Self, AttentionError> {
        let MaskShape { queries, keys, .. } = self.mask_shape();
        match keys.checked_sub(queries) {
            Some(offset) => self.with_visibility(Visibility::Causal { offset }),
            None => Err(AttentionError::Shape {
                tensor: "queries",
                found: self.queries.dims().to_vec(),
                expected: format!(
                    "at most {keys} queries, which are the last of the keys (a tensor is [batch, heads, length, \
                     head_dim]); if the queries have other positions, set the offset with Visibility::Causal"
                ),
            }),
        }
    }

    /// The factor of the products of queries and keys.
    ///
    /// # Errors
    /// If it is not a finite number in f32, the type in which most logits are computed.
    pub fn with_scale(mut self, scale: f64) -> Result<Self, AttentionError> {
        if !(scale as f32).is_finite() {
            let value = scale.to_string();
            return Err(AttentionError::Value { field: "scale", value, allowed: "a finite number in f32" });
        }
        self.scale = scale;
        Ok(self)
    }

    /// The same inputs with tensors of the same shapes on another backend.
    #[cfg(feature = "train")]
    pub(crate) fn over<T: Backend>(
        &self,
        [queries, keys, values]: [Tensor<T, 4>; 3],
        visibility: Visibility<T>,
    ) -> AttentionInputs<T> {
        AttentionInputs {
            queries,
            keys,
            values,
            visibility,
            scale: self.scale,
            softcap: self.softcap,
            sink_logits: None,
            layer: self.layer,
            phase: self.phase,
            first_position: self.first_position,
        }
    }

    /// Keeps every logit between `-cap` and `cap`, as [Gemma 2](https://arxiv.org/abs/2408.00118) does: after the scale
    /// and before the visibility, a logit becomes `cap * tanh(logit / cap)`.
    ///
    /// The cap is part of the logits. It applies to dense and masked attention, and scorers and samplers see it.
    ///
    /// # Errors
    /// If it is not a finite number above 0 in f32.
    pub fn with_softcap(mut self, cap: f64) -> Result<Self, AttentionError> {
        if !(cap as f32 > 0.0 && (cap as f32).is_finite()) {
            let value = cap.to_string();
            return Err(AttentionError::Value { field: "softcap", value, allowed: "a finite number above 0 in f32" });
        }
        self.softcap = Some(cap);
        Ok(self)
    }

    /// Adds a learned logit of each query head to the denominator of its softmax, as in
    /// [GPT-OSS](https://arxiv.org/abs/2508.10925). It acts like a key whose value is 0. A query that matches no key
    /// can give its weight to it.
    ///
    /// The logits get a gradient. They are neither scaled nor capped, and no method drops them.
    ///
    /// # Shapes
    /// - sinks: `[heads]`
    ///
    /// # Errors
    /// If the number of logits is not the number of query heads.
    pub fn with_sink_logits(mut self, sink_logits: Tensor<B, 1>) -> Result<Self, AttentionError> {
        let heads = self.mask_shape().heads;
        if sink_logits.dims() != [heads] {
            let expected = format!("[{heads}] (heads)");
            return Err(AttentionError::Shape { tensor: "sink_logits", found: sink_logits.dims().to_vec(), expected });
        }
        self.sink_logits = Some(sink_logits);
        Ok(self)
    }

    /// The same inputs with no [sinks](Self::with_sink_logits).
    pub(crate) fn without_sink_logits(&self) -> Self {
        Self { sink_logits: None, ..self.clone() }
    }

    /// The same inputs with causal visibility from `offset`, which needs no check.
    pub(crate) fn causal_from(&self, offset: usize) -> Self {
        Self { visibility: Visibility::Causal { offset }, ..self.clone() }
    }

    /// Sets the position of the first query among the keys, after keys were cut off at the ends.
    pub(crate) fn with_first_position(mut self, position: isize) -> Self {
        self.first_position = Some(position);
        self
    }

    /// Sets the index of the layer, for methods with weights or state by layer.
    pub fn with_layer(mut self, layer: usize) -> Self {
        self.layer = layer;
        self
    }

    /// Sets the phase of the call, for methods with different maskers in each phase. The layers of [nn](crate::nn) set
    /// it in every call.
    pub fn with_phase(mut self, phase: Phase) -> Self {
        self.phase = Some(phase);
        self
    }

    /// The inputs of some of the queries, with the keys up to the last one that any of these queries sees. A phase that
    /// was [set](Self::with_phase) stays.
    ///
    /// # Errors
    /// If the range is empty or ends after the last query.
    pub fn narrow_queries(&self, queries: Range<usize>) -> Result<Self, AttentionError> {
        let shape = self.mask_shape();
        if queries.is_empty() || queries.end > shape.queries {
            let value = format!("{queries:?}");
            return Err(AttentionError::Value { field: "queries", value, allowed: "some of the queries there are" });
        }
        let keys = 0..self.visibility.span(&queries, shape.keys).end;
        let first_position = Some(self.offset() + queries.start as isize);
        let visibility = match &self.visibility {
            Visibility::Full => Visibility::Full,
            Visibility::Causal { offset } => Visibility::Causal { offset: offset + queries.start },
            Visibility::Window { offset, window } => {
                Visibility::Window { offset: offset + queries.start, window: *window }
            }
            Visibility::Masked(hidden) => Visibility::Masked(hidden.clone().slice_dim(2, queries.clone())),
            Visibility::Biased(bias) => Visibility::Biased(bias.clone().slice_dim(2, queries.clone())),
        };
        Ok(Self {
            queries: self.queries.clone().slice_dim(2, queries),
            keys: self.keys.clone().slice_dim(2, keys.clone()),
            values: self.values.clone().slice_dim(2, keys),
            visibility,
            sink_logits: self.sink_logits.clone(),
            first_position,
            ..*self
        })
    }

    /// The same inputs, detached from the autodiff graph.
    pub(crate) fn detach(self) -> Self {
        let visibility = match self.visibility {
            Visibility::Biased(bias) => Visibility::Biased(bias.detach()),
            other => other,
        };
        let (queries, keys, values) = (self.queries.detach(), self.keys.detach(), self.values.detach());
        let sink_logits = self.sink_logits.map(Tensor::detach);
        Self { queries, keys, values, visibility, sink_logits, ..self }
    }

    /// The queries, `[batch, heads, queries, head_dim]`.
    pub fn queries(&self) -> &Tensor<B, 4> {
        &self.queries
    }

    /// The keys, `[batch, kv_heads, keys, head_dim]`.
    pub fn keys(&self) -> &Tensor<B, 4> {
        &self.keys
    }

    /// The values, `[batch, kv_heads, keys, value_dim]`.
    pub fn values(&self) -> &Tensor<B, 4> {
        &self.values
    }

    /// Which keys each query may see.
    pub fn visibility(&self) -> &Visibility<B> {
        &self.visibility
    }

    /// The factor of the products of queries and keys.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The softcap of the logits, if there is one.
    pub fn softcap(&self) -> Option<f64> {
        self.softcap
    }

    /// The sink logits, `[heads]`, if there are any.
    pub fn sink_logits(&self) -> Option<&Tensor<B, 1>> {
        self.sink_logits.as_ref()
    }

    /// The index of the layer.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// The phase of the call. If it was not [set](Self::with_phase), it is `Decode` for one query and more than one
    /// key, and `Prefill` otherwise.
    pub fn phase(&self) -> Phase {
        let MaskShape { queries, keys, .. } = self.mask_shape();
        self.phase.unwrap_or_else(|| Phase::of_call(keys == 1, queries))
    }

    /// The phase, if it was set.
    pub(crate) fn phase_if_set(&self) -> Option<Phase> {
        self.phase
    }

    /// The shape of a mask over these inputs, `[batch, heads, queries, keys]`.
    pub fn mask_shape(&self) -> MaskShape {
        let [batch, heads, queries, _] = self.queries.dims();
        MaskShape { batch, heads, queries, keys: self.keys.dims()[2] }
    }

    /// The position of the first query among the keys. With causal visibility or a window, it is their offset. For
    /// [narrowed](Self::narrow_queries) queries, it is the position that they had before. Otherwise it is
    /// `keys - queries`.
    pub fn offset(&self) -> isize {
        let MaskShape { queries, keys, .. } = self.mask_shape();
        match self.visibility {
            Visibility::Causal { offset } | Visibility::Window { offset, .. } => offset as isize,
            _ => self.first_position.unwrap_or(keys as isize - queries as isize),
        }
    }

    /// Number of key-value heads.
    pub fn kv_heads(&self) -> usize {
        self.keys.dims()[1]
    }

    /// The device of the tensors.
    pub fn device(&self) -> B::Device {
        self.queries.device()
    }
}
