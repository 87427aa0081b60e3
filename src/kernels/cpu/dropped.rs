//! The keys of a tile that some queries do not keep or see.
//!
//! The weight of such a key is 0. A finite value times 0 adds nothing, but NaN or infinity times 0 is NaN. So if a tile
//! holds numbers that are not finite, its dropped keys are left out of the sums. All other tiles go through the
//! ordinary products.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{
    products::{TILE, add_row},
    simd_float::SimdFloat,
};

/// For each query, one bit for each key of a tile. The bit is set if the query drops the key. The heads of a group drop
/// the same keys.
pub(crate) struct Dropped {
    bits: Vec<u16>,
    any: bool,
}

const _: () = assert!(TILE <= u16::BITS as usize, "a bit for each key");

impl Dropped {
    /// No key is dropped.
    pub fn nothing(queries: usize) -> Self {
        Self { bits: vec![0; queries], any: false }
    }

    /// Notes which keys of a tile each query drops: all keys outside of the query's ranges.
    #[inline(always)]
    pub fn note(&mut self, tile: &Range<usize>, kept: impl Iterator<Item = [Range<usize>; 2]>) {
        self.any = false;
        for (bits, kept) in self.bits.iter_mut().zip(kept) {
            *bits = 0;
            if kept.iter().any(|kept| kept.start <= tile.start && tile.end <= kept.end) {
                continue;
            }
            for (at, key) in tile.clone().enumerate() {
                if !kept.iter().any(|kept| kept.contains(&key)) {
                    *bits |= 1 << at;
                    self.any = true;
                }
            }
        }
    }

    /// Whether any query drops a key.
    pub fn any(&self) -> bool {
        self.any
    }

    /// The bits of each row of `[heads of a group, queries]`.
    fn rows(&self) -> impl Iterator<Item = u16> {
        self.bits.iter().copied().cycle()
    }

    /// Writes a number over the dropped entries of `[rows, keys]`.
    #[inline(always)]
    pub fn fill<R: SimdFloat>(&self, pairs: &mut [R], keys: usize, number: R) {
        if !self.any {
            return;
        }
        for (pairs, bits) in pairs.chunks_exact_mut(keys).zip(self.rows()) {
            if bits != 0 {
                let dropped = pairs.iter_mut().enumerate().filter(|(at, _)| is_set(bits, *at));
                dropped.for_each(|(_, pair)| *pair = number);
            }
        }
    }
}

#[inline(always)]
fn is_set(bits: u16, at: usize) -> bool {
    bits >> at & 1 == 1
}

/// Whether all numbers of some rows are finite.
#[inline(always)]
pub(super) fn are_finite<R: SimdFloat>(rows: &[&[R]]) -> bool {
    rows.iter().all(|row| row.iter().fold(true, |all, number| all & number.is_finite()))
}

/// Like [add_weighted](super::products::add_weighted), but each row adds only the keys that it keeps.
#[inline(never)]
pub(super) fn add_kept<R: SimdFloat, S: Simd>(
    simd: S,
    weights: &[R],
    values: &[&[R]],
    sums: &mut [R],
    dropped: &Dropped,
) {
    simd.vectorize(AddKept { weights, values, sums, dropped });
}

struct AddKept<'a, R> {
    weights: &'a [R],
    values: &'a [&'a [R]],
    sums: &'a mut [R],
    dropped: &'a Dropped,
}

impl<R: SimdFloat> WithSimd for AddKept<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weights, values, sums, dropped } = self;
        let width = values.first().map_or(1, |value| value.len());
        let rows = weights.chunks_exact(values.len()).zip(sums.chunks_exact_mut(width));
        for ((weights, sums), bits) in rows.zip(dropped.rows()) {
            for (at, (&weight, value)) in weights.iter().zip(values).enumerate() {
                if !is_set(bits, at) {
                    add_row(simd, weight, value, sums);
                }
            }
        }
    }
}

/// Adds each row, times its weight, to the sums of the keys that the row keeps: `weights` is `[rows, keys]`, `sums` is
/// `[keys, width]`.
#[inline(never)]
pub(super) fn add_kept_by_key<R: SimdFloat, S: Simd>(
    simd: S,
    weights: &[R],
    keys: usize,
    rows: &[R],
    sums: &mut [R],
    dropped: &Dropped,
) {
    simd.vectorize(AddKeptByKey { weights, keys, rows, sums, dropped });
}

struct AddKeptByKey<'a, R> {
    weights: &'a [R],
    keys: usize,
    rows: &'a [R],
    sums: &'a mut [R],
    dropped: &'a Dropped,
}

impl<R: SimdFloat> WithSimd for AddKeptByKey<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weights, keys, rows, sums, dropped } = self;
        let width = sums.len() / keys;
        let rows = weights.chunks_exact(keys).zip(rows.chunks_exact(width));
        for ((weights, row), bits) in rows.zip(dropped.rows()) {
            for (at, (&weight, sums)) in weights.iter().zip(sums.chunks_exact_mut(width)).enumerate() {
                if !is_set(bits, at) {
                    add_row(simd, weight, row, sums);
                }
            }
        }
    }
}
