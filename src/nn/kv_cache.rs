use std::fmt;

use burn::tensor::{Tensor, backend::Backend};

use super::{
    kv_part::{Part, check_tokens},
    unpadded_tokens::{UnpaddedTokens, pick},
};
use crate::{
    attention::AttentionError,
    masker::{LayerState, check_indices},
};

/// The keys and values that a layer has seen, and what its [maskers](crate::masker) remember of them.
///
/// They lie in buffers that are longer than what is used and that double when they are full, so that a token is written
/// in its place and the past is not copied, neither to take it in nor to read it: [keys](Self::keys) and
/// [values](Self::values) are views. A view that is still held when the next token comes keeps what it shows, and costs a
/// copy of the buffer: drop it before. (Backends without [native kernels](crate::kernels::native_path) may copy all the
/// same; `Autodiff` does.)
///
/// One cache belongs to one layer, and to one batch of sequences. As long as no token is padding, the sequences lie
/// together in one buffer. From the first padded token on (see [GqaInput](super::GqaInput) and
/// [mask_pad](super::MhaInput::mask_pad)) each has a buffer and a state of its own, into which only its real tokens go: a
/// sequence is then worked as it would be alone, wherever the padding stands. [len](Self::len) and
/// [truncate](Self::truncate) count padding, so that they are the same for all sequences.
///
/// # Forks
/// A clone is a fork: both caches hold the same tokens and go on independently, as two caches do that were given the same
/// tokens. This answers many questions about one context, or keeps the beams of a search. The buffers are shared until
/// one of the caches takes in a token. That cache then copies its buffers once, with their reserved room, and both write
/// in place afterwards. What the maskers remember is copied by the clone itself.
///
/// # Sliding windows
/// A layer with a [sliding window](super::GroupedQueryAttentionConfig::sliding_window) whose method needs no key before
/// the window gives up the tokens that no later query can see. The cache is then as large as the window, positions stay
/// what they were, and [truncate](Self::truncate) cannot go back to before what was given up.
/// [with_spare](Self::with_spare) holds some more tokens for that. A method that looks at all keys (one that remembers
/// what it made of keys, draws, or has sizes that are fractions) keeps them all.
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
    /// How many tokens before the next one are needed to answer it, where not all are.
    reach: Option<usize>,
    /// One for all sequences, or one for each.
    parts: Vec<Part<B>>,
    /// Which tokens are real, where the sequences are apart.
    real: Option<UnpaddedTokens>,
}

/// What a layer attends to in one part of a cache.
pub(super) struct Cached<'a, B: Backend> {
    pub keys: Tensor<B, 4>,
    pub values: Tensor<B, 4>,
    /// The position of the first of the keys.
    pub start: usize,
    pub state: &'a mut LayerState,
}

/// How a cache becomes again what it was before tokens came.
pub(super) struct Undo<B: Backend> {
    length: usize,
    was_unused: bool,
    /// What it was made of, if the sequences were not apart yet.
    together: Option<Vec<Part<B>>>,
}

impl<B: Backend> KvCache<B> {
    /// An empty cache. The seed is that of the [state](Self::state).
    pub fn new(seed: u64) -> Self {
        Self::with_capacity(seed, 0)
    }

    /// An empty cache whose buffers, once the first tokens come, take so many without growing.
    ///
    /// Nothing is allocated before. A capacity that the memory cannot hold is an error of the first
    /// [append](Self::append).
    pub fn with_capacity(seed: u64, capacity: usize) -> Self {
        let parts = vec![Part::new(seed, capacity)];
        Self { seed, capacity, spare: 0, reach: None, parts, real: None }
    }

    /// The same cache that, in a layer with a sliding window, holds so many more tokens than the window needs:
    /// [truncate](Self::truncate) can take back at least that many, for drafts of speculative decoding. Default: 0.
    /// `usize::MAX` holds all tokens.
    pub fn with_spare(self, tokens: usize) -> Self {
        Self { spare: tokens, ..self }
    }

    /// Takes in the keys and values of the next tokens, none of which is padding.
    ///
    /// # Shapes
    /// - keys: `[batch, kv_heads, tokens, head_dim]`
    /// - values: `[batch, kv_heads, tokens, value_dim]`
    ///
    /// # Errors
    /// If there is no token, values do not fit the keys, either differs from what is cached in another length than that
    /// of the sequence, or in type, or the memory cannot hold them. The cache is then as before.
    pub fn append(&mut self, keys: Tensor<B, 4>, values: Tensor<B, 4>) -> Result<(), AttentionError> {
        self.take_in(keys, values, None).map(drop)
    }

    /// The same for tokens of which some may be padding, with the way back.
    ///
    /// # Errors
    /// As [append](Self::append), and if the batch of the padding is another.
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

    /// Makes the cache again what it was before tokens came: after an error, they are as if they had never been there.
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

    /// The keys of all tokens, a view of the buffer; `None` if there are none, or the sequences are
    /// [apart](Self::is_apart). Of a sliding window, those that are still [there](Self::start).
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

    /// The position of the first token that is there: 0, unless tokens before a sliding window were given up. Where
    /// sequences are [apart](Self::is_apart), of the sequence of which the least was given up.
    pub fn start(&self) -> usize {
        self.parts.iter().map(|part| part.keys.start()).min().unwrap_or(0)
    }

    /// Whether sequences lie apart, because some of their tokens were padding.
    pub fn is_apart(&self) -> bool {
        self.real.is_some()
    }

    /// The keys and values of one sequence of a batch that is [apart](Self::is_apart), without padding; `None` if there
    /// are none.
    ///
    /// # Shapes
    /// - outputs: `[1, kv_heads, real tokens, head_dim]` and `[1, kv_heads, real tokens, value_dim]`
    pub fn sequence(&self, sequence: usize) -> Option<(Tensor<B, 4>, Tensor<B, 4>)> {
        let part = self.parts.get(sequence).filter(|_| self.is_apart())?;
        Some((part.keys.all()?, part.values.all()?))
    }

    /// How many tokens of each sequence came, padding included.
    pub fn len(&self) -> usize {
        self.real.as_ref().map_or(self.parts[0].keys.len(), UnpaddedTokens::columns)
    }

    /// How many tokens of a sequence are real, which is the position of its next one.
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

    /// How many tokens the buffers take without growing; where sequences are [apart](Self::is_apart), the largest.
    pub fn capacity(&self) -> usize {
        self.parts.iter().map(|part| part.keys.capacity()).max().unwrap_or(self.capacity)
    }

    /// Forgets all tokens but the first `length`, in the buffers and in the [state](Self::state), as if they had never
    /// come. The buffers keep their capacity. Without effect if there are
    /// no more tokens than that.
    ///
    /// # Errors
    /// If tokens before a sliding window were given up that a query at that length would see; the error says how far
    /// back the cache can go. The cache is then as before.
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

    /// The least length to which the cache can go [back](Self::truncate).
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
        // What holds for a length holds for a longer one.
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

    /// Gives up the tokens that queries which come next cannot see, for a window and so many keys before it. More may be
    /// kept, and what is kept may be hidden.
    pub(super) fn give_up_before_window(&mut self, window: usize, before: usize) {
        let reach = (window - 1).saturating_add(before);
        self.reach = Some(reach);
        for part in &mut self.parts {
            part.keep_last(reach.saturating_add(self.spare));
        }
    }

    /// Forgets everything and keeps the capacity, for as many other sequences. The state draws again from its seed.
    pub fn reset(&mut self) {
        if self.real.take().is_some() {
            self.parts = vec![Part::new(self.seed, self.capacity)];
        }
        self.parts.iter_mut().for_each(Part::clear);
        self.reach = None;
    }

    /// What the layer's maskers remember of the cached keys; where sequences are [apart](Self::is_apart), of the first
    /// one.
    pub fn state(&self) -> &LayerState {
        &self.parts[0].state
    }

    /// The same for a call of the maskers.
    pub fn state_mut(&mut self) -> &mut LayerState {
        &mut self.parts[0].state
    }

    /// Which tokens are real; `None` as long as no padding came.
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

    /// What there is to attend to in the only part, or in that of a sequence; `None` if that is nothing.
    pub(super) fn cached(&mut self, part: usize) -> Option<Cached<'_, B>> {
        let part = &mut self.parts[part];
        let (keys, values, start) = (part.keys.all()?, part.values.all()?, part.keys.start());
        Some(Cached { keys, values, start, state: part.state_of_kept() })
    }

    fn together(&self) -> Option<&Part<B>> {
        self.parts.first().filter(|_| !self.is_apart())
    }

    /// Whether no token ever came.
    fn is_unused(&self) -> bool {
        self.parts.iter().all(|part| part.keys.buffer().is_none())
    }

    /// Gives each sequence a part of its own. What maskers remember is of all sequences together: they make it anew from
    /// the keys.
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
