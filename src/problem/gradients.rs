use burn::tensor::{Tensor, backend::Backend};

/// What the backward pass of attention needs besides the inputs: results of the forward pass, and the gradient of the
/// output.
///
/// A kept key has the weight `w = exp(logit - log_sum_exp) / p`. Its logit has the gradient `w (g - mean)`, where `g`
/// is the dot product of the key's value with the gradient of the output.
///
/// # Shapes
/// - output_gradient: `[batch, heads, queries, value_dim]`, in the type of the queries.
/// - log_sum_exp, mean: `[batch, heads, queries, 1]`, in f64 for inputs in f64, otherwise in f32.
#[derive(Debug, Clone)]
pub struct AttentionTrace<B: Backend> {
    /// The gradient of the output.
    pub output_gradient: Tensor<B, 4>,
    /// The log-sum-exp of the [statistics](super::SoftmaxStatistics) of the forward pass. Minus infinity in a row that
    /// keeps no visible key.
    pub log_sum_exp: Tensor<B, 4>,
    /// The dot product of the output with its gradient, minus the gradient of the log-sum-exp if it has one.
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
