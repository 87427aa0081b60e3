use std::time::Instant;

use rayon::prelude::*;

use crate::measure::median;

/// Larger than any cache.
const BYTES: usize = 1 << 29;

/// Bytes a second that all threads together read from memory: the median of some runs over half a gibibyte, as the
/// times beside it are medians.
pub fn bandwidth() -> f64 {
    let memory = (0..BYTES as u64 / 8).collect::<Vec<_>>();
    let read = || {
        let start = Instant::now();
        let sum =
            memory.par_chunks(1 << 16).map(|part| part.iter().fold(0u64, |sum, &x| sum.wrapping_add(x))).sum::<u64>();
        std::hint::black_box(sum);
        start.elapsed().as_secs_f64()
    };
    BYTES as f64 / median(&(0..15).map(|_| read()).collect::<Vec<_>>())
}
