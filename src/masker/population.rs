//! The keys of a row that may be drawn, and uniform draws from them. The keys are stored as runs, not one by one.

use std::ops::Range;

use rand::{Rng, RngExt};

use crate::problem::RowKeys;

/// The keys of a row that may be drawn, as runs of neighbouring keys. The rank of a key is its index among these keys.
#[derive(Debug)]
pub(crate) struct Population {
    runs: Vec<Run>,
    size: usize,
}

/// A run of neighbouring keys.
#[derive(Debug, Clone, Copy)]
struct Run {
    first_key: u32,
    /// The rank of the first key.
    rank: u32,
}

impl Population {
    /// The keys of a range that a row sees and that are not kept. `kept` is in ascending order.
    pub fn of(row: &RowKeys, range: Range<usize>, kept: impl Iterator<Item = u32>) -> Self {
        let mut population = Self { runs: Vec::new(), size: 0 };
        match row {
            RowKeys::Range(seen) => {
                let end = seen.end.min(range.end);
                let mut start = seen.start.max(range.start);
                let first = start;
                for key in kept.map(|key| key as usize).skip_while(|key| *key < first).take_while(|key| *key < end) {
                    population.add(start..key);
                    start = key + 1;
                }
                population.add(start..end);
            }
            RowKeys::Hidden(hidden) => {
                let mut kept = kept.map(|key| key as usize).peekable();
                let mut start = range.start;
                for key in range.clone() {
                    while kept.next_if(|kept| *kept < key).is_some() {}
                    if hidden[key] || kept.peek() == Some(&key) {
                        population.add(start..key);
                        start = key + 1;
                    }
                }
                population.add(start..range.end);
            }
        }
        population
    }

    fn add(&mut self, run: Range<usize>) {
        if !run.is_empty() {
            self.runs.push(Run { first_key: run.start as u32, rank: self.size as u32 });
            self.size += run.len();
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.size
    }

    /// The key of a rank below [len](Self::len).
    pub fn key(&self, rank: usize) -> u32 {
        let rank = rank as u32;
        let Run { first_key, rank: first } = self.runs[self.runs.partition_point(|run| run.rank <= rank) - 1];
        first_key + (rank - first)
    }

    /// The keys of some ranks, which must be in ascending order.
    fn keys(&self, ranks: impl Iterator<Item = usize>) -> Vec<u32> {
        let mut run = 0;
        ranks
            .map(|rank| {
                while self.runs.get(run + 1).is_some_and(|next| next.rank as usize <= rank) {
                    run += 1;
                }
                self.runs[run].first_key + (rank as u32 - self.runs[run].rank)
            })
            .collect()
    }

    /// All keys, in ascending order.
    pub fn all(&self) -> Vec<u32> {
        self.keys(0..self.size)
    }
}

/// A uniform sample without replacement that can be extended: a larger sample holds the smaller one.
#[derive(Debug)]
pub(crate) struct Sample<'a> {
    population: &'a Population,
    /// One bit for each rank, set if the rank was drawn.
    drawn: Vec<u64>,
    size: usize,
}

impl<'a> Sample<'a> {
    /// An empty sample.
    pub fn from(population: &'a Population) -> Self {
        Self { population, drawn: vec![0; population.len().div_ceil(64)], size: 0 }
    }

    /// Draws until the sample has `size` keys, or all keys if the population is smaller.
    pub fn extend_to(&mut self, size: usize, rng: &mut impl Rng) {
        let count = self.population.len();
        let size = size.min(count);
        // A rank that was already drawn is rejected. At most half of the population is drawn this way, so rejections
        // are rare enough.
        while self.size < size.min(count / 2) {
            let rank = rng.random_range(0..count);
            if !self.is_drawn(rank) {
                self.draw(rank);
            }
        }
        if self.size < size {
            let mut left = (0..count).filter(|&rank| !self.is_drawn(rank)).collect::<Vec<_>>();
            // A Fisher-Yates shuffle, stopped early.
            for at in 0..size - self.size {
                let other = rng.random_range(at..left.len());
                left.swap(at, other);
                self.draw(left[at]);
            }
        }
    }

    fn is_drawn(&self, rank: usize) -> bool {
        self.drawn[rank / 64] >> (rank % 64) & 1 == 1
    }

    fn draw(&mut self, rank: usize) {
        self.drawn[rank / 64] |= 1 << (rank % 64);
        self.size += 1;
    }

    /// The drawn keys, in ascending order.
    pub fn keys(&self) -> Vec<u32> {
        let ranks = self.drawn.iter().enumerate().flat_map(|(word, &bits)| {
            let mut left = bits;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(word * 64 + bit)
            })
        });
        self.population.keys(ranks)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;

    fn population(row: &RowKeys, range: Range<usize>, kept: &[u32]) -> Population {
        Population::of(row, range, kept.iter().copied())
    }

    #[test]
    fn it_is_what_is_seen_and_not_kept() {
        let hidden = (0..20).map(|key| !(2..17).contains(&key)).collect::<Vec<_>>();
        for row in [RowKeys::Range(2..17), RowKeys::Hidden(&hidden)] {
            for (range, kept) in
                [(0..20, vec![]), (0..20, vec![0, 2, 5, 6, 16, 19]), (4..9, vec![3, 4, 8]), (9..9, vec![9])]
            {
                let found = population(&row, range.clone(), &kept);
                let is_open =
                    |key: &u32| (2..17).contains(key) && range.contains(&(*key as usize)) && !kept.contains(key);
                let wanted = (0..20).filter(is_open).collect::<Vec<_>>();
                assert_eq!(found.all(), wanted, "{row:?} {range:?} {kept:?}");
                assert_eq!((0..found.len()).map(|rank| found.key(rank)).collect::<Vec<_>>(), wanted);
            }
        }
    }

    #[test]
    fn larger_samples_hold_smaller_ones_and_every_key_is_drawn_alike() {
        let population = population(&RowKeys::Range(0..23), 0..23, &[4, 5]);
        let runs = 6000;
        for (first, then) in [(3, 8), (8, 19), (19, 21)] {
            let mut hits = [0usize; 23];
            for seed in 0..runs {
                let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
                let mut sample = Sample::from(&population);
                sample.extend_to(first, &mut rng);
                let small = sample.keys();
                sample.extend_to(then, &mut rng);
                let large = sample.keys();
                assert_eq!((small.len(), large.len()), (first, then));
                assert!(large.is_sorted() && small.iter().all(|key| large.contains(key)));
                large.into_iter().for_each(|key| hits[key as usize] += 1);
            }
            let share = then as f64 / 21.0;
            let limit = 4.5 * (runs as f64 * share * (1.0 - share)).sqrt();
            for (key, &hits) in hits.iter().enumerate().filter(|(key, _)| ![4, 5].contains(key)) {
                assert!((hits as f64 - runs as f64 * share).abs() <= limit, "key {key}: {hits} of {runs} at {share}");
            }
        }
    }
}
