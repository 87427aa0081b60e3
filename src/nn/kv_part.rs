use burn::tensor::{Tensor, backend::Backend};

use super::growable_tensor::GrowableTensor;
use crate::{problem::AttentionError, state::LayerState};

/// The keys and values of one sequence, or of all sequences of a batch without padding.
#[derive(Clone)]
pub(super) struct Part<B: Backend> {
    pub keys: GrowableTensor<B, 4>,
    pub values: GrowableTensor<B, 4>,
    pub state: LayerState,
    /// How many keys at the start are already given up in the state.
    given_up: usize,
}

impl<B: Backend> Part<B> {
    /// An empty part.
    pub fn new(seed: u64, capacity: usize) -> Self {
        let buffer = || GrowableTensor::along(2).with_capacity(capacity);
        Self { keys: buffer(), values: buffer(), state: LayerState::new(seed), given_up: 0 }
    }

    /// Appends tokens that [fit](Self::check_append).
    pub fn append(&mut self, keys: Tensor<B, 4>, values: Tensor<B, 4>) {
        self.keys.append(keys);
        self.values.append(values);
    }

    /// Removes all tokens and keeps the capacity.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.state.clear();
        self.given_up = 0;
    }

    /// Removes all but the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.keys.truncate(length);
        self.values.truncate(length);
        self.state.truncate(length.saturating_sub(self.given_up));
    }

    /// Makes each sequence what the sequence of an index was. The indices must have been checked.
    pub fn reorder(&mut self, indices: &[usize]) -> Result<(), AttentionError> {
        self.state.reorder(indices)?;
        self.keys.reorder(indices);
        self.values.reorder(indices);
        Ok(())
    }

    /// The state, which counts keys from the first [stored](GrowableTensor::start) key on.
    pub fn state_of_kept(&mut self) -> &mut LayerState {
        let start = self.keys.start();
        self.state.give_up_first(start.saturating_sub(self.given_up));
        self.given_up = start;
        &mut self.state
    }

    /// Gives up all but the last `count` tokens. Their memory is freed now or later.
    pub fn keep_last(&mut self, count: usize) {
        let needed = self.keys.len().saturating_sub(count);
        self.keys.give_up_before(needed);
        self.values.give_up_before(needed);
    }

    /// The part of one sequence of the batch. The state of the maskers belongs to all sequences together, so the new
    /// part has an empty state, and the maskers compute it again from the keys.
    pub fn of_sequence(&self, row: usize, seed: u64, capacity: usize) -> Self {
        let of_row = |whole: &GrowableTensor<B, 4>| {
            let mut part = GrowableTensor::along(2).with_capacity(capacity).starting_at(whole.start());
            if let Some(all) = whole.all() {
                part.append(all.slice_dim(0, row..row + 1));
            }
            part
        };
        let (keys, values) = (of_row(&self.keys), of_row(&self.values));
        Self { given_up: keys.start(), keys, values, state: LayerState::new(seed) }
    }

    /// Checks that tokens fit the cached ones. `batch` is the batch size of the tokens, if each part has one sequence.
    ///
    /// # Errors
    /// If they do not fit in shape or type, or the memory cannot hold them.
    pub fn check_append(
        &self,
        keys: &Tensor<B, 4>,
        values: &Tensor<B, 4>,
        batch: Option<usize>,
    ) -> Result<(), AttentionError> {
        validate("keys", &self.keys, keys, batch)?;
        validate("values", &self.values, values, batch)
    }
}

/// Checks that there are tokens, and that values fit the keys.
///
/// # Errors
/// If a dimension is 0, or the values do not fit the keys in shape or type.
pub(super) fn check_tokens<B: Backend>(keys: &Tensor<B, 4>, values: &Tensor<B, 4>) -> Result<(), AttentionError> {
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
    match keys.dtype() == values.dtype() {
        true => Ok(()),
        false => Err(AttentionError::FloatType {
            tensor: "values",
            found: values.dtype(),
            expected: keys.dtype(),
            others: "the keys",
        }),
    }
}

/// Checks that tokens fit the cached ones. `batch` is the batch size of the tokens, if each part has one sequence.
fn validate<B: Backend>(
    name: &'static str,
    cached: &GrowableTensor<B, 4>,
    tokens: &Tensor<B, 4>,
    batch: Option<usize>,
) -> Result<(), AttentionError> {
    let found = tokens.dims();
    let Some(buffer) = cached.buffer() else {
        return match batch.is_none_or(|batch| batch == found[0]) {
            true => cached.check_append(name, tokens),
            false => {
                let expected = format!("[{}, kv_heads, tokens, width], as in the cache", batch.unwrap_or(0));
                Err(AttentionError::Shape { tensor: name, found: found.to_vec(), expected })
            }
        };
    };
    let [in_buffer, kv_heads, _, width] = buffer.dims();
    let batch = batch.unwrap_or(in_buffer);
    if [found[0], found[1], found[3]] != [batch, kv_heads, width] {
        let expected = format!("[{batch}, {kv_heads}, tokens, {width}], as those in the cache");
        return Err(AttentionError::Shape { tensor: name, found: found.to_vec(), expected });
    }
    if tokens.dtype() != buffer.dtype() {
        return Err(AttentionError::FloatType {
            tensor: name,
            found: tokens.dtype(),
            expected: buffer.dtype(),
            others: "those in the cache",
        });
    }
    cached.check_append(name, tokens)
}
