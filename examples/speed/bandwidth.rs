use std::time::Instant;

use rayon::prelude::*;

/// Larger than any processor cache.
const BYTES: usize = 1 << 29;

/// Measures how fast all threads together read memory. It runs beside every timed step, because the speed of a machine
/// changes over time.
pub struct Probe {
    memory: Vec<u64>,
}

impl Probe {
    pub fn new() -> Self {
        Self { memory: (0..BYTES as u64 / 8).collect() }
    }

    /// The bytes per second of one pass. Every thread reads from several places at once, as kernels with prefetching
    /// do. One stream per thread does not use the whole memory bandwidth.
    pub fn read(&self) -> f64 {
        const STREAMS: usize = 4;
        let start = Instant::now();
        let parts = self.memory.par_chunks(1 << 20);
        let sums = parts.map(|part| {
            let mut streams = part.chunks(part.len().div_ceil(STREAMS)).map(|stream| stream.chunks_exact(8));
            let [a, b, c, d] = std::array::from_fn(|_| streams.next().expect("a part is longer than it has streams"));
            let mut sums = [0u64; 8];
            for (((a, b), c), d) in a.zip(b).zip(c).zip(d) {
                for at in 0..8 {
                    sums[at] = sums[at].wrapping_add(a[at] ^ b[at]).wrapping_add(c[at] ^ d[at]);
                }
            }
            sums.iter().fold(0, |sum, &x| sum ^ x)
        });
        std::hint::black_box(sums.reduce(|| 0, |a, b| a ^ b));
        BYTES as f64 / start.elapsed().as_secs_f64()
    }
}
