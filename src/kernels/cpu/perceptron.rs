use pulp::{Arch, Simd, WithSimd};

use super::{
    prefetch::Ahead,
    products::{TILE, add_weighted},
    streams::{STREAMS, interleaved},
};

/// A borrowed matrix, `[width_in, width_out]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub numbers: &'a [f32],
    pub width_out: usize,
}

impl<'a> Matrix<'a> {
    fn width_in(self) -> usize {
        self.numbers.len() / self.width_out
    }

    /// A tile of rows. They are read in several places at once, as keys are.
    #[inline(always)]
    fn tile(self, tile: usize) -> MatrixTile<'a> {
        let mut rows = MatrixTile { inputs: [0; TILE], rows: [&[]; TILE], count: 0 };
        for (at, input) in interleaved::<STREAMS>(0..self.width_in(), tile).enumerate() {
            rows.inputs[at] = input;
            rows.rows[at] = &self.numbers[input * self.width_out..][..self.width_out];
            rows.count += 1;
        }
        rows
    }
}

struct MatrixTile<'a> {
    /// The index of the input that each row multiplies.
    inputs: [usize; TILE],
    rows: [&'a [f32]; TILE],
    count: usize,
}

/// Adds the products of some vectors with a matrix to `sums`: `vectors` is `[some, width_in]`, `sums` is
/// `[some, width_out]`. The matrix is read once, without a copy. `next` is the matrix of the next call. Its first rows
/// are prefetched at the end of this call.
pub(crate) fn add_products(vectors: &[f32], matrix: Matrix, sums: &mut [f32], next: Option<Matrix>) {
    Arch::new().dispatch(AddProducts { vectors, matrix, sums, next });
}

struct AddProducts<'a> {
    vectors: &'a [f32],
    matrix: Matrix<'a>,
    sums: &'a mut [f32],
    next: Option<Matrix<'a>>,
}

impl WithSimd for AddProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { vectors, matrix, sums, next } = self;
        let width_in = matrix.width_in();
        let tiles = width_in.div_ceil(TILE);
        let mut weights = Vec::with_capacity(vectors.len() / width_in * TILE);
        let mut tile = matrix.tile(0);
        for at in 0..tiles {
            let following = match next {
                _ if at + 1 < tiles => Some(matrix.tile(at + 1)),
                next => next.map(|next| next.tile(0)),
            };
            weights.clear();
            for vector in vectors.chunks_exact(width_in) {
                weights.extend(tile.inputs[..tile.count].iter().map(|&input| vector[input]));
            }
            let ahead = following.as_ref().map_or(&[][..], |tile| &tile.rows[..tile.count]);
            add_weighted(simd, &weights, &tile.rows[..tile.count], sums, Ahead::in_order(ahead));
            if let Some(following) = following {
                tile = following;
            }
        }
    }
}
