use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
};

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::SamplingReport;

/// What a method keeps between the calls of one layer: where its random numbers stand, and what its parts remember of
/// the keys.
///
/// One state belongs to one layer of one sequence, and is [cleared](Self::clear) and [cut back](Self::truncate) with the
/// KV cache. The same seed, layer and sequence of calls give the same draws on every backend.
#[derive(Default)]
pub struct LayerState {
    seed: u64,
    draws: u64,
    place: usize,
    memories: HashMap<(usize, TypeId), Memory>,
    sampling: Option<SamplingReport>,
}

/// A memory of keys that can be cut back, see [LayerState::key_memory].
pub trait KeyMemory: Default + Send + 'static {
    /// Forgets all but the first `keys`, and whatever else came of the others. The memory may forget more, as long as it
    /// knows what to make anew when keys come next.
    fn truncate(&mut self, keys: usize);
}

struct Memory {
    content: Box<dyn Any + Send>,
    /// [KeyMemory::truncate] of its type, if it has one.
    truncate: Option<fn(&mut dyn Any, usize)>,
}

impl LayerState {
    /// The state before the first call.
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Randomness for one draw of a layer, different from that of all other draws and layers.
    pub fn randomness(&mut self, layer: usize) -> Randomness {
        self.draws += 1;
        Randomness { key: mix(mix(self.seed, layer as u64), self.draws) }
    }

    /// Randomness that is the same at every call of a layer, for what is drawn once and kept: projections, first
    /// centroids. Different for every masker of a chain.
    pub fn fixed_randomness(&self, layer: usize) -> Randomness {
        Randomness { key: mix(mix(!self.seed, layer as u64), self.place as u64) }
    }

    /// What the masker at work has remembered under a type of its own: its default at first, and then what earlier calls
    /// left in it. [Self::truncate] forgets it.
    pub fn memory<T: Default + Send + 'static>(&mut self) -> &mut T {
        self.remembered(None)
    }

    /// The same for what is remembered of keys one by one, which [Self::truncate] cuts back instead.
    pub fn key_memory<T: KeyMemory>(&mut self) -> &mut T {
        self.remembered(Some(|memory, keys| {
            if let Some(memory) = memory.downcast_mut::<T>() {
                memory.truncate(keys);
            }
        }))
    }

    fn remembered<T: Default + Send + 'static>(&mut self, truncate: Option<fn(&mut dyn Any, usize)>) -> &mut T {
        let place = (self.place, TypeId::of::<T>());
        let memory = self.memories.entry(place).or_insert_with(|| Memory { content: Box::<T>::default(), truncate });
        match memory.content.downcast_mut() {
            Some(memory) => memory,
            None => unreachable!("a memory is only ever stored under the identity of its own type"),
        }
    }

    /// Forgets all but the first `keys`: what maskers do next is what they would do had the others never been there.
    /// Random numbers go on where they stand.
    pub fn truncate(&mut self, keys: usize) {
        self.memories
            .retain(|_, memory| memory.truncate.map(|truncate| truncate(memory.content.as_mut(), keys)).is_some());
    }

    /// What the sampler of the last call says of what it drew; `None` if there was none that does, or nothing was left to
    /// draw from. [VerifiedSampling](super::VerifiedSampling) does.
    pub fn sampling_report(&self) -> Option<&SamplingReport> {
        self.sampling.as_ref()
    }

    pub(crate) fn set_sampling_report(&mut self, report: Option<SamplingReport>) {
        self.sampling = report;
    }

    /// Back to the state before the first call, for another sequence.
    pub fn clear(&mut self) {
        *self = Self::new(self.seed);
    }

    /// Lets a part of a masker work, so that it remembers apart from the masker's other parts of the same type.
    pub(crate) fn part<T>(&mut self, part: usize, work: impl FnOnce(&mut Self) -> T) -> T {
        let whole = self.place;
        self.place = (whole + 1) << 8 | part;
        let result = work(self);
        self.place = whole;
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
            .field("draws", &self.draws)
            .field("memories", &self.memories.len())
            .finish()
    }
}

/// Random numbers for one draw, with an independent stream for every row.
#[derive(Debug, Clone, Copy)]
pub struct Randomness {
    key: u64,
}

impl Randomness {
    /// The stream of a row, counted over batch, heads and queries: rows can be worked in any order.
    pub fn row(&self, row: usize) -> impl Rng + use<> {
        Xoshiro256PlusPlus::seed_from_u64(mix(self.key, row as u64))
    }
}

/// A number that depends on both in every bit.
pub(crate) fn mix(key: u64, value: u64) -> u64 {
    Xoshiro256PlusPlus::seed_from_u64(key).next_u64() ^ Xoshiro256PlusPlus::seed_from_u64(!value).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_layers_draws_and_rows_do_not_repeat_each_other() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..6 {
            for layer in 0..6 {
                let mut state = LayerState::new(seed);
                for _ in 0..6 {
                    let randomness = state.randomness(layer);
                    seen.extend((0..6).map(|row| randomness.row(row).next_u64()));
                }
            }
        }
        assert_eq!(seen.len(), 6usize.pow(4));
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
        #[derive(Default)]
        struct Keys(Vec<u32>);
        impl KeyMemory for Keys {
            fn truncate(&mut self, keys: usize) {
                self.0.truncate(keys);
            }
        }
        let mut state = LayerState::new(1);
        state.memory::<Vec<u32>>().push(1);
        state.key_memory::<Keys>().0.extend([1, 2, 3]);
        let before = state.randomness(0).row(0).next_u64();
        state.truncate(2);
        assert!(state.memory::<Vec<u32>>().is_empty());
        assert_eq!(state.key_memory::<Keys>().0, [1, 2]);
        assert_ne!(state.randomness(0).row(0).next_u64(), before);
        state.clear();
        assert!(state.key_memory::<Keys>().0.is_empty());
        assert_eq!(state.randomness(0).row(0).next_u64(), before);
    }
}
