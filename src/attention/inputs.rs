use burn::tensor::{Tensor, backend::Backend};

use super::{AttentionError, Visibility};
use crate::{kernels::check_size, mask::MaskShape};

/// Everything that attention, and a method that chooses keys for it, is given.
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
    layer: usize,
}

impl<B: Backend> AttentionInputs<B> {
    /// Inputs with full [visibility](Self::with_visibility), the [scale](Self::with_scale) `1 / sqrt(head_dim)`, and
    /// layer 0.
    ///
    /// # Shapes
    /// - queries: `[batch, heads, queries, head_dim]`
    /// - keys: `[batch, kv_heads, keys, head_dim]`
    /// - values: `[batch, kv_heads, keys, value_dim]`
    ///
    /// # Errors
    /// If the shapes do not fit each other, a length is 0, `heads` is not a multiple of `kv_heads`, or a tensor is larger
    /// than the device can hold.
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
        for (what, tensor) in [("queries", &queries), ("keys", &keys), ("values", &values)] {
            check_size::<B>(what, &tensor.dims(), tensor.dtype(), &tensor.device())?;
        }
        Ok(Self {
            scale: 1.0 / (head_dim as f64).sqrt(),
            queries,
            keys,
            values,
            visibility: Visibility::Full,
            layer: 0,
        })
    }

    /// Which keys each query may see.
    ///
    /// # Errors
    /// If a tensor in it does not have the shape `[batch or 1, heads or 1, queries, keys]`.
    pub fn with_visibility(mut self, visibility: Visibility<B>) -> Result<Self, AttentionError> {
        visibility.validate(self.mask_shape())?;
        self.visibility = visibility;
        Ok(self)
    }

    /// Causal visibility for queries that are the last of the keys: a whole prefill, a chunk of one, or a decode step.
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
                    "at most {keys} queries, the last of the keys; set the offset with Visibility::Causal otherwise"
                ),
            }),
        }
    }

    /// What the products of queries and keys are multiplied with.
    ///
    /// # Errors
    /// If it is not a finite number.
    pub fn with_scale(mut self, scale: f64) -> Result<Self, AttentionError> {
        if !scale.is_finite() {
            let value = scale.to_string();
            return Err(AttentionError::Value { field: "scale", value, allowed: "a finite number" });
        }
        self.scale = scale;
        Ok(self)
    }

    /// The index of the layer that asks, for methods with weights or state by layer.
    pub fn with_layer(mut self, layer: usize) -> Self {
        self.layer = layer;
        self
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

    /// What the products of queries and keys are multiplied with.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The index of the layer that asks.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// The shape of a mask over these inputs, `[batch, heads, queries, keys]`.
    pub fn mask_shape(&self) -> MaskShape {
        let [batch, heads, queries, _] = self.queries.dims();
        MaskShape { batch, heads, queries, keys: self.keys.dims()[2] }
    }

    /// The position of the first query among the keys: the offset of causal visibility, otherwise `keys - queries`.
    pub fn offset(&self) -> isize {
        let MaskShape { queries, keys, .. } = self.mask_shape();
        match self.visibility {
            Visibility::Causal { offset } => offset as isize,
            _ => keys as isize - queries as isize,
        }
    }

    /// Number of key-value heads.
    pub fn kv_heads(&self) -> usize {
        self.keys.dims()[1]
    }

    /// Where the tensors live.
    pub fn device(&self) -> B::Device {
        self.queries.device()
    }
}
