use std::fmt;

use burn::tensor::{Tensor, backend::Backend};

use super::growing::Growing;
use crate::{attention::AttentionError, masker::LayerState};

/// The keys and values that a layer has seen, and what its [maskers](crate::masker) remember of them.
///
/// They lie in buffers that are longer than what is used and that double when they are full, so that a token is written
/// in its place and the past is not copied, neither to take it in nor to read it: [keys](Self::keys) and
/// [values](Self::values) are views. A view that is still held when the next token comes keeps what it shows, and costs a
/// copy of the buffer: drop it before. (Backends without [native kernels](crate::kernels::native_path) may copy all the
/// same; `Autodiff` does.)
///
/// One cache belongs to one layer. All sequences of a batch are of the same length.
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use sparse_attention_hub::nn::KvCache;
///
/// let device = Default::default();
/// let tokens = |count| Tensor::<Flex, 4>::ones([1, 2, count, 64], &device);
/// let mut cache = KvCache::new(42);
/// cache.append(tokens(100), tokens(100))?;
/// cache.append(tokens(1), tokens(1))?;
/// assert_eq!(cache.len(), 101);
/// cache.truncate(7);
/// assert_eq!(cache.keys().map(|keys| keys.dims()), Some([1, 2, 7, 64]));
/// # }
/// # Ok::<(), sparse_attention_hub::attention::AttentionError>(())
/// ```
pub struct KvCache<B: Backend> {
    keys: Growing<B, 4>,
    values: Growing<B, 4>,
    state: LayerState,
}

impl<B: Backend> KvCache<B> {
    /// An empty cache. The seed is that of the [state](Self::state).
    pub fn new(seed: u64) -> Self {
        Self::with_capacity(seed, 0)
    }

    /// An empty cache whose buffers, once the first tokens come, take so many without growing.
    pub fn with_capacity(seed: u64, capacity: usize) -> Self {
        let buffer = || Growing::along(2).with_capacity(capacity);
        Self { keys: buffer(), values: buffer(), state: LayerState::new(seed) }
    }

    /// Takes in the keys and values of the next tokens.
    ///
    /// # Shapes
    /// - keys: `[batch, kv_heads, tokens, head_dim]`
    /// - values: `[batch, kv_heads, tokens, value_dim]`
    ///
    /// # Errors
    /// If there is no token, values do not fit the keys, or either differs from what is cached in another length than
    /// that of the sequence, or in type. The cache is then as before.
    pub fn append(&mut self, keys: Tensor<B, 4>, values: Tensor<B, 4>) -> Result<(), AttentionError> {
        let [batch, kv_heads, tokens, _] = keys.dims();
        for (tensor, found) in [("keys", keys.dims()), ("values", values.dims())] {
            if found.contains(&0) {
                let expected = "at least 1 in every dimension".to_owned();
                return Err(AttentionError::Shape { tensor, found: found.to_vec(), expected });
            }
        }
        if values.dims()[..3] != [batch, kv_heads, tokens] {
            let expected = format!("[{batch}, {kv_heads}, {tokens}, value_dim], as the keys are");
            return Err(AttentionError::Shape { tensor: "values", found: values.dims().to_vec(), expected });
        }
        validate("keys", &self.keys, &keys)?;
        validate("values", &self.values, &values)?;
        self.keys.append(keys);
        self.values.append(values);
        Ok(())
    }

    /// The keys of all tokens, a view of the buffer; `None` if there are none.
    ///
    /// # Shapes
    /// - output: `[batch, kv_heads, len, head_dim]`
    pub fn keys(&self) -> Option<Tensor<B, 4>> {
        self.keys.all()
    }

    /// The values of all tokens, a view of the buffer; `None` if there are none.
    ///
    /// # Shapes
    /// - output: `[batch, kv_heads, len, value_dim]`
    pub fn values(&self) -> Option<Tensor<B, 4>> {
        self.values.all()
    }

    /// How many tokens are cached, which is the position of the next one.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no token is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tokens the buffers take without growing.
    pub fn capacity(&self) -> usize {
        self.keys.capacity()
    }

    /// Forgets all tokens but the first `length`, in the buffers and in the [state](Self::state), as if they had never
    /// come (only random numbers go on where they stand). The buffers keep their capacity. Without effect if there are
    /// no more tokens than that.
    pub fn truncate(&mut self, length: usize) {
        if length < self.len() {
            self.keys.truncate(length);
            self.values.truncate(length);
            self.state.truncate(length);
        }
    }

    /// Forgets everything and keeps the capacity, for as many other sequences. The state draws again from its seed.
    pub fn reset(&mut self) {
        self.keys.truncate(0);
        self.values.truncate(0);
        self.state.clear();
    }

    /// What the layer's maskers remember of the cached keys.
    pub fn state(&self) -> &LayerState {
        &self.state
    }

    /// The same for a call of the maskers.
    pub fn state_mut(&mut self) -> &mut LayerState {
        &mut self.state
    }
}

impl<B: Backend> fmt::Debug for KvCache<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("state", &self.state)
            .finish()
    }
}

/// Checks that tokens fit those that are cached.
fn validate<B: Backend>(
    name: &'static str,
    cached: &Growing<B, 4>,
    tokens: &Tensor<B, 4>,
) -> Result<(), AttentionError> {
    let Some(buffer) = cached.buffer() else { return Ok(()) };
    let [batch, kv_heads, _, width] = buffer.dims();
    let found = tokens.dims();
    if [found[0], found[1], found[3]] != [batch, kv_heads, width] {
        let expected = format!("[{batch}, {kv_heads}, tokens, {width}], as those in the cache");
        return Err(AttentionError::Shape { tensor: name, found: found.to_vec(), expected });
    }
    match tokens.dtype() == buffer.dtype() {
        true => Ok(()),
        false => {
            let value = format!("{:?}", tokens.dtype());
            Err(AttentionError::Value { field: name, value, allowed: "of the type of those in the cache" })
        }
    }
}
