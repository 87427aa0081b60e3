//! Upper limits of configuration fields that determine how much memory is allocated. A value above its limit is refused
//! before any memory is allocated.

use super::ConfigError;

/// The range of a field, from 1 to `most`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    most: usize,
    allowed: &'static str,
}

/// Number of hash tables. Each table has directions of the width of a key.
pub(crate) const TABLES: Limit = Limit { most: 16_384, allowed: "in 1..=16384" };
/// Number of bits of a hash that is stored as numbers.
pub(crate) const HASH_BITS: Limit = Limit { most: 1_024, allowed: "in 1..=1024" };
/// Number of directions of all hash tables together. Each direction has the width of a key.
pub(crate) const DIRECTIONS: Limit = Limit { most: 1_048_576, allowed: "in 1..=1048576" };
/// Number of keys in a page. The indices of keys have 31 bits.
pub(crate) const PAGE_SIZE: Limit = Limit { most: 1_073_741_824, allowed: "in 1..=1073741824" };
/// Number of channels in a part of a key.
pub(crate) const CHANNELS: Limit = Limit { most: 65_536, allowed: "in 1..=65536" };
/// Number of matrices of a perceptron.
pub(crate) const MATRICES: Limit = Limit { most: 256, allowed: "in 1..=256" };
/// Width of a perceptron, or number of bits of a learned signature.
pub(crate) const WIDTH: Limit = Limit { most: 65_536, allowed: "in 1..=65536" };

impl Limit {
    /// Checks the value of a field.
    pub fn check(self, field: &'static str, value: usize) -> Result<(), ConfigError> {
        match (1..=self.most).contains(&value) {
            true => Ok(()),
            false => Err(ConfigError::value(field, value, self.allowed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_say_what_they_are() {
        for limit in [TABLES, HASH_BITS, DIRECTIONS, PAGE_SIZE, CHANNELS, MATRICES, WIDTH] {
            assert_eq!(limit.allowed, format!("in 1..={}", limit.most));
            assert!(limit.check("a", 1).is_ok() && limit.check("a", limit.most).is_ok());
            for wrong in [0, limit.most + 1, usize::MAX] {
                let error = limit.check("a_field", wrong).unwrap_err().to_string();
                assert!(error.contains("`a_field`") && error.contains(&format!("is {wrong},")), "{error}");
            }
        }
    }
}
