use burn::tensor::{Tensor, backend::Backend};

use crate::{
    attention::masked_attention,
    mask::Mask,
    masker::Masker,
    problem::{AttentionError, AttentionInputs, Requested},
    state::LayerState,
};

/// What is done where a layer attends: queries, keys and values come in, and what the heads gathered goes back.
///
/// [GroupedQueryAttention::forward_hooked](super::GroupedQueryAttention::forward_hooked) calls one, and so can an
/// attention layer of any other model: it makes [AttentionInputs] of its heads and takes the output back. A hook can
/// choose the [mode](AttentionMode), record what it sees, or measure what a method keeps.
///
/// # Example
/// A hook that counts the queries that pass:
/// ```
/// use burn::tensor::{Tensor, backend::Backend};
/// use sparse_attention_hub::{
///     attention::{AttentionError, AttentionInputs},
///     masker::{LayerState, Masker},
///     nn::{AttentionHook, AttentionMode},
/// };
///
/// struct Count(usize);
///
/// impl<B: Backend> AttentionHook<B> for Count {
///     fn attend(
///         &mut self,
///         maskers: &dyn Masker<B>,
///         inputs: &AttentionInputs<B>,
///         state: &mut LayerState,
///     ) -> Result<Tensor<B, 4>, AttentionError> {
///         self.0 += inputs.queries().dims()[2];
///         AttentionMode::Sparse.attend(maskers, inputs, state)
///     }
/// }
/// ```
pub trait AttentionHook<B: Backend> {
    /// The output of a layer. `maskers` is the layer's method and `state` what the method remembers of the keys.
    ///
    /// # Shapes
    /// - output: `[batch, heads, queries, value_dim]`
    ///
    /// # Errors
    /// If the method cannot work with the inputs.
    fn attend(
        &mut self,
        maskers: &dyn Masker<B>,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
    ) -> Result<Tensor<B, 4>, AttentionError>;
}

/// Whether the layers of a model attend through their methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AttentionMode {
    /// To every key that a query sees. The methods are not asked and remember nothing.
    Dense,
    /// To the keys that the method of the layer keeps.
    #[default]
    Sparse,
}

impl<B: Backend> AttentionHook<B> for AttentionMode {
    fn attend(
        &mut self,
        maskers: &dyn Masker<B>,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
    ) -> Result<Tensor<B, 4>, AttentionError> {
        let mask = match self {
            Self::Dense => Mask::full(inputs.mask_shape(), &inputs.device()),
            // What chooses keys gets no gradient, and must not be tracked for one.
            Self::Sparse => maskers.mask(&inputs.clone().detach(), state)?,
        };
        Ok(masked_attention(inputs, &mask, Requested::default())?.output)
    }
}
