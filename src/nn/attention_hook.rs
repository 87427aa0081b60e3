use burn::tensor::{Tensor, backend::Backend};

use crate::{
    attention::masked_attention,
    mask::Mask,
    masker::Masker,
    problem::{AttentionError, AttentionInputs, Requested},
    state::LayerState,
};

/// Computes the attention of a layer: it gets the queries, keys and values, and returns the output of the heads.
///
/// [GroupedQueryAttention::forward_hooked](super::GroupedQueryAttention::forward_hooked) calls a hook. An attention
/// layer of any other model can do the same: it makes [AttentionInputs] from its heads and uses the output. A hook can
/// choose the [mode](AttentionMode), record its inputs, or measure what a method keeps.
///
/// # Example
/// A hook that counts the queries:
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
    /// The attention output of a layer. `maskers` is the method of the layer, and `state` is what the method remembers
    /// of the keys.
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

/// Whether the layers of a model use their methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AttentionMode {
    /// Attention to all visible keys. The methods do not run and remember nothing.
    Dense,
    /// Attention to the keys that the method of the layer keeps.
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
            // The choice of keys has no gradient, so autodiff must not track it.
            Self::Sparse => maskers.mask(&inputs.clone().detach(), state)?,
        };
        Ok(masked_attention(inputs, &mask, Requested::default())?.output)
    }
}
