use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::ConfigError;

/// A number of keys: a count, or a fraction of all keys.
///
/// In JSON, a whole number is a count and a number with a decimal point is a fraction. `128` is 128 keys and `0.05` is
/// 5% of the keys. `1` is one key and `1.0` is all keys.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Size {
    /// A number of keys.
    Count(usize),
    /// A share of all keys.
    Fraction(f64),
}

impl Size {
    /// The number of keys out of `keys`: the count, or the fraction rounded down but at least 1. A small fraction of a
    /// short context thus keeps at least one key.
    pub fn of(&self, keys: usize) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::Fraction(_) => self.floor_of(keys).max(1),
        }
    }

    /// The number of keys out of `keys`: the count, or the fraction rounded down.
    pub fn floor_of(&self, keys: usize) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::Fraction(fraction) => (fraction * keys as f64) as usize,
        }
    }

    /// The count, if it is one.
    pub fn count(&self) -> Option<usize> {
        match self {
            Self::Count(count) => Some(*count),
            Self::Fraction(_) => None,
        }
    }

    /// Whether it is 0, as a count or as a fraction.
    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Count(0)) || *self == Self::Fraction(0.0)
    }

    /// Checks that it is a count of at least 1 or a fraction in (0, 1].
    ///
    /// # Errors
    /// If it is not; the error names the field.
    pub fn validate_positive(&self, field: &'static str) -> Result<(), ConfigError> {
        match self {
            Self::Count(1..) => Ok(()),
            Self::Fraction(fraction) if *fraction > 0.0 && *fraction <= 1.0 => Ok(()),
            _ => Err(ConfigError::value(
                field,
                self,
                "a count of keys (a whole number of at least 1) or a fraction of them (a number with a point, in (0, 1])",
            )),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Fraction(fraction) => write!(f, "{fraction:?}"),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a count of keys (128) or a fraction of them (0.05)")
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Size, E> {
                usize::try_from(count).map(Size::Count).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Size, E> {
                u64::try_from(count)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(count), &self))
                    .and_then(|count| self.visit_u64(count))
            }

            fn visit_f64<E: de::Error>(self, fraction: f64) -> Result<Size, E> {
                Ok(Size::Fraction(fraction))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Size {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_point_makes_a_fraction() {
        assert_eq!(parse("1"), Size::Count(1));
        assert_eq!(parse("1.0"), Size::Fraction(1.0));
        assert_eq!(serde_json::to_string(&Size::Fraction(1.0)).unwrap(), "1.0");
        assert_eq!(parse("1").of(63), 1);
        assert_eq!(parse("1.0").of(63), 63);
    }

    #[test]
    fn a_small_fraction_keeps_one_key() {
        assert_eq!(parse("0.01").of(63), 1);
        assert_eq!(parse("0.01").floor_of(63), 0);
        assert_eq!(parse("0.05").of(111), 5);
    }

    #[test]
    fn negative_and_excessive_sizes_are_errors() {
        assert!(serde_json::from_str::<Size>("-1").is_err());
        for text in ["0", "0.0", "-0.5", "1.5"] {
            let message = parse(text).validate_positive("window_size").unwrap_err().to_string();
            assert!(message.contains("window_size") && message.contains(text), "{message}");
        }
    }
}
