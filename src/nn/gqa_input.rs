use burn::tensor::{Bool, Int, Tensor, backend::Backend};

use super::unpadded_tokens::UnpaddedTokens;
use crate::problem::{AttentionError, Phase};

/// Input of [GroupedQueryAttention](super::GroupedQueryAttention): the next tokens of each sequence of a batch, and
/// which of them are padding. A tensor can be converted into an input without padding.
///
/// Each sequence of a batch is computed as if it were alone. Padding may stand anywhere in a sequence. No query sees
/// it, it has no position, and it is not stored in the [cache](super::KvCache). Sequences of unequal lengths are padded
/// on the left or on the right, and are then decoded token by token. The output at a padded position is the output
/// projection of 0.
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Distribution, Tensor};
/// use burn_flex::Flex;
/// use sparse_attention_hub::nn::{GqaInput, GroupedQueryAttentionConfig, KvCache};
///
/// let device = Default::default();
/// let attention = GroupedQueryAttentionConfig::new(64, 8, 2).init::<Flex>(&device)?;
/// let tokens = |count| Tensor::random([3, count, 64], Distribution::Default, &device);
/// let mut cache = KvCache::new(42);
/// // Prompts of 34, 25 and 14 tokens, with padding before the shorter ones.
/// attention.forward_cache(GqaInput::new(tokens(34)).right_aligned(&[34, 25, 14])?, &mut cache)?;
/// attention.forward_cache(tokens(1), &mut cache)?;
/// assert_eq!((cache.len(), cache.real_len(2)), (35, 15));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct GqaInput<B: Backend> {
    /// `[batch, tokens, d_model]`.
    pub(super) tensor: Tensor<B, 3>,
    padding: Padding<B>,
    /// `[batch, tokens]`.
    positions: Option<Tensor<B, 2, Int>>,
    /// The phase of the call, if it was set.
    pub(super) phase: Option<Phase>,
}

/// Which of the tokens are padding.
#[derive(Debug, Clone)]
enum Padding<B: Backend> {
    None,
    Mask(Tensor<B, 2, Bool>),
    Known(UnpaddedTokens),
}

impl<B: Backend> From<Tensor<B, 3>> for GqaInput<B> {
    fn from(tensor: Tensor<B, 3>) -> Self {
        Self::new(tensor)
    }
}

impl<B: Backend> GqaInput<B> {
    /// The next tokens of each sequence, without padding.
    ///
    /// # Shapes
    /// - tensor: `[batch, tokens, d_model]`
    pub fn new(tensor: Tensor<B, 3>) -> Self {
        Self { tensor, padding: Padding::None, positions: None, phase: None }
    }

    /// Sets which of these tokens are padding. The mask does not include cached tokens, because the cache knows their
    /// padding.
    ///
    /// # Shapes
    /// - mask_pad: `[batch, tokens]`, `true` = padding, as in burn.
    pub fn mask_pad(self, mask_pad: Tensor<B, 2, Bool>) -> Self {
        Self { padding: Padding::Mask(mask_pad), ..self }
    }

    /// Sets the number of real tokens of each sequence. They are the first tokens, and the padding is on the right.
    ///
    /// # Errors
    /// If the number of lengths is not the batch size, or a length is above the number of tokens.
    pub fn left_aligned(self, lengths: &[usize]) -> Result<Self, AttentionError> {
        self.of_lengths(lengths, |length, _| 0..length)
    }

    /// Sets the number of real tokens of each sequence. They are the last tokens, and the padding is on the left.
    ///
    /// # Errors
    /// If the number of lengths is not the batch size, or a length is above the number of tokens.
    pub fn right_aligned(self, lengths: &[usize]) -> Result<Self, AttentionError> {
        self.of_lengths(lengths, |length, tokens| tokens - length..tokens)
    }

    /// Sets the positions of the tokens for the rotary encoding. By default, the real tokens of each sequence are
    /// numbered from 0, starting with the cached ones.
    ///
    /// Positions affect the rotation only. Which tokens a query sees depends on the order of the tokens.
    ///
    /// # Shapes
    /// - positions: `[batch, tokens]`. Values at padded positions are ignored.
    pub fn positions(self, positions: Tensor<B, 2, Int>) -> Self {
        Self { positions: Some(positions), ..self }
    }

    /// Sets the phase of a call with a cache, for methods with phases. For example, the drafts of speculative decoding
    /// are several tokens in the phase `Decode`, and the last chunk of a prompt can be one token in the phase
    /// `Prefill`.
    ///
    /// By default the first call with an empty cache is a prefill. A later call is decoding if it has one token, and a
    /// prefill if it has more. All sequences of a batch have the same phase, and padding counts as tokens. A call
    /// without a cache is always a prefill.
    pub fn phase(self, phase: Phase) -> Self {
        Self { phase: Some(phase), ..self }
    }

    /// The tokens.
    pub fn tensor(&self) -> &Tensor<B, 3> {
        &self.tensor
    }

    /// The same input with other tokens.
    #[cfg(feature = "hf")]
    pub(crate) fn with_tensor(self, tensor: Tensor<B, 3>) -> Self {
        Self { tensor, ..self }
    }

    fn of_lengths(
        self,
        lengths: &[usize],
        range: impl Fn(usize, usize) -> std::ops::Range<usize>,
    ) -> Result<Self, AttentionError> {
        let [batch, tokens, _] = self.tensor.dims();
        if lengths.len() != batch {
            let expected = format!("[{batch}] (batch)");
            return Err(AttentionError::Shape { tensor: "lengths", found: vec![lengths.len()], expected });
        }
        if let Some(length) = lengths.iter().find(|&&length| length > tokens) {
            let (value, allowed) = (length.to_string(), "at most the number of tokens");
            return Err(AttentionError::Value { field: "lengths", value, allowed });
        }
        let real = UnpaddedTokens::of_ranges(tokens, lengths.iter().map(|&length| range(length, tokens)));
        Ok(Self { padding: Padding::Known(real), ..self })
    }

    /// The real tokens. `None` if there is no padding.
    ///
    /// # Errors
    /// If the mask does not have the shape of the tokens.
    pub(super) fn real(&self) -> Result<Option<UnpaddedTokens>, AttentionError> {
        let [batch, tokens, _] = self.tensor.dims();
        let real = match &self.padding {
            Padding::None => return Ok(None),
            Padding::Mask(mask) => UnpaddedTokens::of_mask(mask, [batch, tokens])?,
            Padding::Known(real) => real.clone(),
        };
        Ok((!real.are_all()).then_some(real))
    }

    /// The positions of each sequence, if they were set.
    ///
    /// # Errors
    /// If their shape is not that of the tokens, or the position of a real token is not in `0..2^24`, where f32 is
    /// exact.
    pub(super) fn given_positions(&self, real: &UnpaddedTokens) -> Result<Option<Vec<Vec<usize>>>, AttentionError> {
        let Some(positions) = &self.positions else { return Ok(None) };
        let [batch, tokens, _] = self.tensor.dims();
        if positions.dims() != [batch, tokens] {
            let (found, expected) = (positions.dims().to_vec(), format!("[{batch}, {tokens}], as the input"));
            return Err(AttentionError::Shape { tensor: "positions", found, expected });
        }
        let all = positions.to_data().iter::<i64>().collect::<Vec<_>>();
        let of_row = |(row, positions): (usize, &[i64])| {
            let mut of_row = vec![0; tokens];
            for column in real.row(row).iter().cloned().flatten() {
                of_row[column] = match usize::try_from(positions[column]) {
                    Ok(position) if position < LAST_POSITION => position,
                    _ => {
                        let (value, allowed) = (positions[column].to_string(), "in 0..2^24, which f32 counts exactly");
                        return Err(AttentionError::Value { field: "positions", value, allowed });
                    }
                };
            }
            Ok(of_row)
        };
        all.chunks(tokens.max(1)).enumerate().map(of_row).collect::<Result<_, _>>().map(Some)
    }
}

/// Positions must be below this number. Angles are computed from positions in f32, which is exact up to it.
const LAST_POSITION: usize = 1 << 24;
