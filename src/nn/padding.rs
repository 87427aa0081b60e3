//! Which keys the queries of a call see: all sequences alike, or each its own span.

use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

use super::{
    attend::{Attend, Attended},
    mha_input::{InputMasks, causal_offset},
};
use crate::{
    attention::{AttentionError, AttentionInputs, Visibility, scores::accumulation_dtype},
    masker::{LayerState, Masker},
};

/// What the masks of a call without a cache come to.
pub(super) enum SeenKeys<B: Backend> {
    /// One visibility says it for all sequences.
    Together(Visibility<B>),
    /// Each sequence has some of the keys, and is worked alone over these: in closed form, so that native kernels serve
    /// it and the method sees no padding.
    Apart { spans: Vec<Range<usize>>, causal: bool },
}

impl<B: Backend> SeenKeys<B> {
    /// # Errors
    /// If a mask does not have the shape of the queries and keys, or causality lacks keys.
    pub fn of(
        mut masks: InputMasks<B>,
        shape: [usize; 3],
        burn_conventions: bool,
        device: &B::Device,
    ) -> Result<Self, AttentionError> {
        let [batch, queries, keys] = shape;
        // Under burn's conventions padding is attended to where there is nothing else.
        if !burn_conventions && let Some(spans) = masks.spans(batch, keys)? {
            if spans.iter().any(|span| *span != (0..keys)) {
                if masks.causal {
                    causal_offset(batch, queries, keys)?;
                }
                return Ok(Self::Apart { spans, causal: masks.causal });
            }
            masks.pad = None;
        }
        Ok(Self::Together(masks.visibility(shape, device)?))
    }

    /// Attention over the keys that are seen, without a memory of earlier calls.
    ///
    /// # Errors
    /// If the shapes do not fit, or the method cannot work with them.
    pub fn attend<M: Masker<B>>(
        self,
        attend: &Attend<'_, M>,
        heads: [Tensor<B, 4>; 3],
        seed: u64,
    ) -> Result<Attended<B>, AttentionError> {
        let (spans, causal) = match self {
            Self::Together(visibility) => return attend.forward(heads, visibility, &mut LayerState::new(seed)),
            Self::Apart { spans, causal } => (spans, causal),
        };
        let sequences = spans.into_iter().enumerate().map(|(sequence, span)| {
            let heads = heads.clone().map(|heads| heads.slice_dim(0, sequence..sequence + 1));
            let mut state = LayerState::new(seed);
            attend_span(attend, heads, span, causal, &mut state)
        });
        let (outputs, weights): (Vec<_>, Vec<_>) = sequences.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let weights = weights.into_iter().collect::<Option<Vec<_>>>();
        Ok((Tensor::cat(outputs, 0), weights.map(|weights| Tensor::cat(weights, 0))))
    }
}

/// Attention of one sequence over some of its keys.
fn attend_span<B: Backend, M: Masker<B>>(
    attend: &Attend<'_, M>,
    [query, key, value]: [Tensor<B, 4>; 3],
    span: Range<usize>,
    causal: bool,
    state: &mut LayerState,
) -> Result<Attended<B>, AttentionError> {
    let ([_, _, queries, _], [_, _, keys, _]) = (query.dims(), key.dims());
    // Where the first query stands, if the span starts at 0.
    let first = keys as isize - queries as isize - span.start as isize;
    // Causally, queries before the span see nothing of it.
    let blind = if causal { usize::try_from(-first).unwrap_or(0).min(queries) } else { 0 };
    let ([batch, heads, ..], value_dim) = (query.dims(), value.dims()[3]);
    if span.is_empty() || blind == queries {
        let zeros = |width, dtype| Tensor::zeros([batch, heads, queries, width], (&query.device(), dtype));
        let weights = attend.fill_weights.then(|| zeros(keys, accumulation_dtype(query.dtype())));
        return Ok((zeros(value_dim, query.dtype()), weights));
    }
    let query = query.slice_dim(2, blind..queries);
    let inputs = AttentionInputs::new(query, key.slice_dim(2, span.clone()), value.slice_dim(2, span.clone()))?;
    let inputs = match causal {
        true => inputs.with_visibility(Visibility::Causal { offset: usize::try_from(first).unwrap_or(0) })?,
        false => inputs.with_first_position(first),
    };
    let (output, weights) = attend.over(inputs, state)?;
    let weights = weights.map(|weights| between_zeros(weights, 3, span.start, keys - span.end));
    Ok((between_zeros(output, 2, blind, 0), weights.map(|weights| between_zeros(weights, 2, blind, 0))))
}

/// The tensor with zeros before and after it along a dimension.
fn between_zeros<B: Backend>(tensor: Tensor<B, 4>, dim: usize, before: usize, after: usize) -> Tensor<B, 4> {
    let zeros = |length| {
        let mut dims = tensor.dims();
        dims[dim] = length;
        (length > 0).then(|| Tensor::zeros(dims, (&tensor.device(), tensor.dtype())))
    };
    match (zeros(before), zeros(after)) {
        (None, None) => tensor,
        (before, after) => Tensor::cat([before, Some(tensor), after].into_iter().flatten().collect(), dim),
    }
}
