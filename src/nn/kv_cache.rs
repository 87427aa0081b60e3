use std::fmt;

use burn::tensor::{Tensor, backend::Backend};

use super::{
    kv_part::{Part, check_tokens},
    unpadded_tokens::{UnpaddedTokens, pick},
};
use crate::{
    problem::AttentionError,
    state::{LayerState, check_indices},
};

/// The keys and values that a layer has seen, and what its [maskers](crate::masker) remember of them.
///
/// They are stored in buffers that are longer than their content and double when they are full. A new token is written
/// in place, and [keys](Self::keys) and [values](Self::values) are views, so the past is not copied. Drop a view before
/// the next token is appended. A view that is still held stays valid, but the append then copies the buffer. (Backends
/// without [native kernels](crate::kernels::native_path) may copy in any case. `Autodiff` does.)
///
/// One cache belongs to one layer and one batch of sequences. As long as no token is padding, the sequences share one
/// buffer. From the first padded token on (see [GqaInput](super::GqaInput) and [mask_pad](super::MhaInput::mask_pad)),
/// each sequence has its own buffer and its own state, which hold its real tokens only. Each sequence is then computed
/// as if it were alone. [len](Self::len) and [truncate](Self::truncate) count padding, so they are the same for all
/// sequences.
///
/// # Forks
/// A clone is a fork: both caches hold the same tokens and go on independently, as two caches do that were given the same
/// tokens. This answers many questions about one context, or keeps the beams of a search. The buffers are shared until
/// one of the caches takes in a token. That cache then copies its buffers once, with their reserved room, and both write
/// in place afterwards. What the maskers remember is copied by the clone itself.
///
/// # Sliding windows
/// In a layer with a [sliding window](super::GroupedQueryAttentionConfig::sliding_window), the cache gives up the
/// tokens that neither a later query nor the method needs. The size of the cache is then of the order of the window.
/// Positions do not change. [truncate](Self::truncate) cannot go back to tokens that were given up.
/// [with_spare](Self::with_spare) keeps more tokens for this case. If the method needs all keys, the cache keeps all
/// tokens. A method needs all keys if it remembers something computed from keys, draws random numbers, or has a size
/// that is a fraction.
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
/// cache.truncate(7)?;
/// assert_eq!(cache.keys().map(|keys| keys.dims()), Some([1, 2, 7, 64]));
/// # }
/// # Ok::<(), sparse_attention_hub::attention::AttentionError>(())
/// ```
#[derive(Clone)]
pub struct KvCache<B: Backend> {
    seed: u64,
    capacity: usize,
    spare: usize,
    /// How many tokens before the next one its query needs. `None`: all of them.
    reach: Option<usize>,
    /// One part for all sequences, or one part for each sequence.
    parts: Vec<Part<B>>,
    /// Which tokens are real, if the sequences are apart.
    real: Option<UnpaddedTokens>,
}

/// The keys and values of one part of a cache, and its state.
pub(super) struct Cached<'a, B: Backend> {
    pub keys: Tensor<B, 4>,
    pub values: Tensor<B, 4>,
    /// The position of the first key.
    pub start: usize,
    pub state: &'a mut LayerState,
}

/// What is needed to restore a cache to its content before tokens were taken in.
pub(super) struct Undo<B: Backend> {
    length: usize,
    was_unused: bool,
    /// The parts of the cache, if the sequences were still together.
    together: Option<Vec<Part<B>>>,
}

impl<B: Backend> KvCache<B> {
    /// An empty cache. The seed is that of the [state](Self::state).
    pub fn new(seed: u64) -> Self {
        Self::with_capacity(seed, 0)
    }

    /// An empty cache whose buffers hold `capacity` tokens without growing.
    ///
    /// The buffers are allocated when the first tokens are appended. If the memory cannot hold the capacity, the first
    /// [append](Self::append) returns an error.
    pub fn with_capacity(seed: u64, capacity: usize) -> Self {
        let parts = vec![Part::new(seed, capacity)];
        Self { seed, capacity, spare: 0, reach: None, parts, real: None }
    }

    /// The same cache, which keeps `tokens` more tokens than a sliding window needs. [truncate](Self::truncate) can
    /// then remove at least this number of tokens, such as drafts of speculative decoding. Default: 0. With
    /// `usize::MAX` the cache keeps all tokens.
    pub fn with_spare(self, tokens: usize) -> Self {
        Self { spare: tokens, ..self }
    }

    /// Appends the keys and values of the next tokens, which are not padding.
    ///
    /// # Shapes
    /// - keys: `[batch, kv_heads, tokens, head_dim]`
    /// - values: `[batch, kv_heads, tokens, value_dim]`
    ///
    /// # Errors
    /// If there is no token, the values do not fit the keys, the keys or the values do not fit the cached ones in their
    /// type or in a dimension other than the tokens, or the memory cannot hold them. An error does not change the
    /// cache.
    pub fn append(&mut self, keys: Tensor<B, 4>, values: Tensor<B, 4>) -> Result<(), AttentionError> {
        self.take_in(keys, values, None).map(drop)
    }

    /// The same for tokens that may be padding. `real` has an entry for each sequence of the batch. The result is what
    /// [undo](Self::undo) needs to remove the tokens again.
    ///
    /// # Errors
    /// As [append](Self::append).
    pub(super) fn take_in(
        &mut self,
        keys: Tensor<B, 4>,
        values: Tensor<B, 4>,
        real: Option<&UnpaddedTokens>,
    ) -> Result<Undo<B>, AttentionError> {
        self.validate(&keys, &values)?;
        let [batch, _, tokens, _] = keys.dims();
        let mut undo = Undo { length: self.len(), was_unused: self.is_unused(), together: None };
        let all;
        let real = match (real.filter(|real| !real.are_all()), &self.real) {
            (None, None) => {
                self.parts[0].append(keys, values);
                return Ok(undo);
            }
            (Some(real), _) => real,
            (None, Some(_)) => {
                all = UnpaddedTokens::all(batch, tokens);
                &all
            }
        };
        if self.real.is_none() {
            undo.together = Some(self.separate(batch));
        }
        for (row, part) in self.parts.iter_mut().enumerate().filter(|(row, _)| real.count(*row) > 0) {
            let of_row = |tensor: &Tensor<B, 4>| pick(tensor.clone().slice_dim(0, row..row + 1), 2, real.row(row));
            part.append(of_row(&keys), of_row(&values));
        }
        if let Some(known) = &mut self.real {
            known.extend(real);
        }
        Ok(undo)
    }

    /// Restores the cache to its content before tokens were taken in.
    pub(super) fn undo(&mut self, undo: Undo<B>) {
        if let Some(parts) = undo.together {
            (self.parts, self.real) = (parts, None);
        }
        self.cut(undo.length);
        if undo.was_unused {
            let Self { seed, capacity, .. } = *self;
            self.parts.iter_mut().for_each(|part| *part = Part::new(seed, capacity));
        }
    }

    /// The keys of all tokens, as a view of the buffer. With a sliding window, these are the keys from
    /// [start](Self::start) on. `None` if there are none, or if the sequences are [apart](Self::is_apart).
    ///
    /// # Shapes
    /// - output: `[batch, kv_heads, len, head_dim]`
    pub fn keys(&self) -> Option<Tensor<B, 4>> {
        self.together()?.keys.all()
    }

    /// The values of all tokens, as [keys](Self::keys).
    ///
    /// # Shapes
    /// - output: `[batch, kv_heads, len, value_dim]`
    pub fn values(&self) -> Option<Tensor<B, 4>> {
        self.together()?.values.all()
    }

    /// The position of the first cached token. It is 0, unless tokens before a sliding window were given up. If
    /// sequences are [apart](Self::is_apart), it is the smallest position among them.
    pub fn start(&self) -> usize {
        self.parts.iter().map(|part| part.keys.start()).min().unwrap_or(0)
    }

    /// Whether each sequence has its own buffer, because some tokens were padding.
    pub fn is_apart(&self) -> bool {
        self.real.is_some()
    }

    /// The keys and values of one sequence of a batch that is [apart](Self::is_apart), without padding. `None` if there
    /// are none.
    ///
    /// # Shapes
    /// - outputs: `[1, kv_heads, real tokens, head_dim]` and `[1, kv_heads, real tokens, value_dim]`
    pub fn sequence(&self, sequence: usize) -> Option<(Tensor<B, 4>, Tensor<B, 4>)> {
        let part = self.parts.get(sequence).filter(|_| self.is_apart())?;
        Some((part.keys.all()?, part.values.all()?))
    }

    /// How many tokens of each sequence were appended. This includes padding and tokens that were given up.
    pub fn len(&self) -> usize {
        self.real.as_ref().map_or(self.parts[0].keys.len(), UnpaddedTokens::columns)
    }

    /// How many tokens of a sequence are real. This is the position of its next token.
    pub fn real_len(&self, sequence: usize) -> usize {
        match &self.real {
            Some(real) if sequence < real.batch() => real.count(sequence),
            Some(_) => 0,
            None => self.len(),
        }
    }

    /// Whether no token is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tokens the buffers hold without growing. If sequences are [apart](Self::is_apart), this is the capacity
    /// of the largest buffer.
    pub fn capacity(&self) -> usize {
        self.parts.iter().map(|part| part.keys.capacity()).max().unwrap_or(self.capacity)
    }

    /// Removes all tokens but the first `length` from the buffers and from the [state](Self::state). The buffers keep
    /// their capacity. If there are at most `length` tokens, nothing changes.
    ///
    /// # Errors
    /// If tokens before a sliding window were given up that the query at position `length` needs. The error names the
    /// smallest possible length. An error does not change the cache.
    pub fn truncate(&mut self, length: usize) -> Result<(), AttentionError> {
        if length >= self.len() {
            return Ok(());
        }
        let earliest = self.earliest();
        if length < earliest {
            return Err(AttentionError::GivenUp { length, earliest });
        }
        self.cut(length);
        Ok(())
    }

    /// Makes sequence `i` of the batch what sequence `indices[i]` was, in the buffers and in the [state](Self::state), for
    /// the beams of a search. An index may be there more than once or not at all, and the batch may become larger or
    /// smaller. The keys and values are copied, unless the sequences are [apart](Self::is_apart): buffers are then shared
    /// as by a [fork](#forks). The cache gives what it would give had the sequences been in this order from the start.
    ///
    /// A cache that never held a token has no number of sequences yet, and stays as it is.
    ///
    /// # Errors
    /// If there is no index, one is not below the number of sequences, or the memory cannot hold so many sequences. The
    /// cache is then as before.
    pub fn reorder(&mut self, indices: &[usize]) -> Result<(), AttentionError> {
        self.check_reorder(indices)?;
        if self.sequences().is_none_or(|batch| indices.iter().copied().eq(0..batch)) {
            return Ok(());
        }
        match &mut self.real {
            Some(real) => {
                real.reorder(indices);
                self.parts = indices.iter().map(|&index| self.parts[index].clone()).collect();
                Ok(())
            }
            None => self.parts[0].reorder(indices),
        }
    }

    /// Checks that the cache can be [reordered](Self::reorder).
    ///
    /// # Errors
    /// As [reorder](Self::reorder).
    pub(crate) fn check_reorder(&self, indices: &[usize]) -> Result<(), AttentionError> {
        check_indices(indices, self.sequences().unwrap_or(usize::MAX))?;
        if self.is_apart() {
            return Ok(());
        }
        let Part { keys, values, .. } = &self.parts[0];
        keys.check_reorder("keys", indices.len())?;
        values.check_reorder("values", indices.len())
    }

    /// The number of sequences for which there are buffers, once it is known.
    fn sequences(&self) -> Option<usize> {
        match &self.real {
            Some(real) => Some(real.batch()),
            None => self.parts[0].keys.buffer().map(|buffer| buffer.dims()[0]),
        }
    }

    /// The smallest length to which the cache can be [truncated](Self::truncate).
    fn earliest(&self) -> usize {
        let can = |length: usize| {
            self.parts.iter().enumerate().all(|(row, part)| match part.keys.start() {
                0 => true,
                start => {
                    let real = self.real.as_ref().map_or(length, |real| real.count_before(row, length));
                    real >= start + self.reach.unwrap_or(0)
                }
            })
        };
        // If a length is possible, every longer one is possible too.
        let (mut impossible, mut possible) = (0, self.len());
        if can(0) {
            return 0;
        }
        while possible - impossible > 1 {
            let middle = impossible + (possible - impossible) / 2;
            match can(middle) {
                true => possible = middle,
                false => impossible = middle,
            }
        }
        possible
    }

    fn cut(&mut self, length: usize) {
        for (row, part) in self.parts.iter_mut().enumerate() {
            let real = self.real.as_ref().map_or(length, |real| real.count_before(row, length));
            part.truncate(real);
        }
        if let Some(real) = &mut self.real {
            real.truncate(length);
        }
    }

    /// Gives up the tokens that later queries do not need. They need the window and the `before` keys before it. More
    /// tokens may be kept, and kept tokens may be hidden.
    pub(super) fn give_up_before_window(&mut self, window: usize, before: usize) {
        let reach = (window - 1).saturating_add(before);
        self.reach = Some(reach);
        for part in &mut self.parts {
            part.keep_last(reach.saturating_add(self.spare));
        }
    }

    /// Removes all tokens and keeps the capacity, for another batch of the same size. The state draws from its seed
    /// again.
    pub fn reset(&mut self) {
        if self.real.take().is_some() {
            self.parts = vec![Part::new(self.seed, self.capacity)];
        }
        self.parts.iter_mut().for_each(Part::clear);
        self.reach = None;
    }

    /// What the maskers of the layer remember of the cached keys. If sequences are [apart](Self::is_apart), this is the
    /// state of the first sequence.
    pub fn state(&self) -> &LayerState {
        &self.parts[0].state
    }

    /// The [state](Self::state), for a call of the maskers.
    pub fn state_mut(&mut self) -> &mut LayerState {
        &mut self.parts[0].state
    }

    /// Which tokens are real. `None` if there was no padding so far.
    pub(super) fn real(&self) -> Option<&UnpaddedTokens> {
        self.real.as_ref()
    }

    /// The number of sequences, once it is known.
    pub(super) fn batch(&self) -> Option<usize> {
        match &self.real {
            Some(real) => Some(real.batch()),
            None => self.parts[0].keys.buffer().filter(|_| !self.is_empty()).map(|buffer| buffer.dims()[0]),
        }
    }

    /// The keys, values and state of a part: part 0 if the sequences are together, or the part of a sequence. `None` if
    /// the part has no keys.
    pub(super) fn cached(&mut self, part: usize) -> Option<Cached<'_, B>> {
        let part = &mut self.parts[part];
        let (keys, values, start) = (part.keys.all()?, part.values.all()?, part.keys.start());
        Some(Cached { keys, values, start, state: part.state_of_kept() })
    }

    fn together(&self) -> Option<&Part<B>> {
        self.parts.first().filter(|_| !self.is_apart())
    }

    /// Whether no token was ever appended.
    fn is_unused(&self) -> bool {
        self.parts.iter().all(|part| part.keys.buffer().is_none())
    }

    /// Gives each sequence its own part, and returns the old parts. The state of the maskers belongs to all sequences
    /// together, so the new parts start with an empty state, and the maskers compute it again from the keys.
    fn separate(&mut self, batch: usize) -> Vec<Part<B>> {
        let whole = &self.parts[0];
        let parts = (0..batch).map(|row| whole.of_sequence(row, self.seed, self.capacity)).collect();
        self.real = Some(UnpaddedTokens::all(batch, self.len()));
        std::mem::replace(&mut self.parts, parts)
    }

    fn validate(&self, keys: &Tensor<B, 4>, values: &Tensor<B, 4>) -> Result<(), AttentionError> {
        check_tokens(keys, values)?;
        let batch = self.real.as_ref().map(UnpaddedTokens::batch);
        self.parts.iter().try_for_each(|part| part.check_append(keys, values, batch))
    }
}

impl<B: Backend> fmt::Debug for KvCache<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache")
            .field("len", &self.len())
            .field("start", &self.start())
            .field("capacity", &self.capacity())
            .field("apart", &self.is_apart())
            .field("state", self.state())
            .finish()
    }
}
