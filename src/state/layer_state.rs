use std::{any::TypeId, collections::HashMap, fmt};

use burn::tensor::backend::Backend;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{KeyMemory, SamplingReport, memory::Memory};
use crate::problem::{AttentionError, AttentionInputs, Phase};

/// What a method keeps between the calls of one layer: the seed of its random numbers, and what its parts remember of
/// the keys.
///
/// One state belongs to one layer of one sequence (or of one batch of sequences), and is [cleared](Self::clear) and
/// [cut back](Self::truncate) with the KV cache. What is drawn for a query depends on the seed, the layer, the head and
/// the position of the query alone: not on how a prompt is cut into calls, and not on the row of the batch. Another draw
/// for the same query takes another seed.
///
/// A clone has a copy of all memories. Both states then go on independently, and both draw from the same seed.
#[derive(Default, Clone)]
pub struct LayerState {
    seed: u64,
    layer: usize,
    place: usize,
    /// The phase whose memory is in use, if the phases of the method have separate memories.
    phase: Option<Phase>,
    sequence: Option<Sequence>,
    memories: HashMap<(Option<Phase>, usize, TypeId), Memory>,
    sampling: Option<SamplingReport>,
    calls: Calls,
}

/// The calls of a [function](crate::nn::sparse_attention) that has no cache of its own.
#[derive(Debug, Clone, Copy, Default)]
struct Calls {
    /// The number of keys in the last call.
    keys: usize,
    /// The phase of the next calls, if it was set.
    phase: Option<Phase>,
}

/// The lengths of the inputs that a state has seen.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    /// Each with its name and its value.
    fixed: [(&'static str, usize); 5],
    keys: usize,
}

/// The place of the number of sequences among the fixed lengths.
const BATCH: usize = 0;

/// Checks the indices of sequences, of which there are `batch`.
///
/// # Errors
/// If there is no index, or one is too large.
pub(crate) fn check_indices(indices: &[usize], batch: usize) -> Result<(), AttentionError> {
    if indices.is_empty() {
        let allowed = "at least one index of a sequence";
        return Err(AttentionError::Value { field: "indices", value: "[]".to_owned(), allowed });
    }
    match indices.iter().enumerate().find(|(_, index)| **index >= batch) {
        Some((place, &found)) => Err(AttentionError::NoSequence { place, found, batch }),
        None => Ok(()),
    }
}

impl LayerState {
    /// The state before the first call.
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// The state of another layer of the model than layer 0, for [functions](crate::nn::sparse_attention) that take the
    /// layer from here. Layers that know their index themselves do not ask.
    pub fn with_layer(mut self, layer: usize) -> Self {
        self.layer = layer;
        self
    }

    /// The index of the layer, 0 unless it was [given](Self::with_layer).
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Sets the phase of the next calls of [functions](crate::nn::sparse_attention) that take the phase from the state. With
    /// `None`, the default, the first call is a prefill. A later call is decoding if it has one query, and a prefill if it
    /// has more. [clear](Self::clear) sets it back to `None`. Layers do not use this phase: they have their own rule.
    pub fn set_phase(&mut self, phase: Option<Phase>) {
        self.calls.phase = phase;
    }

    /// The phase of the next call of a function with a number of queries.
    pub(crate) fn phase_of_call(&self, queries: usize) -> Phase {
        self.calls.phase.unwrap_or_else(|| Phase::of_call(self.calls.keys == 0, queries))
    }

    /// Records that a call of a function has succeeded.
    pub(crate) fn call_is_done(&mut self, keys: usize) {
        self.calls.keys = keys;
    }

    /// Takes the inputs of the next call as those of the same sequence: at least as many keys as before, and every other
    /// length as before.
    ///
    /// # Errors
    /// If they are not; the error says which length differs. The state is then as it was.
    pub fn continue_with<B: Backend>(&mut self, inputs: &AttentionInputs<B>) -> Result<(), AttentionError> {
        let shape = inputs.mask_shape();
        let ([.., head_dim], [_, kv_heads, keys, value_dim]) = (inputs.keys().dims(), inputs.values().dims());
        let fixed = [
            ("batch", shape.batch),
            ("heads", shape.heads),
            ("kv_heads", kv_heads),
            ("head_dim", head_dim),
            ("value_dim", value_dim),
        ];
        if let Some(seen) = &self.sequence {
            let differs = seen.fixed.into_iter().zip(fixed).find(|(seen, now)| seen.1 != now.1);
            if let Some(((length, seen), (_, found))) = differs {
                return Err(AttentionError::AnotherSequence { length, found, seen });
            }
            if keys < seen.keys {
                return Err(AttentionError::AnotherSequence { length: "keys", found: keys, seen: seen.keys });
            }
        }
        self.sequence = Some(Sequence { fixed, keys });
        Ok(())
    }

    /// Randomness for what a masker draws for each row of some inputs. Different for every masker of a chain.
    pub fn randomness<B: Backend>(&self, inputs: &AttentionInputs<B>) -> Randomness {
        self.randomness_for(Use::Selection(self.place), inputs)
    }

    /// Randomness for the dropout of the weights of some inputs. Unlike a masker's, it differs between the sequences of
    /// a batch.
    pub(crate) fn dropout_randomness<B: Backend>(&self, inputs: &AttentionInputs<B>) -> Randomness {
        Randomness { sequences_differ: true, ..self.randomness_for(Use::Dropout, inputs) }
    }

    fn randomness_for<B: Backend>(&self, purpose: Use, inputs: &AttentionInputs<B>) -> Randomness {
        let shape = inputs.mask_shape();
        let key = self.key(purpose, inputs.layer());
        Randomness {
            key,
            heads: shape.heads,
            queries: shape.queries,
            first_position: inputs.offset(),
            sequences_differ: false,
        }
    }

    /// Random numbers for what a layer draws once and keeps: projections, first centroids. Different for every masker of
    /// a chain and every `part` of what it draws.
    pub fn fixed_randomness(&self, layer: usize, part: u64) -> impl Rng + Clone + use<> {
        Xoshiro256PlusPlus::seed_from_u64(mix(self.key(Use::Fixed(self.place), layer), part))
    }

    fn key(&self, purpose: Use, layer: usize) -> u64 {
        let (kind, place) = match purpose {
            Use::Selection(place) => (0, place),
            Use::Fixed(place) => (1, place),
            Use::Dropout => (2, 0),
        };
        mix(mix(mix(self.seed, layer as u64), kind), place as u64)
    }

    /// What the masker at work has remembered under a type of its own: its default at first, and then what earlier calls
    /// left in it. [Self::truncate] forgets it.
    pub fn memory<T: Clone + Default + Send + 'static>(&mut self) -> &mut T {
        self.remembered(Memory::of::<T>)
    }

    /// The same for what is remembered of keys one by one, which [Self::truncate] cuts back instead.
    pub fn key_memory<T: KeyMemory>(&mut self) -> &mut T {
        self.remembered(Memory::of_keys::<T>)
    }

    fn remembered<T: Clone + Default + Send + 'static>(&mut self, new: fn() -> Memory) -> &mut T {
        let place = (self.phase, self.place, TypeId::of::<T>());
        match self.memories.entry(place).or_insert_with(new).content() {
            Some(memory) => memory,
            None => unreachable!("a memory is only ever stored under the identity of its own type"),
        }
    }

    /// Forgets all but the first `keys`: what maskers do next is what they would do had the others never been there.
    pub fn truncate(&mut self, keys: usize) {
        self.calls.keys = self.calls.keys.min(keys);
        if let Some(sequence) = &mut self.sequence {
            sequence.keys = sequence.keys.min(keys);
        }
        self.memories.retain(|_, memory| memory.truncate(keys));
    }

    /// Makes sequence `i` of the batch what sequence `indices[i]` was, for the beams of a search. An index may be there
    /// more than once or not at all, and the batch may become larger or smaller. What maskers do next is what they would
    /// do had the sequences been in this order from the start. Memories that are not [of keys](Self::key_memory) are
    /// forgotten. A state that has seen no inputs stays as it is.
    ///
    /// # Errors
    /// If there is no index, or one is not below the number of sequences. The state is then as before.
    pub fn reorder(&mut self, indices: &[usize]) -> Result<(), AttentionError> {
        let Some(sequence) = &mut self.sequence else { return check_indices(indices, usize::MAX) };
        let (_, batch) = &mut sequence.fixed[BATCH];
        check_indices(indices, *batch)?;
        let before = std::mem::replace(batch, indices.len());
        self.memories.retain(|_, memory| memory.reorder(indices, before));
        Ok(())
    }

    /// Takes the first keys as gone: those of the next call are counted from the one after them. For methods that
    /// remember nothing of the keys.
    pub(crate) fn give_up_first(&mut self, keys: usize) {
        if let Some(sequence) = &mut self.sequence {
            sequence.keys = sequence.keys.saturating_sub(keys);
        }
    }

    /// What the sampler of the last call says of what it drew; `None` if there was none that does, or nothing was left to
    /// draw from. [VerifiedSampling](crate::masker::VerifiedSampling) does.
    pub fn sampling_report(&self) -> Option<&SamplingReport> {
        self.sampling.as_ref()
    }

    pub(crate) fn set_sampling_report(&mut self, report: Option<SamplingReport>) {
        self.sampling = report;
    }

    /// Back to the state before the first call, for another sequence.
    pub fn clear(&mut self) {
        *self = Self::new(self.seed).with_layer(self.layer);
    }

    /// Lets a part of a masker work, so that it remembers apart from the masker's other parts of the same type.
    pub(crate) fn part<T>(&mut self, part: usize, work: impl FnOnce(&mut Self) -> T) -> T {
        let whole = self.place;
        self.place = (whole + 1) << 8 | part;
        let result = work(self);
        self.place = whole;
        result
    }

    /// Runs the maskers of a phase with a memory that is separate from that of the other phase. Random numbers do not depend
    /// on the phase, since no query belongs to both.
    pub(crate) fn in_phase<T>(&mut self, phase: Option<Phase>, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.phase;
        self.phase = phase.or(before);
        let result = work(self);
        self.phase = before;
        result
    }

    /// Says which masker of a chain is at work, so that two of the same type remember apart.
    pub(crate) fn enter(&mut self, place: usize) {
        self.place = place;
    }
}

impl fmt::Debug for LayerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerState")
            .field("seed", &self.seed)
            .field("sequence", &self.sequence)
            .field("memories", &self.memories.len())
            .finish()
    }
}

/// What random numbers are for.
enum Use {
    /// What the masker at a place draws for each row.
    Selection(usize),
    /// What the masker at a place draws once.
    Fixed(usize),
    /// Which weights dropout drops.
    Dropout,
}

/// Random numbers for the rows of some inputs, with an independent stream for every head and position.
#[derive(Debug, Clone, Copy)]
pub struct Randomness {
    key: u64,
    heads: usize,
    queries: usize,
    first_position: isize,
    sequences_differ: bool,
}

impl Randomness {
    /// The stream of a row, counted over batch, heads and queries: rows can be worked in any order. What a masker draws
    /// for rows of the same head and position in different sequences of a batch has the same stream, as it has where each
    /// sequence is worked alone.
    pub fn row(&self, row: usize) -> impl Rng + use<> {
        let head = row / self.queries % self.heads;
        let position = self.first_position + (row % self.queries) as isize;
        let sequence = if self.sequences_differ { row / self.queries / self.heads } else { 0 };
        Xoshiro256PlusPlus::seed_from_u64(mix(mix(mix(self.key, sequence as u64), head as u64), position as u64))
    }
}

/// A number that depends on both in every bit.
pub(crate) fn mix(key: u64, value: u64) -> u64 {
    Xoshiro256PlusPlus::seed_from_u64(key).next_u64() ^ Xoshiro256PlusPlus::seed_from_u64(!value).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    type B = crate::backend::Selected;

    #[derive(Clone, Default)]
    struct Keys(Vec<u32>);

    impl KeyMemory for Keys {
        fn truncate(&mut self, keys: usize) {
            self.0.truncate(keys);
        }
    }

    fn inputs([batch, heads, queries, keys]: [usize; 4], layer: usize) -> AttentionInputs<B> {
        let device = Default::default();
        let tensor = |length| burn::tensor::Tensor::ones([batch, heads, length, 2], &device);
        let inputs = AttentionInputs::new(tensor(queries), tensor(keys), tensor(keys));
        inputs.expect("the shapes agree").causal().expect("no more queries than keys").with_layer(layer)
    }

    #[test]
    fn seeds_layers_maskers_heads_and_positions_do_not_repeat_each_other() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..6 {
            for layer in 0..6 {
                let mut state = LayerState::new(seed);
                for place in 0..6 {
                    state.enter(place);
                    let randomness = state.randomness(&inputs([1, 2, 3, 5], layer));
                    seen.extend((0..6).map(|row| randomness.row(row).next_u64()));
                    seen.insert(state.fixed_randomness(layer, 0).next_u64());
                }
                seen.insert(state.dropout_randomness(&inputs([1, 1, 1, 1], layer)).row(0).next_u64());
            }
        }
        assert_eq!(seen.len(), 36 * (6 * 7 + 1));
    }

    #[test]
    fn draws_depend_on_head_and_position_and_not_on_call_or_sequence() {
        let state = LayerState::new(3);
        let draw = |dims, row| state.randomness(&inputs(dims, 0)).row(row).next_u64();
        // Head 1 at position 4: in a prompt of five, in a chunk of two, in a step, in the second sequence of a batch.
        let prompt = draw([1, 2, 5, 5], 9);
        assert_eq!(draw([1, 2, 2, 5], 3), prompt);
        assert_eq!(draw([1, 2, 1, 5], 1), prompt);
        assert_eq!(draw([2, 2, 1, 5], 3), prompt);
        assert_ne!(draw([1, 2, 1, 6], 1), prompt);
        assert_ne!(draw([1, 2, 1, 5], 0), prompt);
        let dropout = |row| state.dropout_randomness(&inputs([2, 2, 1, 5], 0)).row(row).next_u64();
        assert_ne!(dropout(1), dropout(3));
    }

    #[test]
    fn another_sequence_is_refused_by_what_differs() {
        let mut state = LayerState::new(1);
        let mut go_on = |dims| state.continue_with(&inputs(dims, 0)).map_err(|error| error.to_string());
        assert_eq!(go_on([1, 2, 3, 5]), Ok(()));
        assert_eq!(go_on([1, 2, 1, 6]), Ok(()));
        assert!(go_on([2, 2, 1, 6]).unwrap_err().contains("batch"));
        assert!(go_on([1, 2, 1, 5]).unwrap_err().contains("keys"));
        assert_eq!(go_on([1, 2, 1, 6]), Ok(()));
        state.truncate(5);
        assert_eq!(state.continue_with(&inputs([1, 2, 1, 5], 0)), Ok(()));
        state.clear();
        assert_eq!(state.continue_with(&inputs([3, 1, 1, 1], 0)), Ok(()));
    }

    #[test]
    fn maskers_remember_apart() {
        let mut state = LayerState::new(1);
        state.memory::<Vec<u32>>().push(1);
        state.enter(1);
        assert!(state.memory::<Vec<u32>>().is_empty());
        state.memory::<Vec<u32>>().push(2);
        state.enter(0);
        assert_eq!(*state.memory::<Vec<u32>>(), [1]);
    }

    #[test]
    fn memories_of_keys_are_cut_back_and_others_forgotten() {
        let mut state = LayerState::new(1);
        state.memory::<Vec<u32>>().push(1);
        state.key_memory::<Keys>().0.extend([1, 2, 3]);
        state.truncate(2);
        assert!(state.memory::<Vec<u32>>().is_empty());
        assert_eq!(state.key_memory::<Keys>().0, [1, 2]);
        state.clear();
        assert!(state.key_memory::<Keys>().0.is_empty());
    }

    #[test]
    fn memories_of_keys_are_reordered_and_others_forgotten() {
        #[derive(Clone, Default)]
        struct Sequences(Vec<char>);
        impl KeyMemory for Sequences {
            fn truncate(&mut self, _keys: usize) {}
            fn reorder(&mut self, indices: &[usize], batch: usize) {
                assert_eq!(self.0.len(), batch);
                self.0 = indices.iter().map(|&index| self.0[index]).collect();
            }
        }
        let mut state = LayerState::new(1);
        assert_eq!(state.reorder(&[7]), Ok(()));
        assert_eq!(state.continue_with(&inputs([3, 2, 3, 5], 0)), Ok(()));
        state.memory::<Vec<u32>>().push(1);
        state.key_memory::<Keys>().0.extend([1, 2, 3]);
        state.key_memory::<Sequences>().0.extend(['a', 'b', 'c']);
        assert!(matches!(state.reorder(&[]), Err(AttentionError::Value { field: "indices", .. })));
        let error = AttentionError::NoSequence { place: 1, found: 3, batch: 3 };
        assert_eq!(error.to_string(), "`indices[1]` is 3, but must be below 3, the number of sequences that are there");
        assert_eq!(state.reorder(&[0, 3]), Err(error));
        assert_eq!(state.key_memory::<Keys>().0, [1, 2, 3]);
        assert_eq!(state.reorder(&[2, 0, 2, 2]), Ok(()));
        assert!(state.memory::<Vec<u32>>().is_empty() && state.key_memory::<Keys>().0.is_empty());
        assert_eq!(state.key_memory::<Sequences>().0, ['c', 'a', 'c', 'c']);
        assert!(state.continue_with(&inputs([3, 2, 1, 6], 0)).is_err());
        assert_eq!(state.continue_with(&inputs([4, 2, 1, 6], 0)), Ok(()));
        assert_eq!(state.reorder(&[1]), Ok(()));
        assert_eq!(state.key_memory::<Sequences>().0, ['a']);
    }

    #[test]
    fn a_clone_remembers_the_same_and_goes_on_independently() {
        let mut state = LayerState::new(1).with_layer(2);
        state.memory::<Vec<u32>>().push(1);
        state.key_memory::<Keys>().0.extend([1, 2, 3]);
        assert_eq!(state.continue_with(&inputs([1, 2, 3, 5], 2)), Ok(()));
        let mut fork = state.clone();
        assert_eq!((fork.layer(), &*fork.memory::<Vec<u32>>()), (2, &vec![1]));
        assert!(fork.continue_with(&inputs([1, 2, 1, 4], 2)).is_err());
        fork.key_memory::<Keys>().0.push(4);
        state.truncate(2);
        assert_eq!(fork.key_memory::<Keys>().0, [1, 2, 3, 4]);
        assert_eq!(state.key_memory::<Keys>().0, [1, 2]);
        fork.truncate(1);
        assert_eq!((fork.key_memory::<Keys>().0.len(), state.key_memory::<Keys>().0.len()), (1, 2));
    }
}
