use half::{bf16, f16};
use pulp::Simd;

/// A number type in which the kernels compute, and its vectors.
pub(crate) trait SimdFloat: Copy + PartialOrd + Send + Sync + 'static {
    /// A vector of the width that the processor computes at once.
    type Vector<S: Simd>: Copy;

    const ZERO: Self;
    const LEAST: Self;

    fn of(value: f64) -> Self;
    fn to_f32(self) -> f32;
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;
    /// `a * b + c`, fused if the processor can.
    fn mul_add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>, c: Self::Vector<S>) -> Self::Vector<S>;
    fn sum<S: Simd>(simd: S, vector: Self::Vector<S>) -> Self;
    /// Splits a slice into whole vectors and the remaining numbers.
    fn vectors<S: Simd>(numbers: &[Self]) -> (&[Self::Vector<S>], &[Self]);
    fn vectors_mut<S: Simd>(numbers: &mut [Self]) -> (&mut [Self::Vector<S>], &mut [Self]);
    /// Loads fewer numbers than a vector has, followed by zeros.
    fn load<S: Simd>(simd: S, numbers: &[Self]) -> Self::Vector<S>;
    fn store<S: Simd>(simd: S, numbers: &mut [Self], vector: Self::Vector<S>);

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn tanh(self) -> Self;
    fn is_nan(self) -> bool;
    fn is_finite(self) -> bool;
}

macro_rules! real {
    ($number:ty, $vector:ident, $splat:ident, $mul_add:ident, $sum:ident, $split:ident, $split_mut:ident, $load:ident,
     $store:ident, $exp:expr, $tanh:expr) => {
        impl SimdFloat for $number {
            type Vector<S: Simd> = S::$vector;

            const ZERO: Self = 0.0;
            const LEAST: Self = Self::NEG_INFINITY;

            #[inline(always)]
            fn of(value: f64) -> Self {
                value as Self
            }

            #[inline(always)]
            fn to_f32(self) -> f32 {
                self as f32
            }

            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> S::$vector {
                simd.$splat(value)
            }

            #[inline(always)]
            fn mul_add<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$mul_add(a, b, c)
            }

            #[inline(always)]
            fn sum<S: Simd>(simd: S, vector: S::$vector) -> Self {
                simd.$sum(vector)
            }

            #[inline(always)]
            fn vectors<S: Simd>(numbers: &[Self]) -> (&[S::$vector], &[Self]) {
                S::$split(numbers)
            }

            #[inline(always)]
            fn vectors_mut<S: Simd>(numbers: &mut [Self]) -> (&mut [S::$vector], &mut [Self]) {
                S::$split_mut(numbers)
            }

            #[inline(always)]
            fn load<S: Simd>(simd: S, numbers: &[Self]) -> S::$vector {
                simd.$load(numbers)
            }

            #[inline(always)]
            fn store<S: Simd>(simd: S, numbers: &mut [Self], vector: S::$vector) {
                simd.$store(numbers, vector)
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self + other
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self - other
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self * other
            }

            #[inline(always)]
            fn div(self, other: Self) -> Self {
                self / other
            }

            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }

            #[inline(always)]
            fn ln(self) -> Self {
                <$number>::ln(self)
            }

            #[inline(always)]
            fn tanh(self) -> Self {
                $tanh(self)
            }

            #[inline(always)]
            fn is_nan(self) -> bool {
                <$number>::is_nan(self)
            }

            #[inline(always)]
            fn is_finite(self) -> bool {
                <$number>::is_finite(self)
            }
        }
    };
}

real!(
    f32,
    f32s,
    splat_f32s,
    mul_add_e_f32s,
    reduce_sum_f32s,
    as_simd_f32s,
    as_mut_simd_f32s,
    partial_load_f32s,
    partial_store_f32s,
    exp_f32,
    tanh_f32
);
real!(
    f64,
    f64s,
    splat_f64s,
    mul_add_e_f64s,
    reduce_sum_f64s,
    as_simd_f64s,
    as_mut_simd_f64s,
    partial_load_f64s,
    partial_store_f64s,
    f64::exp,
    f64::tanh
);

/// The exponential without a branch or a call, so that the compiler vectorizes loops over it.
///
/// From -87 to 88 the result is within 2 units in the last place of the true value. It is 0 below this range and
/// infinity above. NaN gives NaN.
#[inline(always)]
pub(crate) fn exp_f32(x: f32) -> f32 {
    // Adding this number rounds to a whole number, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const SMALLEST: f32 = -87.0;
    const LARGEST: f32 = 88.0;
    let inside = if x < SMALLEST { SMALLEST } else { x };
    let inside = if inside > LARGEST { LARGEST } else { inside };
    let rounded = inside * std::f32::consts::LOG2_E + ROUND;
    let whole = rounded - ROUND;
    let rest = inside - whole * LN_2_HIGH - whole * LN_2_LOW;
    let series = 1.987_569_1e-4;
    let series = series * rest + 1.398_199_9e-3;
    let series = series * rest + 8.333_452e-3;
    let series = series * rest + 4.166_579_6e-2;
    let series = series * rest + 1.666_666_5e-1;
    let series = series * rest + 0.5;
    let value = series * rest * rest + rest + 1.0;
    let value = f32::from_bits(value.to_bits().wrapping_add(rounded.to_bits() << 23));
    let value = if x < SMALLEST { 0.0 } else { value };
    if x > LARGEST { f32::INFINITY } else { value }
}

/// The hyperbolic tangent, without a branch or a call like [exp_f32]. It is within 4 units in the last place.
#[inline(always)]
pub(crate) fn tanh_f32(x: f32) -> f32 {
    // Below this magnitude, the formula with the exponential would lose digits, so a polynomial is used.
    const SMALL: f32 = 0.625;
    let square = x * x;
    // The polynomial is exact at the Chebyshev nodes of `square`, between 0 and the square of `SMALL`.
    let series = -6.096_714e-3;
    let series = series * square + 2.099_718e-2;
    let series = series * square - 5.385_091e-2;
    let series = series * square + 0.133_327_7;
    let series = series * square - 0.333_333_28;
    let near = series * square * x + x;
    let far = (1.0 - 2.0 / (1.0 + exp_f32(2.0 * x.abs()))).copysign(x);
    if x.abs() < SMALL { near } else { far }
}

/// A number type in which tensors are stored.
pub(crate) trait StoredFloat: Copy + Send + Sync + 'static {
    /// The type in which the kernels compute.
    type Float: SimdFloat;

    /// The row in the type for computing. It is converted into the buffer, unless it is stored in this type.
    fn widen<'a>(row: &'a [Self], buffer: &'a mut [Self::Float]) -> &'a [Self::Float];
    /// Whether [Self::widen] returns every row as it is, so that it needs no buffer.
    const AS_IT_IS: bool;
}

macro_rules! stored_as_it_is {
    ($($number:ty),*) => {
        $(impl StoredFloat for $number {
            type Float = $number;
            const AS_IT_IS: bool = true;

            #[inline(always)]
            fn widen<'a>(row: &'a [Self], _buffer: &'a mut [Self]) -> &'a [Self] {
                row
            }
        })*
    };
}

macro_rules! stored_in_half {
    ($($number:ty),*) => {
        $(impl StoredFloat for $number {
            type Float = f32;
            const AS_IT_IS: bool = false;

            #[inline(always)]
            fn widen<'a>(row: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
                let buffer = &mut buffer[..row.len()];
                buffer.iter_mut().zip(row).for_each(|(wide, number)| *wide = number.to_f32());
                buffer
            }
        })*
    };
}

stored_as_it_is!(f32, f64);
stored_in_half!(f16, bf16);

#[cfg(test)]
mod tests {
    use super::{exp_f32, tanh_f32};

    #[test]
    fn exponentials_are_those_of_the_standard_library() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let (found, wanted) = (f64::from(exp_f32(x)), f64::from(x).exp());
            assert!((found / wanted - 1.0).abs() < 2.4e-7, "exp({x}) = {found}, not {wanted}");
            x += 0.003;
        }
        assert_eq!(exp_f32(0.0), 1.0);
        assert_eq!(exp_f32(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_f32(-1e30), 0.0);
        assert_eq!(exp_f32(f32::INFINITY), f32::INFINITY);
        assert!(exp_f32(f32::NAN).is_nan());
    }

    #[test]
    fn tangents_are_those_of_the_standard_library() {
        let mut x = -12.0f32;
        while x < 12.0 {
            let (found, wanted) = (f64::from(tanh_f32(x)), f64::from(x).tanh());
            assert!((found - wanted).abs() <= 2.4e-7 * wanted.abs(), "tanh({x}) = {found}, not {wanted}");
            x += 0.0007;
        }
        assert_eq!((tanh_f32(0.0), tanh_f32(1e-20)), (0.0, 1e-20));
        assert_eq!((tanh_f32(f32::INFINITY), tanh_f32(f32::NEG_INFINITY)), (1.0, -1.0));
        assert!(tanh_f32(f32::NAN).is_nan());
    }
}
