use std::fmt;

use burn::tensor::{Tensor, backend::Backend};

use crate::{attention::AttentionError, kernels, masker::LayerState};

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
    keys: Buffer<B>,
    values: Buffer<B>,
    length: usize,
    state: LayerState,
}

/// Buffers are at least so long.
const LEAST_CAPACITY: usize = 16;

impl<B: Backend> KvCache<B> {
    /// An empty cache. The seed is that of the [state](Self::state).
    pub fn new(seed: u64) -> Self {
        Self::with_capacity(seed, 0)
    }

    /// An empty cache whose buffers, once the first tokens come, take so many without growing.
    pub fn with_capacity(seed: u64, capacity: usize) -> Self {
        let buffer = || Buffer { tensor: None, reserved: capacity };
        Self { keys: buffer(), values: buffer(), length: 0, state: LayerState::new(seed) }
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
        self.keys.validate("keys", &keys)?;
        self.values.validate("values", &values)?;
        self.keys.write(self.length, keys);
        self.values.write(self.length, values);
        self.length += tokens;
        Ok(())
    }

    /// The keys of all tokens, a view of the buffer; `None` if there are none.
    ///
    /// # Shapes
    /// - output: `[batch, kv_heads, len, head_dim]`
    pub fn keys(&self) -> Option<Tensor<B, 4>> {
        self.keys.first(self.length)
    }

    /// The values of all tokens, a view of the buffer; `None` if there are none.
    ///
    /// # Shapes
    /// - output: `[batch, kv_heads, len, value_dim]`
    pub fn values(&self) -> Option<Tensor<B, 4>> {
        self.values.first(self.length)
    }

    /// How many tokens are cached, which is the position of the next one.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no token is cached.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many tokens the buffers take without growing.
    pub fn capacity(&self) -> usize {
        self.keys.capacity()
    }

    /// Forgets all tokens but the first `length`, in the buffers and in the [state](Self::state), as if they had never
    /// come (only random numbers go on where they stand). The buffers keep their capacity. Without effect if there are
    /// no more tokens than that.
    pub fn truncate(&mut self, length: usize) {
        if length < self.length {
            self.length = length;
            self.state.truncate(length);
        }
    }

    /// Forgets everything and keeps the capacity, for other sequences of the same number and kind. The state draws again
    /// from its seed.
    pub fn reset(&mut self) {
        self.length = 0;
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
            .field("len", &self.length)
            .field("capacity", &self.capacity())
            .field("state", &self.state)
            .finish()
    }
}

/// `[batch, kv_heads, capacity, width]`, made when the first tokens tell the other lengths.
struct Buffer<B: Backend> {
    tensor: Option<Tensor<B, 4>>,
    /// How long it will be at least.
    reserved: usize,
}

impl<B: Backend> Buffer<B> {
    fn capacity(&self) -> usize {
        self.tensor.as_ref().map_or(self.reserved, |tensor| tensor.dims()[2])
    }

    /// Checks that tokens fit those that are here.
    fn validate(&self, name: &'static str, tokens: &Tensor<B, 4>) -> Result<(), AttentionError> {
        let Some(buffer) = &self.tensor else { return Ok(()) };
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

    /// Writes tokens to their place after the first `length`.
    fn write(&mut self, length: usize, tokens: Tensor<B, 4>) {
        let needed = length + tokens.dims()[2];
        // Taken out, so that nobody else holds the buffer and it is written in place.
        let buffer = match self.tensor.take() {
            Some(buffer) if needed <= buffer.dims()[2] => buffer,
            Some(full) => {
                let grown = zeros(&full, needed.max(2 * full.dims()[2]));
                match length {
                    0 => grown,
                    _ => kernels::write_along(grown, 2, 0, kernels::before(&full, 2, length)),
                }
            }
            None => zeros(&tokens, needed.max(self.reserved).max(LEAST_CAPACITY)),
        };
        self.tensor = Some(kernels::write_along(buffer, 2, length, tokens));
    }

    fn first(&self, length: usize) -> Option<Tensor<B, 4>> {
        let buffer = self.tensor.as_ref().filter(|_| length > 0)?;
        Some(kernels::before(buffer, 2, length))
    }
}

/// Room for so many tokens like some others.
fn zeros<B: Backend>(like: &Tensor<B, 4>, capacity: usize) -> Tensor<B, 4> {
    let [batch, kv_heads, _, width] = like.dims();
    Tensor::zeros([batch, kv_heads, capacity, width], (&like.device(), like.dtype()))
}
