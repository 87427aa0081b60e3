use std::ops::Range;

use burn::tensor::{Bool, Tensor, backend::Backend};

use crate::attention::{AttentionError, Visibility};

/// Input of [SparseMultiHeadAttention](super::SparseMultiHeadAttention), with the constructors of burn's type of this
/// name.
#[derive(Debug, Clone)]
pub struct MhaInput<B: Backend> {
    /// `[batch, queries, d_model]`.
    pub(super) query: Tensor<B, 3>,
    /// `[batch, keys, d_model]`.
    pub(super) key: Tensor<B, 3>,
    /// `[batch, keys, d_model]`.
    pub(super) value: Tensor<B, 3>,
    pub(super) masks: InputMasks<B>,
}

/// Which keys the queries may see.
#[derive(Debug, Clone)]
pub(super) struct InputMasks<B: Backend> {
    pub pad: Option<Tensor<B, 2, Bool>>,
    pub attention: Option<Tensor<B, 3, Bool>>,
    pub causal: bool,
}

impl<B: Backend> MhaInput<B> {
    /// Input whose queries, keys and values come from one sequence.
    ///
    /// # Shapes
    /// - tensor: `[batch, length, d_model]`
    pub fn self_attn(tensor: Tensor<B, 3>) -> Self {
        Self::new(tensor.clone(), tensor.clone(), tensor)
    }

    /// Input of a sequence of queries and another of keys and values.
    ///
    /// # Shapes
    /// - query: `[batch, queries, d_model]`
    /// - key, value: `[batch, keys, d_model]`
    pub fn new(query: Tensor<B, 3>, key: Tensor<B, 3>, value: Tensor<B, 3>) -> Self {
        Self { query, key, value, masks: InputMasks::none() }
    }

    /// Hides keys that are padding.
    ///
    /// Padding at the ends of a sequence is cut off before the method sees the keys: a sink is then the first keys that are
    /// none, and attention stays sparse. Elsewhere it is a tensor over all pairs, like [mask_attn](Self::mask_attn).
    ///
    /// # Shapes
    /// - mask_pad: `[batch, keys]`, `true` = hidden.
    pub fn mask_pad(mut self, mask_pad: Tensor<B, 2, Bool>) -> Self {
        self.masks.pad = Some(mask_pad);
        self
    }

    /// Hides keys from some queries.
    ///
    /// For a causal mask, [causal](Self::causal) says the same in closed form: a tensor over all pairs costs time and
    /// memory for all pairs, whatever the method keeps.
    ///
    /// # Shapes
    /// - mask_attn: `[batch, queries, keys]`, `true` = hidden.
    pub fn mask_attn(mut self, mask_attn: Tensor<B, 3, Bool>) -> Self {
        self.masks.attention = Some(mask_attn);
        self
    }

    /// Hides from each query the keys after it. The queries are the last of the keys, which are at least as many.
    pub fn causal(mut self) -> Self {
        self.masks.causal = true;
        self
    }
}

impl<B: Backend> InputMasks<B> {
    /// Nothing is hidden.
    pub fn none() -> Self {
        Self { pad: None, attention: None, causal: false }
    }

    /// Padded keys are hidden, if there are any.
    pub fn padding(pad: Option<Tensor<B, 2, Bool>>) -> Self {
        Self { pad, ..Self::none() }
    }

    /// The same masks for the queries from a position on.
    pub fn of_queries_from(&self, first: usize) -> Self {
        let attention = self.attention.clone().map(|mask| {
            let [_, queries, _] = mask.dims();
            mask.slice_dim(1, first.min(queries)..queries)
        });
        Self { pad: self.pad.clone(), attention, causal: self.causal }
    }

    /// Where only padding and causality hide keys, and the padding stands at the ends: the keys that each sequence has.
    ///
    /// # Errors
    /// If the padding mask does not have the shape of the keys.
    pub fn spans(&self, batch: usize, keys: usize) -> Result<Option<Vec<Range<usize>>>, AttentionError> {
        let (Some(pad), None) = (&self.pad, &self.attention) else {
            return Ok(None);
        };
        expect("mask_pad", pad.dims().to_vec(), &[batch, keys])?;
        let hidden = pad.to_data().iter::<bool>().collect::<Vec<_>>();
        let span = |hidden: &[bool]| {
            let start = hidden.iter().take_while(|&&hidden| hidden).count();
            let length = hidden[start..].iter().take_while(|&&hidden| !hidden).count();
            hidden[start + length..].iter().all(|&hidden| hidden).then_some(start..start + length)
        };
        Ok(hidden.chunks(keys).map(span).collect())
    }

    /// What attention makes of the masks: closed form where there is only causality, otherwise a tensor.
    ///
    /// # Errors
    /// If a mask does not have the shape of the queries and keys, or causality lacks keys.
    pub fn visibility(
        self,
        [batch, queries, keys]: [usize; 3],
        device: &B::Device,
    ) -> Result<Visibility<B>, AttentionError> {
        let mut hidden = Vec::new();
        if let Some(pad) = self.pad {
            expect("mask_pad", pad.dims().to_vec(), &[batch, keys])?;
            hidden.push(pad.reshape([batch, 1, 1, keys]).expand([batch, 1, queries, keys]));
        }
        if let Some(mask) = self.attention {
            expect("mask_attn", mask.dims().to_vec(), &[batch, queries, keys])?;
            hidden.push(mask.reshape([batch, 1, queries, keys]));
        }
        if self.causal {
            let offset = causal_offset(batch, queries, keys)?;
            if hidden.is_empty() {
                return Ok(Visibility::Causal { offset });
            }
            let after = Tensor::<B, 2, Bool>::tril_mask([queries, keys], offset as i64, device);
            hidden.push(after.reshape([1, 1, queries, keys]).expand([batch, 1, queries, keys]));
        }
        Ok(hidden.into_iter().reduce(Tensor::bool_or).map_or(Visibility::Full, Visibility::Masked))
    }
}

fn expect(tensor: &'static str, found: Vec<usize>, wanted: &[usize]) -> Result<(), AttentionError> {
    match found == wanted {
        true => Ok(()),
        false => Err(AttentionError::Shape { tensor, found, expected: format!("{wanted:?}") }),
    }
}

/// The position of the first query where the queries are the last of the keys.
pub(super) fn causal_offset(batch: usize, queries: usize, keys: usize) -> Result<usize, AttentionError> {
    keys.checked_sub(queries).ok_or_else(|| {
        let expected = format!("at most {keys} queries, the last of the keys, since the input is causal");
        AttentionError::Shape { tensor: "query", found: vec![batch, queries], expected }
    })
}

/// Output of [SparseMultiHeadAttention](super::SparseMultiHeadAttention).
#[derive(Debug, Clone)]
pub struct MhaOutput<B: Backend> {
    /// The attention weights, `[batch, heads, queries, keys]`, where the layer is asked to fill them
    /// ([fill_weights](super::SparseMultiHeadAttentionConfig::fill_weights)).
    pub weights: Option<Tensor<B, 4>>,
    /// The context, `[batch, queries, d_model]`.
    pub context: Tensor<B, 3>,
}
