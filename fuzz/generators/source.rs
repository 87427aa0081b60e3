use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// What a case is drawn from: random numbers of a seed, or bytes followed by random numbers.
#[derive(Debug, Clone)]
pub struct Source {
    bytes: Vec<u8>,
    read: usize,
    rng: Xoshiro256PlusPlus,
}

/// How many bytes a number is made of, if it is made of bytes. Few, so that each byte decides something.
const BYTES_PER_DRAW: usize = 2;

impl Source {
    /// The numbers of a case of a seed.
    pub fn seeded(seed: u64, case: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&case.to_le_bytes());
        key[31] = 1;
        let mut rng = Xoshiro256PlusPlus::from_seed(key);
        // The state differs from that of the next case in few bits at first.
        for _ in 0..16 {
            rng.next_u64();
        }
        Self { bytes: Vec::new(), read: 0, rng }
    }

    /// Numbers that the bytes decide as far as they reach.
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
        // The high bits decide, the others are as good as any.
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

    /// Whether something that happens once in `cases` happens.
    pub fn once_in(&mut self, cases: usize) -> bool {
        self.below(cases) == 0
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number with mean 0 and deviation 1, nearly normal.
    pub fn normal(&mut self) -> f64 {
        // A sum of four numbers of 16 bits has the deviation 65536 / 3^0.5.
        let bits = self.bits();
        let sum = (0..4).map(|part| f64::from((bits >> (16 * part)) as u16)).sum::<f64>();
        (sum - 131_070.0) / 37_837.0
    }

    /// One of some things, of which there must be one.
    pub fn pick<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len())]
    }

    /// Some of the numbers below `end`, each at most once, in any order.
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
