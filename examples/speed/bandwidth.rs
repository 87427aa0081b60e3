use std::time::Instant;

use rayon::prelude::*;

/// Larger than any cache.
const BYTES: usize = 1 << 29;

/// How fast all threads together read memory: taken beside every step that is timed, because a machine is not equally
/// fast at all times.
pub struct Probe {
    memory: Vec<u64>,
}

impl Probe {
    pub fn new() -> Self {
        Self { memory: (0..BYTES as u64 / 8).collect() }
    }

    /// Bytes a second of one pass.
    pub fn read(&self) -> f64 {
        let start = Instant::now();
        let parts = self.memory.par_chunks(1 << 16);
        let sum = parts.map(|part| part.iter().fold(0u64, |sum, &x| sum.wrapping_add(x))).sum::<u64>();
        std::hint::black_box(sum);
        BYTES as f64 / start.elapsed().as_secs_f64()
    }
}
