use burn::tensor::{Bool, Tensor, backend::Backend};

use crate::problem::{AttentionError, Phase, Visibility};

/// Input of [SparseMultiHeadAttention](super::SparseMultiHeadAttention), with the constructors of burn's `MhaInput`.
#[derive(Debug, Clone)]
pub struct MhaInput<B: Backend> {
    /// `[batch, queries, d_model]`.
    pub(super) query: Tensor<B, 3>,
    /// `[batch, keys, d_model]`.
    pub(super) key: Tensor<B, 3>,
    /// `[batch, keys, d_model]`.
    pub(super) value: Tensor<B, 3>,
    pub(super) masks: InputMasks<B>,
    /// The phase of the call, if it was set.
    pub(super) phase: Option<Phase>,
}

/// Which keys the queries may see.
#[derive(Debug, Clone)]
pub(super) struct InputMasks<B: Backend> {
    pub pad: Option<Tensor<B, 2, Bool>>,
    pub attention: Option<Tensor<B, 3, Bool>>,
    pub causal: bool,
    /// Whether the queries and the keys are the same positions.
    pub one_sequence: bool,
}

impl<B: Backend> MhaInput<B> {
    /// Input whose queries, keys and values come from one sequence.
    ///
    /// # Shapes
    /// - tensor: `[batch, length, d_model]`
    pub fn self_attn(tensor: Tensor<B, 3>) -> Self {
        let mut input = Self::new(tensor.clone(), tensor.clone(), tensor);
        input.masks.one_sequence = true;
        input
    }

    /// Input with the queries of one sequence, and the keys and values of another.
    ///
    /// Unless the input is [causal](Self::causal), queries have no position among the keys. A method that selects keys
    /// by position treats the queries as the last of the real keys of each sequence. For queries and keys of one
    /// sequence, use [self_attn](Self::self_attn), which knows the positions.
    ///
    /// # Shapes
    /// - query: `[batch, queries, d_model]`
    /// - key, value: `[batch, keys, d_model]`
    pub fn new(query: Tensor<B, 3>, key: Tensor<B, 3>, value: Tensor<B, 3>) -> Self {
        Self { query, key, value, masks: InputMasks::none(), phase: None }
    }

    /// Hides keys that are padding.
    ///
    /// Padding is removed before the method sees the keys. It may stand anywhere in a sequence. Each sequence of the
    /// batch is computed as if it were alone: a sink, for example, keeps the first real keys. Attention stays sparse.
    ///
    /// The output at a padded position is finite, but has no meaning. Without a cache, it is computed from the keys
    /// that the position sees. With a cache, or if padding stands between real positions, it is the output projection
    /// of 0.
    ///
    /// Under [burn's conventions](super::SparseMultiHeadAttentionConfig::burn_conventions), padding is a tensor over
    /// all pairs of queries and keys, like [mask_attn](Self::mask_attn).
    ///
    /// With a cache, the mask covers all positions so far. For cached positions it must be the same as in earlier
    /// calls. Without a mask, no new position is padding.
    ///
    /// # Shapes
    /// - mask_pad: `[batch, keys]`, `true` = hidden.
    pub fn mask_pad(mut self, mask_pad: Tensor<B, 2, Bool>) -> Self {
        self.masks.pad = Some(mask_pad);
        self
    }

    /// Hides keys from some queries.
    ///
    /// For a causal mask, use [causal](Self::causal) instead. A mask tensor costs time and memory for all pairs of
    /// queries and keys, even if the method keeps few keys.
    ///
    /// # Shapes
    /// - mask_attn: `[batch, queries, keys]`, `true` = hidden.
    pub fn mask_attn(mut self, mask_attn: Tensor<B, 3, Bool>) -> Self {
        self.masks.attention = Some(mask_attn);
        self
    }

    /// Hides from each query the keys after its position. The queries are the last positions of the keys, so there must
    /// not be more queries than keys.
    pub fn causal(mut self) -> Self {
        self.masks.causal = true;
        self
    }

    /// Sets the phase of a call with a cache, for methods with phases. By default the first call with an empty cache is
    /// a prefill. A later call is decoding if it has one new query, and a prefill if it has more. A call without a
    /// cache is always a prefill.
    pub fn phase(mut self, phase: Phase) -> Self {
        self.phase = Some(phase);
        self
    }
}

impl<B: Backend> InputMasks<B> {
    /// Nothing is hidden.
    pub fn none() -> Self {
        Self { pad: None, attention: None, causal: false, one_sequence: false }
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
        Self { attention, ..self.clone() }
    }

    /// Checks the shapes of the masks.
    ///
    /// # Errors
    /// If one does not have the shape of the queries and keys.
    pub fn expect(&self, [batch, queries, keys]: [usize; 3]) -> Result<(), AttentionError> {
        if let Some(pad) = &self.pad {
            expect("mask_pad", pad.dims().to_vec(), &[batch, keys])?;
        }
        match &self.attention {
            Some(mask) => expect("mask_attn", mask.dims().to_vec(), &[batch, queries, keys]),
            None => Ok(()),
        }
    }

    /// The visibility that the masks describe. If there is only causality, it is a closed form. With a mask, it is a
    /// tensor.
    ///
    /// # Errors
    /// If a mask does not have the shape of the queries and keys, or a causal input has more queries than keys.
    pub fn visibility(
        self,
        [batch, queries, keys]: [usize; 3],
        device: &B::Device,
    ) -> Result<Visibility<B>, AttentionError> {
        self.expect([batch, queries, keys])?;
        let mut hidden = Vec::new();
        if let Some(pad) = self.pad {
            hidden.push(pad.reshape([batch, 1, 1, keys]).expand([batch, 1, queries, keys]));
        }
        if let Some(mask) = self.attention {
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

/// The position of the first query, if the queries are the last positions of the keys.
pub(super) fn causal_offset(batch: usize, queries: usize, keys: usize) -> Result<usize, AttentionError> {
    keys.checked_sub(queries).ok_or_else(|| {
        let expected = format!("at most {keys} queries, the last of the keys, since the input is causal");
        AttentionError::Shape { tensor: "query", found: vec![batch, queries], expected }
    })
}

/// Output of [SparseMultiHeadAttention](super::SparseMultiHeadAttention).
#[derive(Debug, Clone)]
pub struct MhaOutput<B: Backend> {
    /// The attention weights, `[batch, heads, queries, keys]`, if the layer is configured to return them
    /// ([fill_weights](super::SparseMultiHeadAttentionConfig::fill_weights)).
    pub weights: Option<Tensor<B, 4>>,
    /// The context, `[batch, queries, d_model]`.
    pub context: Tensor<B, 3>,
}
