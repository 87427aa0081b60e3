//! MagicPIG's memory of the keys: their signatures in the hash tables.

use crate::{
    scorer::{Fits, dot, pack, reorder, truncate},
    state::KeyMemory,
};

/// `M` is the length of the longest fitted key times this factor.
const HEADROOM: f32 = 1.5;

/// The directions and the hashed keys of a layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    /// `lsh_l * lsh_k` directions of `head_dim + 1` numbers, table after table.
    pub directions: Vec<f32>,
    pub fits: Fits<FittedTables>,
}

/// The hashed keys of each key-value head. Heads are counted over the batch.
#[derive(Debug, Clone, Default)]
pub(super) struct FittedTables {
    pub by_head: Vec<HeadTables>,
}

/// The hashed keys of one key-value head.
#[derive(Debug, Default, Clone)]
pub(super) struct HeadTables {
    mean: Vec<f32>,
    /// `M`.
    scale: f32,
    /// How many keys there were when `scale` was last set.
    scaled_at: usize,
    /// The centred keys divided by `scale`, each with the coordinate that completes it to length 1.
    pub keys: Vec<f32>,
    pub signatures: Vec<u64>,
    /// The keys that are longer than `M`, in ascending order.
    pub longer: Vec<u32>,
}

impl KeyMemory for Tables {
    fn truncate(&mut self, keys: usize) {
        self.fits.truncate(keys, |tables, known, keys| {
            for tables in &mut tables.by_head {
                truncate(&mut tables.keys, known, keys);
                truncate(&mut tables.signatures, known, keys);
                tables.longer.retain(|&key| (key as usize) < keys);
            }
            // If `M` comes from keys that are gone, the tables are fitted again.
            tables.by_head.iter().all(|tables| tables.scaled_at <= keys)
        });
    }

    fn reorder(&mut self, indices: &[usize], batch: usize) {
        self.fits.contents_mut().for_each(|tables| reorder(&mut tables.by_head, indices, batch));
    }
}

/// What happens to keys that are longer than `M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Longer {
    /// They stay out of the tables.
    StayOut,
    /// `M` grows.
    Raise,
}

impl HeadTables {
    /// Empty tables with a mean and an `M` that are fitted to the keys `0..to` of a head.
    pub fn fitted(keys: &[f32], to: usize, center: bool, width: usize) -> Self {
        let first = &keys[..to * width];
        let mean = if center { mean(first, width) } else { vec![0.0; width] };
        let mut tables = Self { mean, ..Self::default() };
        tables.scale = longest(&tables.centred(first), width) * HEADROOM;
        tables.scaled_at = to;
        tables
    }

    fn centred(&self, keys: &[f32]) -> Vec<f32> {
        let width = self.mean.len();
        keys.chunks(width).flat_map(|key| key.iter().zip(&self.mean).map(|(x, mean)| x - mean)).collect()
    }

    pub fn grow(&mut self, new: &[f32], directions: &[f32], bits: usize, longer: Longer) {
        let width = self.mean.len();
        let centred = self.centred(new);
        let longest = longest(&centred, width);
        let known = self.keys.chunks(width + 1).map(|key| &key[..width]);
        let keys = if longest > self.scale && longer == Longer::Raise {
            // The old keys get their own lengths back, so that all keys are divided by the same new scale.
            let old = known.flatten().map(|x| x * self.scale).collect::<Vec<_>>();
            self.scale = longest * HEADROOM;
            self.scaled_at = (old.len() + centred.len()) / width;
            self.keys.clear();
            self.signatures.clear();
            self.longer.clear();
            [old, centred].concat()
        } else {
            centred
        };
        // The scale is 0 if all keys are 0. The vectors then have the completing coordinate only.
        let scale = self.scale.max(f32::MIN_POSITIVE);
        for key in keys.chunks(width) {
            let start = self.keys.len();
            self.keys.extend(key.iter().map(|x| x / scale));
            let length = dot(&self.keys[start..], &self.keys[start..]);
            // A key with a NaN is not in the tables either.
            if length.is_nan() || length > 1.0 + LENGTH_ROUNDING {
                self.longer.push((start / (width + 1)) as u32);
            }
            self.keys.push((1.0 - length).max(0.0).sqrt());
            self.signatures.extend(sign(&self.keys[start..], directions, bits));
        }
    }
}

/// How far rounding may raise the squared length of a key of length `M` above 1.
const LENGTH_ROUNDING: f32 = 1e-5;

/// The length of the longest of some vectors.
fn longest(vectors: &[f32], width: usize) -> f32 {
    vectors.chunks(width).map(|vector| dot(vector, vector).sqrt()).fold(0.0, f32::max)
}

/// The signature of a vector. The bits of each table start at a new word.
pub(super) fn sign(vector: &[f32], directions: &[f32], bits: usize) -> Vec<u64> {
    let products = directions.chunks(vector.len()).map(|direction| dot(vector, direction)).collect::<Vec<_>>();
    products.chunks(bits).flat_map(pack).collect()
}

fn mean(vectors: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0f64; width];
    for vector in vectors.chunks(width) {
        sum.iter_mut().zip(vector).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let count = (vectors.len() / width).max(1) as f64;
    sum.into_iter().map(|sum| (sum / count) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_their_own_mean_are_not_lost() {
        let mut tables = HeadTables { mean: vec![0.5, -2.0], ..HeadTables::default() };
        let directions = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        tables.grow(&[0.5, -2.0], &directions, 2, Longer::Raise);
        assert_eq!(tables.keys, [0.0, 0.0, 1.0]);
        assert_eq!(tables.signatures, [0b10]);
        tables.grow(&[2.5, -2.0], &directions, 2, Longer::Raise);
        assert_eq!(tables.scale, 2.0 * HEADROOM);
        assert_eq!(tables.keys[..3], [0.0, 0.0, 1.0]);
        assert_eq!(tables.signatures, [0b10, 0b11]);
    }

    #[test]
    fn keys_that_are_longer_than_all_that_were_fitted_to_stay_out_of_the_tables() {
        let directions = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        let keys = [1.0, 0.0, 0.0, 2.0, 3.0, 0.0, 4.0, 0.0, f32::NAN, 0.0];
        let mut tables = HeadTables::fitted(&keys, 2, false, 2);
        assert_eq!(tables.scale, 2.0 * HEADROOM);
        tables.grow(&keys, &directions, 2, Longer::StayOut);
        assert_eq!(tables.scale, 2.0 * HEADROOM);
        assert_eq!(tables.longer, [3, 4]);
    }
}
