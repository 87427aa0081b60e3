//! Pseudo-quantisation. Values are rounded to one of `2^bits` evenly spaced values between the minimum and the maximum
//! of a vector.

/// How a value between two steps is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest step. A value in the middle goes to the even step.
    Nearest,
    /// To the step below.
    Down,
    /// To the step above.
    Up,
}

/// Quantises a vector to `bits` bits, asymmetrically, and converts it back. 16 bits or more leave the vector unchanged.
/// A vector of equal values also stays unchanged.
///
/// # Panics
/// If `bits` is 0.
///
/// # Example
/// ```
/// use sparse_attention_hub::scorer::{Rounding, pseudo_quantize};
///
/// let mut vector = [0.0, 0.4, 1.7, 3.0];
/// pseudo_quantize(&mut vector, 2, Rounding::Nearest);
/// assert_eq!(vector, [0.0, 0.0, 2.0, 3.0]);
/// ```
pub fn pseudo_quantize(vector: &mut [f32], bits: u32, rounding: Rounding) {
    assert!(bits > 0, "nothing can be held in 0 bits");
    if bits >= 16 {
        return;
    }
    let least = vector.iter().copied().fold(f32::INFINITY, f32::min);
    let greatest = vector.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if greatest <= least {
        return;
    }
    let steps = ((1u32 << bits) - 1) as f32;
    let scale = steps / (greatest - least);
    for value in vector {
        let step = (*value - least) * scale;
        let rounded = match rounding {
            Rounding::Nearest => step.round_ties_even(),
            // A value that differs from a step only by rounding errors stays at this step.
            Rounding::Down => (step + 1e-4).floor(),
            Rounding::Up => (step - 1e-4).ceil(),
        };
        let stepped = rounded.clamp(0.0, steps) / scale + least;
        *value = match rounding {
            Rounding::Nearest => stepped,
            Rounding::Down => stepped.min(*value),
            Rounding::Up => stepped.max(*value),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_keeps_the_ends() {
        let mut vector = [0.0, 0.2, 0.9, 1.0];
        pseudo_quantize(&mut vector, 1, Rounding::Nearest);
        assert_eq!(vector, [0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn the_middle_goes_to_the_even_step() {
        let mut vector = [0.0, 0.5, 1.5, 3.0];
        pseudo_quantize(&mut vector, 2, Rounding::Nearest);
        assert_eq!(vector, [0.0, 0.0, 2.0, 3.0]);
    }

    #[test]
    fn bounds_stay_bounds() {
        let vector = [-1.3f32, 0.4, 2.2, 0.1, 0.7];
        for bits in 1..16 {
            let (mut below, mut above) = (vector, vector);
            pseudo_quantize(&mut below, bits, Rounding::Down);
            pseudo_quantize(&mut above, bits, Rounding::Up);
            assert!(below.iter().zip(vector).all(|(below, value)| *below <= value), "{bits} bits");
            assert!(above.iter().zip(vector).all(|(above, value)| *above >= value), "{bits} bits");
        }
    }

    #[test]
    fn equal_values_and_sixteen_bits_stay() {
        let mut equal = [0.3; 4];
        pseudo_quantize(&mut equal, 2, Rounding::Nearest);
        assert_eq!(equal, [0.3; 4]);
        let mut vector = [0.1, 0.33, 0.9];
        pseudo_quantize(&mut vector, 16, Rounding::Nearest);
        assert_eq!(vector, [0.1, 0.33, 0.9]);
    }
}
