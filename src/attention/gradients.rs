use burn::tensor::{Tensor, backend::Backend};

/// What a backward step of attention knows besides the inputs: what the forward step left, and the gradient that came
/// back.
///
/// A kept key has the weight `w = exp(logit - log_sum_exp) / p`, and its logit has the gradient `w (g - mean)`, where `g`
/// is the product of its value with the output's gradient.
///
/// # Shapes
/// - output_gradient: `[batch, heads, queries, value_dim]`, in the type of the queries.
/// - log_sum_exp, mean: `[batch, heads, queries, 1]`, in f64 for inputs in f64, otherwise in f32.
#[derive(Debug, Clone)]
pub struct AttentionTrace<B: Backend> {
    /// The gradient of the output.
    pub output_gradient: Tensor<B, 4>,
    /// The log-sum-exp of the forward step's [statistics](super::SoftmaxStatistics), minus infinity in a row that keeps
    /// or sees nothing.
    pub log_sum_exp: Tensor<B, 4>,
    /// The product of the output with its gradient, less the gradient of the log-sum-exp if that has one.
    pub mean: Tensor<B, 4>,
}

/// The gradients of attention's inputs, each of the shape and type of its input.
///
/// # Shapes
/// - queries: `[batch, heads, queries, head_dim]`
/// - keys: `[batch, kv_heads, keys, head_dim]`
/// - values: `[batch, kv_heads, keys, value_dim]`
#[derive(Debug, Clone)]
pub struct AttentionGradients<B: Backend> {
    /// The gradient of the queries.
    pub queries: Tensor<B, 4>,
    /// The gradient of the keys.
    pub keys: Tensor<B, 4>,
    /// The gradient of the values.
    pub values: Tensor<B, 4>,
}
