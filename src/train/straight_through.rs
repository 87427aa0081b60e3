use burn::tensor::{Tensor, backend::Backend};

/// The sign of each number, with the gradient of `tanh`. The gradient of the sign itself is 0 everywhere, so this is a
/// [straight-through estimator](https://arxiv.org/abs/1308.3432).
///
/// The result is 1 for numbers above 0 and -1 for all others, as in the signatures of [Hash](crate::scorer::Hash).
pub fn straight_through_sign<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    let above = x.clone().detach().greater_elem(0.0).float().cast(x.dtype());
    let sign = above.mul_scalar(2.0).sub_scalar(1.0);
    // This difference is exactly 0, but it carries the gradient.
    let tanh = x.tanh();
    sign + (tanh.clone() - tanh.detach())
}
