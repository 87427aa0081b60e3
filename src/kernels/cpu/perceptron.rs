use pulp::{Arch, Simd, WithSimd};

use super::{
    prefetch::Ahead,
    products::{TILE, add_weighted},
};

/// Adds the products of some vectors with a matrix to `sums`: `vectors` is `[some, width_in]`, `matrix`
/// `[width_in, width_out]`, `sums` `[some, width_out]`. The matrix is read once, from where it lies, and `next` asked for
/// towards its end.
pub(crate) fn add_products(vectors: &[f32], matrix: &[f32], width_out: usize, sums: &mut [f32], next: &[f32]) {
    Arch::new().dispatch(AddProducts { vectors, matrix, width_out, sums, next });
}

/// What [add_products] reads of a matrix before it can ask for more.
pub(crate) fn first_tile(matrix: &[f32], width_out: usize) -> &[f32] {
    &matrix[..matrix.len().min(TILE * width_out)]
}

struct AddProducts<'a> {
    vectors: &'a [f32],
    matrix: &'a [f32],
    width_out: usize,
    sums: &'a mut [f32],
    next: &'a [f32],
}

impl WithSimd for AddProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { vectors, matrix, width_out, sums, next } = self;
        let width_in = matrix.len() / width_out;
        let mut weights = Vec::with_capacity(vectors.len() / width_in * TILE);
        let mut tiles = matrix.chunks(TILE * width_out).peekable();
        for first in (0..width_in).step_by(TILE) {
            let Some(rows) = tiles.next() else { break };
            let mut tile = [&[][..]; TILE];
            tile.iter_mut().zip(rows.chunks_exact(width_out)).for_each(|(tile, row)| *tile = row);
            let count = rows.len() / width_out;
            weights.clear();
            for vector in vectors.chunks_exact(width_in) {
                weights.extend_from_slice(&vector[first..first + count]);
            }
            let ahead = Ahead::in_order(std::slice::from_ref(tiles.peek().unwrap_or(&next)));
            add_weighted(simd, &weights, &tile[..count], sums, ahead);
        }
    }
}
