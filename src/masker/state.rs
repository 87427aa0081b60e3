use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
};

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// What a method keeps between the calls of one layer: where its random numbers stand, and what its parts remember of
/// the keys.
///
/// One state belongs to one layer of one sequence, and is made anew with the KV cache. The same seed, layer and sequence
/// of calls give the same draws on every backend.
#[derive(Default)]
pub struct LayerState {
    seed: u64,
    draws: u64,
    place: usize,
    memories: HashMap<(usize, TypeId), Box<dyn Any + Send>>,
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
    /// left in it.
    pub fn memory<T: Default + Send + 'static>(&mut self) -> &mut T {
        let memory = self.memories.entry((self.place, TypeId::of::<T>())).or_insert_with(|| Box::<T>::default());
        match memory.downcast_mut() {
            Some(memory) => memory,
            None => unreachable!("a memory is only ever stored under the identity of its own type"),
        }
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
}
