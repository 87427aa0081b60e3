use std::time::Instant;

use rayon::prelude::*;

/// Larger than any cache.
const BYTES: usize = 1 << 29;

/// Bytes a second that all threads together read from memory: the best of some runs over half a gibibyte.
pub fn bandwidth() -> f64 {
    let memory = (0..BYTES as u64 / 8).collect::<Vec<_>>();
    let read = || {
        let start = Instant::now();
        let sum =
            memory.par_chunks(1 << 16).map(|part| part.iter().fold(0u64, |sum, &x| sum.wrapping_add(x))).sum::<u64>();
        std::hint::black_box(sum);
        start.elapsed().as_secs_f64()
    };
    let fastest = (0..7).map(|_| read()).fold(f64::INFINITY, f64::min);
    BYTES as f64 / fastest
}
