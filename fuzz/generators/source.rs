use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// The random numbers of a case: from a seed, or from bytes followed by random numbers.
#[derive(Debug, Clone)]
pub struct Source {
    bytes: Vec<u8>,
    read: usize,
    rng: Xoshiro256PlusPlus,
}

/// The number of bytes that make a random number. It is small, so that each byte has an effect.
const BYTES_PER_DRAW: usize = 2;

impl Source {
    /// The random numbers of a case and seed.
    pub fn seeded(seed: u64, case: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&case.to_le_bytes());
        key[31] = 1;
        let mut rng = Xoshiro256PlusPlus::from_seed(key);
        // At first, the states of neighbouring cases differ in few bits.
        for _ in 0..16 {
            rng.next_u64();
        }
        Self { bytes: Vec::new(), read: 0, rng }
    }

    /// Random numbers that are made from the bytes as long as there are some.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let hash = bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self { bytes: bytes.to_vec(), ..Self::seeded(hash, 0) }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let Some(bytes) = self.bytes.get(self.read..self.read + BYTES_PER_DRAW) else {
            return self.rng.next_u64();
        };
        self.read += BYTES_PER_DRAW;
        // The bytes are the high bits, which decide. The low bits are random.
        bytes.iter().rev().fold(0, |number, &byte| number >> 8 | u64::from(byte) << 56) | self.rng.next_u64() >> 16
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True once in `cases` calls on average.
    pub fn once_in(&mut self, cases: usize) -> bool {
        self.below(cases) == 0
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number with mean 0 and deviation 1, nearly normal.
    pub fn normal(&mut self) -> f64 {
        // The sum of four uniform 16-bit numbers has the standard deviation 65536 / 3^0.5.
        let bits = self.bits();
        let sum = (0..4).map(|part| f64::from((bits >> (16 * part)) as u16)).sum::<f64>();
        (sum - 131_070.0) / 37_837.0
    }

    /// A random element of a list, which must not be empty.
    pub fn pick<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len())]
    }

    /// Distinct random numbers below `end`, in random order.
    pub fn some_below(&mut self, end: usize, count: usize) -> Vec<usize> {
        let mut numbers = (0..end).collect::<Vec<_>>();
        let count = count.min(end);
        for place in 0..count {
            let other = self.between(place, end - 1);
            numbers.swap(place, other);
        }
        numbers.truncate(count);
        numbers
    }
}
