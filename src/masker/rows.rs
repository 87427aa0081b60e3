//! Selection and sampling on the host, one row of keys at a time.

use std::cell::RefCell;

use burn::tensor::{Tensor, backend::Backend};
use rayon::prelude::*;

use crate::{
    mask::{Chosen, Kept, Mask, MaskForm, MaskShape, Pattern},
    problem::{AttentionError, AttentionInputs},
    scorer::{Scorer, ShareGroup},
    state::LayerState,
};

/// The scores of the keys that a selector may still choose: the visible keys that are not kept yet. Other keys have the
/// score minus infinity.
pub(crate) fn candidate_scores<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    scores: Tensor<B, 4>,
) -> Vec<f32> {
    let shape = mask.shape();
    let dims = shape.dims();
    let hidden = inputs.visibility().hidden(shape, 0..shape.queries, &[shape.all_keys()], &mask.device());
    let scores = match hidden {
        Some(hidden) => scores.mask_fill(hidden.expand(dims), f32::NEG_INFINITY),
        None => scores,
    };
    let scores = match mask.is_empty() {
        true => scores,
        false => scores.mask_fill(mask.to_dense().greater_elem(0.0), f32::NEG_INFINITY),
    };
    host(scores)
}

/// Calls `work` with the number and the scores of each row, and returns the results. The scores are those of
/// [candidate_scores]. Rows are processed in parallel.
///
/// If the scorer, the visibility and the mask allow it, the scores of all pairs are never in memory at the same time.
pub(crate) fn by_candidates<B: Backend, T: Send>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    scorer: &dyn Scorer<B>,
    state: &mut LayerState,
    work: impl Fn(usize, &[f32]) -> T + Sync,
) -> Result<Vec<T>, AttentionError> {
    by_candidates_of(inputs, mask, scorer, state, ShareGroup::No, work)
}

/// The keys that `choose` selects from the candidates of each row, or of each GQA group if its heads choose together.
pub(crate) fn choose_together<B: Backend>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    scorer: &dyn Scorer<B>,
    state: &mut LayerState,
    share: ShareGroup,
    choose: impl Fn(&[f32]) -> Vec<u32> + Sync,
) -> Result<Chosen, AttentionError> {
    let heads_per_row = if share == ShareGroup::No { 1 } else { inputs.mask_shape().heads / inputs.kv_heads() };
    let rows = by_candidates_of(inputs, mask, scorer, state, share, |_, scores| choose(scores))?;
    Ok(Chosen { rows, heads_per_row })
}

/// The same as [by_candidates]. Heads that choose together are processed once, as the first row of their group.
fn by_candidates_of<B: Backend, T: Send>(
    inputs: &AttentionInputs<B>,
    mask: &Mask<B>,
    scorer: &dyn Scorer<B>,
    state: &mut LayerState,
    share: ShareGroup,
    work: impl Fn(usize, &[f32]) -> T + Sync,
) -> Result<Vec<T>, AttentionError> {
    let shape = mask.shape();
    let rows = Grouped { shape, group: shape.heads / inputs.kv_heads(), share };
    if let (Some(seen), Some(taken)) = (inputs.visibility().closed_form(), KeptKeys::of_sparse(mask))
        && let Some(scorer) = scorer.by_row(inputs, state)?
    {
        let hide = |kv_head, head, query, scores: &mut [f32]| {
            let seen = seen(query, shape.keys);
            scores[..seen.start].fill(f32::NEG_INFINITY);
            scores[seen.end..].fill(f32::NEG_INFINITY);
            taken.hide(rows.row(kv_head, head, query), query, scores);
        };
        return Ok(rows.work(
            |kv_head, query, scores| match share {
                ShareGroup::Mean => {
                    scorer.score_group_sum(kv_head, query, rows.group, scores);
                    (0..rows.group).for_each(|head| hide(kv_head, head, query, &mut scores[..shape.keys]));
                }
                ShareGroup::No | ShareGroup::Max => {
                    scorer.score_group(kv_head, query, scores);
                    for (head, scores) in scores.chunks_exact_mut(shape.keys).enumerate() {
                        hide(kv_head, head, query, scores);
                    }
                    share.combine(scores, rows.group);
                }
            },
            work,
        ));
    }
    let all = candidate_scores(inputs, mask, scorer.score(inputs, state)?);
    Ok(rows.work(
        |kv_head, query, scores| {
            for (head, scores) in scores.chunks_exact_mut(shape.keys).enumerate() {
                scores.copy_from_slice(&all[rows.row(kv_head, head, query) * shape.keys..][..shape.keys]);
            }
            share.combine(scores, rows.group);
        },
        work,
    ))
}

/// The rows of a mask, taken in groups of heads that share a key-value head.
#[derive(Clone, Copy)]
struct Grouped {
    shape: MaskShape,
    group: usize,
    share: ShareGroup,
}

thread_local! {
    /// A buffer for the scores of a group. The next group uses it again, because fresh memory costs more time than the
    /// scores.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Grouped {
    fn rows_per_group(&self) -> usize {
        if self.share == ShareGroup::No { self.group } else { 1 }
    }

    fn row(&self, kv_head: usize, head: usize, query: usize) -> usize {
        (kv_head * self.group + head) * self.shape.queries + query
    }

    /// Calls `work` for each row, or once for each group if its heads choose together. `score` fills in the scores of a
    /// group. If heads choose together, it writes the combined scores to the first row.
    /// heads share.
    fn work<T: Send>(
        &self,
        score: impl Fn(usize, usize, &mut [f32]) + Sync,
        work: impl Fn(usize, &[f32]) -> T + Sync,
    ) -> Vec<T> {
        let MaskShape { queries, keys, .. } = self.shape;
        let units = self.shape.rows() / self.group;
        let of_group = |unit: usize| {
            let (kv_head, query) = (unit / queries, unit % queries);
            // The buffer is taken and not borrowed: while this row waits, the thread may work on another row.
            let mut scores = SCORES.take();
            scores.resize(self.group * keys, 0.0);
            score(kv_head, query, &mut scores);
            let heads = scores.chunks_exact(keys).enumerate().take(self.rows_per_group());
            let done = heads.map(|(head, scores)| work(self.row(kv_head, head, query), scores)).collect();
            SCORES.set(scores);
            done
        };
        let done = (0..units).into_par_iter().map(of_group).collect::<Vec<Vec<T>>>();
        let mut done = done.into_iter().map(Vec::into_iter).collect::<Vec<_>>();
        let kv_heads = units / queries;
        let mut rows = Vec::with_capacity(units * self.rows_per_group());
        for kv_head in 0..kv_heads {
            for _ in 0..self.rows_per_group() {
                rows.extend(done[kv_head * queries..][..queries].iter_mut().filter_map(Iterator::next));
            }
        }
        rows
    }
}

/// The keys that a mask already keeps, in a form that can be read row by row.
pub(crate) enum KeptKeys {
    Nothing,
    Everything,
    Pattern(Pattern),
    Listed(Vec<Vec<Kept>>),
    Dense(Vec<f32>),
}

impl KeptKeys {
    /// The kept keys of a mask in any form.
    pub(crate) fn of<B: Backend>(mask: &Mask<B>) -> Self {
        match mask.form() {
            MaskForm::Empty => Self::Nothing,
            MaskForm::Full => Self::Everything,
            MaskForm::Pattern(pattern) => Self::Pattern(*pattern),
            MaskForm::Indices(rows) => Self::Listed(rows.to_host()),
            MaskForm::Dense(weights) => Self::Dense(host(weights.clone())),
        }
    }

    /// The kept keys of a mask. `None` if the mask is dense, with a weight for every pair.
    fn of_sparse<B: Backend>(mask: &Mask<B>) -> Option<Self> {
        match mask.form() {
            MaskForm::Dense(_) => None,
            _ => Some(Self::of(mask)),
        }
    }

    fn hide(&self, row: usize, query: usize, scores: &mut [f32]) {
        match self {
            Self::Nothing => {}
            Self::Everything => scores.fill(f32::NEG_INFINITY),
            Self::Pattern(pattern) => {
                for kept in pattern.row(query, scores.len()) {
                    scores[kept].fill(f32::NEG_INFINITY);
                }
            }
            Self::Listed(rows) => rows[row].iter().for_each(|kept| scores[kept.key as usize] = f32::NEG_INFINITY),
            Self::Dense(weights) => {
                let kept = &weights[row * scores.len()..][..scores.len()];
                for (score, _) in scores.iter_mut().zip(kept).filter(|(_, weight)| **weight > 0.0) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// The kept keys of a row, in ascending order.
    pub(crate) fn kept(&self, row: usize, query: usize, keys: usize) -> Vec<Kept> {
        let certainly = |key: usize| Kept::certainly(key as u32);
        match self {
            Self::Nothing => Vec::new(),
            Self::Everything => (0..keys).map(certainly).collect(),
            Self::Pattern(pattern) => pattern.row(query, keys).into_iter().flatten().map(certainly).collect(),
            Self::Listed(rows) => {
                let mut kept = rows[row].clone();
                kept.sort_unstable_by_key(|kept| kept.key);
                kept
            }
            Self::Dense(weights) => {
                let weights = (0..).zip(&weights[row * keys..][..keys]);
                let kept = weights.filter(|(_, probability)| **probability > 0.0);
                kept.map(|(key, &probability)| Kept { key, probability }).collect()
            }
        }
    }

    /// The weight of each key of a row; `None` if all are 0.
    pub(crate) fn weights(&self, row: usize, query: usize, keys: usize) -> Option<Vec<f32>> {
        match self {
            Self::Nothing => None,
            Self::Everything => Some(vec![1.0; keys]),
            Self::Pattern(pattern) => {
                let mut weights = vec![0.0; keys];
                pattern.row(query, keys).into_iter().for_each(|kept| weights[kept].fill(1.0));
                Some(weights)
            }
            Self::Listed(rows) => {
                let mut weights = vec![0.0; keys];
                rows[row].iter().for_each(|kept| weights[kept.key as usize] = kept.probability);
                Some(weights)
            }
            Self::Dense(weights) => Some(weights[row * keys..][..keys].to_vec()),
        }
    }
}

pub(crate) fn host<B: Backend>(tensor: Tensor<B, 4>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().iter::<f32>().collect()
}

/// The mask with the keys that `choose` adds to each row. `choose` gets the number and the scores of the row. It must
/// not add a key that the mask already keeps.
pub(crate) fn add_by_row<B: Backend>(
    mask: &Mask<B>,
    scores: &[f32],
    choose: impl Fn(usize, &[f32]) -> Vec<Kept> + Sync,
) -> Result<Mask<B>, AttentionError> {
    let rows = scores.par_chunks(mask.shape().keys).enumerate().map(|(row, scores)| choose(row, scores));
    Ok(mask.merge_disjoint(&rows.collect::<Vec<_>>())?)
}

/// The order of keys by falling score. Among equal scores the lower key comes first.
pub(crate) fn by_falling_score(scores: &[f32]) -> impl Fn(&u32, &u32) -> std::cmp::Ordering + '_ {
    |&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b))
}

/// The keys that can be chosen, in ascending order: all keys whose score is not minus infinity.
pub(crate) fn candidates(scores: &[f32]) -> Vec<u32> {
    (0..scores.len() as u32).filter(|&key| scores[key as usize] != f32::NEG_INFINITY).collect()
}

/// The [candidates] whose score is a number, and the candidates whose score is NaN. Every selector keeps the latter
/// with certainty, so that the NaN shows in the output.
pub(crate) fn numbers_and_others(scores: &[f32]) -> (Vec<u32>, Vec<u32>) {
    candidates(scores).into_iter().partition(|&key| !scores[key as usize].is_nan())
}
