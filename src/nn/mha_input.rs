use burn::tensor::{Bool, Tensor, backend::Backend};

use crate::problem::{AttentionError, Phase, Visibility};

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
    /// The phase of the call, if it was set.
    pub(super) phase: Option<Phase>,
}

/// Which keys the queries may see.
#[derive(Debug, Clone)]
pub(super) struct InputMasks<B: Backend> {
    pub pad: Option<Tensor<B, 2, Bool>>,
    pub attention: Option<Tensor<B, 3, Bool>>,
    pub causal: bool,
    /// Whether the queries are the positions of the keys.
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

    /// Input of a sequence of queries and another of keys and values.
    ///
    /// Unless it is [causal](Self::causal), queries have no position among the keys: a method that goes by position takes
    /// them for the last of each sequence's real keys. For one sequence, [self_attn](Self::self_attn) says where they stand.
    ///
    /// # Shapes
    /// - query: `[batch, queries, d_model]`
    /// - key, value: `[batch, keys, d_model]`
    pub fn new(query: Tensor<B, 3>, key: Tensor<B, 3>, value: Tensor<B, 3>) -> Self {
        Self { query, key, value, masks: InputMasks::none(), phase: None }
    }

    /// Hides keys that are padding.
    ///
    /// Padding is cut out before the method sees the keys, wherever it stands: each sequence of the batch is worked as it
    /// would be alone, a sink is the first keys that are none, and attention stays sparse. What a query at a padded
    /// position gives is finite and means nothing: without a cache, what the keys that it sees make of it; with a cache,
    /// and where padding stands in the middle of a sequence, what the output projection makes of 0. (Under
    /// [burn's conventions](super::SparseMultiHeadAttentionConfig::burn_conventions) padding is a tensor over all pairs,
    /// like [mask_attn](Self::mask_attn).)
    ///
    /// With a cache the mask is that of all positions so far, and must say of the cached ones what it said when they came.
    /// Without one, the new positions are no padding.
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

    /// Sets the phase of a call with a cache, for methods with phases. By default the first call with an empty cache is a
    /// prefill. A later call is decoding if it has one new query, and a prefill if it has more. A call without a cache is
    /// always a prefill.
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

    /// What attention makes of the masks: closed form where there is only causality, otherwise a tensor.
    ///
    /// # Errors
    /// If a mask does not have the shape of the queries and keys, or causality lacks keys.
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
