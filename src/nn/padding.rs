//! Attention of sequences with padding. Each sequence is computed alone, over its real keys.

use std::ops::Range;

use burn::tensor::{Bool, Tensor, backend::Backend};

use super::{
    attend::{Attend, Attended},
    mha_input::{InputMasks, causal_offset},
    unpadded_tokens::{UnpaddedTokens, pick, spread},
};
use crate::{
    kernels::reference::scores::accumulation_dtype,
    masker::Masker,
    problem::{AttentionError, AttentionInputs, Visibility},
    state::{LayerState, mix},
};

/// The keys that the queries of a call see.
pub(super) enum SeenKeys<B: Backend> {
    /// All sequences are computed together, with one visibility.
    Together(Visibility<B>),
    /// Each sequence is computed alone over its real keys, so the method sees no padding. Without an attention mask,
    /// the visibility is a closed form, which native kernels support.
    Apart(Apart<B>),
}

/// The sequences of a call that are computed alone.
pub(super) struct Apart<B: Backend> {
    /// The real keys among all keys, including the cached ones.
    pub real: UnpaddedTokens,
    /// `[batch, queries, keys]`, `true` = hidden.
    pub mask: Option<Tensor<B, 3, Bool>>,
    pub place: Place,
    pub causal: bool,
}

/// The positions of the queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The queries are the last positions of the keys. Queries at padded positions attend to the keys that they see.
    AmongKeys,
    /// The queries are the last positions of the keys. Queries at padded positions are not computed: their output is 0.
    AmongRealKeys,
    /// The queries belong to another sequence. They are treated as the last of the real keys.
    Elsewhere,
}

impl<B: Backend> SeenKeys<B> {
    /// # Errors
    /// If a mask does not have the shape of the queries and keys, or a causal input has more queries than keys.
    pub fn of(
        mut masks: InputMasks<B>,
        shape: [usize; 3],
        burn_conventions: bool,
        device: &B::Device,
    ) -> Result<Self, AttentionError> {
        let [batch, queries, keys] = shape;
        masks.check(shape)?;
        // Under burn's conventions a query that sees no key attends to padding too, so padding is not removed.
        if let Some(pad) = masks.pad.as_ref().filter(|_| !burn_conventions) {
            let real = UnpaddedTokens::of_mask(pad, [batch, keys])?;
            if !real.are_all() {
                let among_keys = masks.causal || masks.one_sequence && queries == keys;
                let place = if among_keys { Place::AmongKeys } else { Place::Elsewhere };
                return Ok(Self::Apart(Apart { real, mask: masks.attention, place, causal: masks.causal }));
            }
            masks.pad = None;
        }
        Ok(Self::Together(masks.visibility(shape, device)?))
    }

    /// Attention over the visible keys, without a cache.
    ///
    /// # Errors
    /// If the shapes do not fit, or the method cannot work with them.
    pub fn attend<M: Masker<B>>(
        self,
        attend: &Attend<'_, M>,
        heads: [Tensor<B, 4>; 3],
        seed: u64,
    ) -> Result<Attended<B>, AttentionError> {
        let apart = match self {
            Self::Together(visibility) => return attend.forward(heads, visibility, &mut LayerState::new(seed)),
            Self::Apart(apart) => apart,
        };
        let [query, key, value] = heads;
        let one = |attend: &Attend<'_, M>, sequence: usize, query: Tensor<B, 4>| {
            let real = apart.real.row(sequence);
            let memory = (!real.is_empty()).then(|| {
                [&key, &value].map(|tensor| pick(tensor.clone().slice_dim(0, sequence..sequence + 1), 2, real))
            });
            // The random numbers of a method do not depend on the place in the batch.
            apart.attend_sequence(attend, sequence, query, memory, &mut LayerState::new(seed))
        };
        apart.attend_each(attend, query, seed, one)
    }
}

impl<B: Backend> Apart<B> {
    /// Computes attention for each sequence, and joins the outputs.
    ///
    /// # Errors
    /// The first error of a sequence.
    pub fn attend_each<M: Masker<B>>(
        &self,
        attend: &Attend<'_, M>,
        query: Tensor<B, 4>,
        seed: u64,
        mut one: impl FnMut(&Attend<'_, M>, usize, Tensor<B, 4>) -> Result<Attended<B>, AttentionError>,
    ) -> Result<Attended<B>, AttentionError> {
        let sequences = (0..self.real.batch()).map(|sequence| {
            // Unlike a method, dropout draws other random numbers in each sequence.
            let attend = Attend { dropout_seed: Some(mix(seed, sequence as u64)), ..*attend };
            one(&attend, sequence, query.clone().slice_dim(0, sequence..sequence + 1))
        });
        let (outputs, weights): (Vec<_>, Vec<_>) = sequences.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let weights = weights.into_iter().collect::<Option<Vec<_>>>();
        Ok((Tensor::cat(outputs, 0), weights.map(|weights| Tensor::cat(weights, 0))))
    }

    /// Attention of one sequence over its real keys.
    ///
    /// # Shapes
    /// - query: `[1, heads, queries, d_k]`
    /// - memory: keys and values, `[1, kv_heads, real keys, d_k]`, if there are any.
    ///
    /// # Errors
    /// If the shapes do not fit, or the method cannot work with them.
    pub fn attend_sequence<M: Masker<B>>(
        &self,
        attend: &Attend<'_, M>,
        sequence: usize,
        query: Tensor<B, 4>,
        memory: Option<[Tensor<B, 4>; 2]>,
        state: &mut LayerState,
    ) -> Result<Attended<B>, AttentionError> {
        let [_, heads, queries, width] = query.dims();
        let keys = self.real.columns();
        let (answered, first) = self.answered(sequence, queries);
        let (Some([key, value]), false) = (memory, answered.is_empty()) else {
            let zeros = |width, dtype| Tensor::zeros([1, heads, queries, width], (&query.device(), dtype));
            let weights = attend.fill_weights.then(|| zeros(keys, accumulation_dtype(query.dtype())));
            return Ok((zeros(width, query.dtype()), weights));
        };
        let inputs = AttentionInputs::new(pick(query, 2, &answered), key, value)?;
        let shape = inputs.mask_shape();
        let visibility = match &self.mask {
            None if self.causal => Visibility::Causal { offset: usize::try_from(first).unwrap_or(0) },
            None => Visibility::Full,
            Some(mask) => {
                let mask = pick(mask.clone().slice_dim(0, sequence..sequence + 1), 1, &answered);
                let mask = pick(mask, 2, self.real.row(sequence)).reshape([1, 1, shape.queries, shape.keys]);
                let after = self.causal.then(|| {
                    let after =
                        Tensor::<B, 2, Bool>::tril_mask([shape.queries, shape.keys], first as i64, &inputs.device());
                    after.reshape([1, 1, shape.queries, shape.keys])
                });
                Visibility::Masked(after.into_iter().fold(mask, Tensor::bool_or))
            }
        };
        let inputs = inputs.with_visibility(visibility)?.with_first_position(first);
        let (output, weights) = attend.over(inputs, state)?;
        let of_queries = |tensor| spread(tensor, 2, &answered, queries);
        let weights = weights.map(|weights| of_queries(spread(weights, 3, self.real.row(sequence), keys)));
        Ok((of_queries(output), weights))
    }

    /// The queries of a sequence that are computed, and the position of the first of them among the real keys.
    fn answered(&self, sequence: usize, queries: usize) -> (Vec<Range<usize>>, isize) {
        let (keys, ranges) = (self.real.columns(), self.real.row(sequence));
        let range = |range: Range<usize>| Vec::from_iter((!range.is_empty()).then_some(range));
        match (self.place, ranges) {
            (Place::Elsewhere, _) => (range(0..queries), self.real.count(sequence) as isize - queries as isize),
            (Place::AmongKeys, [real]) => {
                let first = keys as isize - queries as isize - real.start as isize;
                // With causal visibility, queries before the first real key see no key.
                let blind = if self.causal { usize::try_from(-first).unwrap_or(0).min(queries) } else { 0 };
                (range(blind..queries), first + blind as isize)
            }
            // With padding in the middle, queries at padded positions have no position among the real keys.
            (Place::AmongKeys | Place::AmongRealKeys, _) => {
                let first = keys - queries;
                (self.real.from(first).row(sequence).to_vec(), self.real.count_before(sequence, first) as isize)
            }
        }
    }
}

impl<B: Backend> InputMasks<B> {
    /// Checks the shapes of the masks, and that a causal input does not have more queries than keys.
    ///
    /// # Errors
    /// If they do not fit.
    fn check(&self, [batch, queries, keys]: [usize; 3]) -> Result<(), AttentionError> {
        self.expect([batch, queries, keys])?;
        match self.causal {
            true => causal_offset(batch, queries, keys).map(drop),
            false => Ok(()),
        }
    }
}
