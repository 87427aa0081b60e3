use pulp::Arch;

use super::simd_float::SimdFloat;

/// Replaces each score by `cap * tanh(score / cap)`.
#[inline(always)]
pub(crate) fn soften<R: SimdFloat>(scores: &mut [R], cap: f64) {
    let (cap, inverse) = (R::of(cap), R::of(1.0 / cap));
    scores.iter_mut().for_each(|score| *score = score.mul(inverse).tanh().mul(cap));
}

/// Does the same outside of a kernel, if there is a cap.
pub(crate) fn softcap(scores: &mut [f32], cap: Option<f64>) {
    if let Some(cap) = cap {
        Arch::new().dispatch(|| soften(scores, cap));
    }
}
