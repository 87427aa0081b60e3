use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::{
    super::{
        attend::Problem,
        gather::{Lists, used},
        prefetch::Ahead,
        products::{TILE, add_row, add_weighted, score},
        simd_float::{SimdFloat, StoredFloat},
        tile::fill,
    },
    Gradients, Part, RowBlock, Trace, bend, in_parts, queries_of_a_part, unbend, weigh,
};

/// Gradients of attention over lists of keys. If all heads of a GQA group have the same list, its keys and values are
/// read once for all of them.
pub(crate) fn gather<T: StoredFloat>(problem: &Problem<T>, trace: &Trace<T>, lists: &Lists) -> Gradients<T::Float> {
    in_parts(problem, queries_of_a_part(problem, 1), |kv_head, queries| {
        Arch::new().dispatch(GatherTask { problem, trace, lists, kv_head, queries })
    })
}

struct GatherTask<'a, T: StoredFloat> {
    problem: &'a Problem<'a, T>,
    trace: &'a Trace<'a, T>,
    lists: &'a Lists<'a>,
    kv_head: usize,
    queries: Range<usize>,
}

impl<T: StoredFloat> WithSimd for GatherTask<'_, T> {
    type Output = Part<T::Float>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Part<T::Float> {
        let Self { problem, trace, lists, kv_head, queries } = self;
        let (head_dim, value_dim) = (problem.head_dim, problem.value_dim);
        let (all_keys, all_values) = (problem.keys[kv_head], problem.values[kv_head]);
        let (group, length) = (problem.group(), queries.len());
        let mut part = Part::new(problem, queries.clone(), [0..problem.seen(queries.end - 1), 0..0]);
        let most = group * TILE;
        let (mut scores, mut slopes) = (vec![T::Float::ZERO; most], vec![T::Float::ZERO; most]);
        let buffer = |width| vec![T::Float::ZERO; if T::AS_IT_IS { 0 } else { TILE * width }];
        let (mut wide_keys, mut wide_values) = (buffer(head_dim), buffer(value_dim));
        let mut of_queries = vec![T::Float::ZERO; group * head_dim];
        for (at, query) in queries.enumerate() {
            let rows = RowBlock::of(problem, trace, kv_head, &(query..query + 1));
            let list = |head: usize| lists.row((kv_head * group + head) * problem.query_count + query);
            let heads_at_a_time = if (1..group).all(|head| list(head) == list(0)) { group } else { 1 };
            of_queries.fill(T::Float::ZERO);
            for first_head in (0..group).step_by(heads_at_a_time) {
                let heads = first_head..first_head + heads_at_a_time;
                let some_queries = &rows.queries[heads.start * head_dim..heads.end * head_dim];
                let some_gradients = &rows.gradients[heads.start * value_dim..heads.end * value_dim];
                let of_queries = &mut of_queries[heads.start * head_dim..heads.end * head_dim];
                let (list, log_probability) = used::<T::Float>(&list(first_head), problem.seen(query));
                for (tile, these) in list.chunks(TILE).enumerate() {
                    let count = these.len();
                    let (mut keys, mut values) = ([&[][..]; TILE], [&[][..]; TILE]);
                    let vectors = these.iter().map(|&key| &all_keys[key as usize * head_dim..][..head_dim]);
                    fill(&mut keys, &mut wide_keys, head_dim, vectors);
                    let vectors = these.iter().map(|&key| &all_values[key as usize * value_dim..][..value_dim]);
                    fill(&mut values, &mut wide_values, value_dim, vectors);
                    let (keys, values) = (&keys[..count], &values[..count]);
                    let scores = &mut scores[..heads_at_a_time * count];
                    let slopes = &mut slopes[..heads_at_a_time * count];
                    score(simd, some_queries, keys, scores, Ahead::scattered(values));
                    let bends = problem.softcap.map(|cap| bend(scores, cap));
                    if let Some(log_probability) = log_probability.chunks(TILE).nth(tile) {
                        for scores in scores.chunks_exact_mut(count) {
                            scores.iter_mut().zip(log_probability).for_each(|(score, &log)| *score = score.sub(log));
                        }
                    }
                    let ahead = these.iter().map(|&key| &part.of_keys[key as usize * head_dim..][..head_dim]);
                    let mut rows_ahead = [&[][..]; TILE];
                    rows_ahead.iter_mut().zip(ahead).for_each(|(row, ahead)| *row = ahead);
                    score(simd, some_gradients, values, slopes, Ahead::scattered(&rows_ahead[..count]));
                    weigh(scores, slopes, count, &rows.log_sum_exp[heads.clone()], &rows.means[heads.clone()]);
                    unbend(slopes, bends);
                    add_weighted(simd, slopes, keys, of_queries, Ahead::<T>::nothing());
                    for (slot, &key) in these.iter().enumerate() {
                        let key = key as usize;
                        let of_key = &mut part.of_keys[key * head_dim..][..head_dim];
                        for (slope, query) in
                            slopes.iter().skip(slot).step_by(count).zip(some_queries.chunks_exact(head_dim))
                        {
                            add_row(simd, *slope, query, of_key);
                        }
                        let of_value = &mut part.of_values[key * value_dim..][..value_dim];
                        for (weight, gradient) in
                            scores.iter().skip(slot).step_by(count).zip(some_gradients.chunks_exact(value_dim))
                        {
                            add_row(simd, *weight, gradient, of_value);
                        }
                    }
                }
            }
            for (head, of_query) in of_queries.chunks_exact(head_dim).enumerate() {
                part.of_queries[(head * length + at) * head_dim..][..head_dim].copy_from_slice(of_query);
            }
        }
        part
    }
}
