//! Partial selection: the largest scores of a row without sorting it.

use std::{cell::RefCell, cmp::Ordering};

use super::compact_at_least::compact_at_least;

/// The number of leading bits of a score that give its class.
const COUNTED_BITS: u32 = 11;

/// The number of tables in which scores are counted in turn. Adjacent scores often have the same class, and an
/// increment of one counter would have to wait for the increment before it.
const TABLES: usize = 4;

const CLASSES: usize = 1 << COUNTED_BITS;

thread_local! {
    static BUFFERS: RefCell<Buffers> =
        RefCell::new(Buffers { counts: vec![[0; TABLES]; CLASSES], members: Vec::new(), orders: Vec::new() });
}

/// Memory kept for the next row.
struct Buffers {
    /// By class, then by table.
    counts: Vec<[u32; TABLES]>,
    /// The positions of the scores among which the boundary lies.
    members: Vec<u32>,
    /// Their scores, as integers in the same order.
    orders: Vec<u32>,
}

/// The positions of the `size` largest scores, in ascending order. Among equal scores, the lower position is chosen
/// first. Minus infinity is never chosen. NaN is larger than every number.
///
/// No row is sorted. For a long row, a sample gives a guess that a few more than `size` scores reach, and only these
/// scores are selected from. If fewer than `size` scores reach the guess, or the row is short, the scores are counted
/// by class.
pub(crate) fn largest(scores: &[f32], size: usize) -> Vec<u32> {
    if size == 0 {
        return Vec::new();
    }
    sampled(scores, size).unwrap_or_else(|| counted(scores, size))
}

/// One score out of this number is sampled to guess the boundary.
const SAMPLED: usize = 16;

/// The shortest row that is sampled. A shorter row gives too small a sample.
const LONG: usize = 2048;

/// One pass over the row, then a selection among the few scores that reach a guess. `None` if there is no guess, or if
/// the guess was too high.
fn sampled(scores: &[f32], size: usize) -> Option<Vec<u32>> {
    if scores.len() < LONG {
        return None;
    }
    let mut sample = scores.iter().step_by(SAMPLED).map(|&score| order(score)).collect::<Vec<_>>();
    let expected = size as f64 / SAMPLED as f64;
    // Three standard deviations more than expected, so that the guess is rarely too high.
    let rank = (expected + 3.0 * expected.sqrt() + 2.0) as usize;
    if rank * 2 > sample.len() {
        return None;
    }
    let (_, &mut guess, _) = sample.select_nth_unstable_by(rank, |a, b| b.cmp(a));
    if guess == 0 || guess == NOT_A_NUMBER {
        return None;
    }
    let guess = score_of(guess);
    BUFFERS.with_borrow_mut(|Buffers { members, orders, .. }| {
        members.resize(scores.len(), 0);
        let count = compact_at_least(scores, guess, members);
        let members = &members[..count];
        if count < size {
            return None;
        }
        orders.clear();
        orders.extend(members.iter().map(|&at| order_of_member(scores[at as usize])));
        let (above, &mut last, _) = orders.select_nth_unstable_by(size - 1, |a, b| b.cmp(a));
        let mut equals_left = size - above.iter().filter(|&&order| order > last).count();
        // The one extra place receives positions that are not chosen, so that the loop has no branch.
        let mut chosen = vec![0u32; size + 1];
        let mut count = 0;
        for &at in members {
            let order = order_of_member(scores[at as usize]);
            let is_equal = order == last && equals_left > 0;
            chosen[count] = at;
            count += usize::from(order > last || is_equal);
            equals_left -= usize::from(is_equal);
        }
        chosen.truncate(size);
        Some(chosen)
    })
}

/// A key that sorts by falling score, then by rising position.
#[inline(always)]
fn place(score: f32, at: u32) -> u64 {
    (u64::from(!order(score)) << 32) | u64::from(at)
}

/// Counts the scores by their leading bits to find the class that contains the boundary, and selects only from this
/// class. It takes two passes over the row for every `size`.
fn counted(scores: &[f32], size: usize) -> Vec<u32> {
    BUFFERS.with_borrow_mut(|Buffers { counts, members, .. }| {
        let (class, above) = boundary(counts, scores, size);
        let first = order_of_class(class);
        // The one extra place receives positions that are not chosen, so that the loop has no branch.
        let mut chosen = vec![0u32; above + 1];
        members.resize(scores.len() + 1, 0);
        let (mut count, mut in_class) = (0, 0);
        for (at, &score) in scores.iter().enumerate() {
            let order = order(score);
            let is_above = class_of(order) > class;
            chosen[count] = at as u32;
            count += usize::from(is_above);
            members[in_class] = at as u32;
            in_class += usize::from(!is_above && order >= first);
        }
        chosen.truncate(above);
        let members = &mut members[..in_class];
        // This is less than `size` if there are not enough candidates.
        let wanted = (size - above).min(in_class);
        if wanted < in_class {
            members.select_nth_unstable_by_key(wanted - 1, |&at| place(scores[at as usize], at));
            members[..wanted].sort_unstable();
        }
        merge(&mut chosen, &members[..wanted]);
        chosen
    })
}

/// The class that contains the boundary, and the number of scores in the classes above it.
fn boundary(counts: &mut [[u32; TABLES]], scores: &[f32], size: usize) -> (usize, usize) {
    counts.fill([0; TABLES]);
    let (blocks, rest) = scores.as_chunks::<TABLES>();
    for block in blocks {
        for (table, &score) in block.iter().enumerate() {
            counts[class_of(order(score))][table] += 1;
        }
    }
    for &score in rest {
        counts[class_of(order(score))][0] += 1;
    }
    let mut above = 0;
    for class in (1..CLASSES).rev() {
        let reached = above + counts[class].iter().sum::<u32>() as usize;
        if reached >= size {
            return (class, above);
        }
        above = reached;
    }
    (0, above)
}

/// The smallest order of a class. For class 0 it is 1, because order 0 is never chosen.
fn order_of_class(class: usize) -> u32 {
    ((class as u32) << (32 - COUNTED_BITS)).max(1)
}

/// Merges ascending positions into other ascending positions.
fn merge(chosen: &mut Vec<u32>, more: &[u32]) {
    let (mut left, mut right) = (chosen.len(), more.len());
    chosen.resize(left + right, 0);
    while right > 0 {
        let to = left + right - 1;
        if left > 0 && chosen[left - 1] > more[right - 1] {
            left -= 1;
            chosen[to] = chosen[left];
        } else {
            right -= 1;
            chosen[to] = more[right];
        }
    }
}

/// Up to this number of keys, sorting is cheaper than halving.
const SORTED: usize = 32;

/// Moves the first keys by `order` to the front, as few as reach the mass `wanted`, and returns their number. If the
/// mass of all keys is below `wanted`, this is the number of all keys.
///
/// The half that contains the boundary is halved until it is short. Only this short part is sorted.
pub(crate) fn heaviest(
    keys: &mut [u32],
    order: impl Fn(&u32, &u32) -> Ordering,
    mass: impl Fn(u32) -> f64,
    wanted: f64,
) -> usize {
    let (mut from, mut to, mut reached) = (0, keys.len(), 0.0);
    while to - from > SORTED {
        let middle = from + (to - from) / 2;
        keys[from..to].select_nth_unstable_by(middle - from, &order);
        let upper = keys[from..middle].iter().map(|&key| mass(key)).sum::<f64>();
        if reached + upper < wanted {
            (from, reached) = (middle, reached + upper);
        } else {
            to = middle;
        }
    }
    keys[from..to].sort_unstable_by(&order);
    while from < to && reached < wanted {
        reached += mass(keys[from]);
        from += 1;
    }
    from
}

/// An integer that orders as the scores do. It is 0 for minus infinity, which is never chosen.
#[inline(always)]
fn order(score: f32) -> u32 {
    if score == f32::NEG_INFINITY { 0 } else { order_of_member(score) }
}

/// The [order] of a score that is not minus infinity.
#[inline(always)]
fn order_of_member(score: f32) -> u32 {
    // This sum turns -0 into 0, since the two are equal as scores.
    let bits = (score + 0.0).to_bits();
    let order = bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000);
    if score.is_nan() { NOT_A_NUMBER } else { order }
}

/// The [order] of NaN.
const NOT_A_NUMBER: u32 = u32::MAX;

/// The score of an order above 0. It is NaN for [NOT_A_NUMBER].
fn score_of(order: u32) -> f32 {
    f32::from_bits(if order & 0x8000_0000 != 0 { order ^ 0x8000_0000 } else { !order })
}

#[inline(always)]
fn class_of(order: u32) -> usize {
    (order >> (32 - COUNTED_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use rand::{RngExt, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::{NOT_A_NUMBER, SAMPLED, heaviest, largest, order, order_of_member, score_of};

    /// The expected result, by a full sort.
    fn by_sorting(scores: &[f32], size: usize) -> Vec<u32> {
        let mut keys =
            (0..scores.len() as u32).filter(|&at| scores[at as usize] != f32::NEG_INFINITY).collect::<Vec<_>>();
        let place = |at: u32| if scores[at as usize].is_nan() { f32::INFINITY } else { scores[at as usize] };
        let rank = |at: u32| (scores[at as usize].is_nan(), place(at));
        keys.sort_by(|&a, &b| rank(b).partial_cmp(&rank(a)).unwrap().then(a.cmp(&b)));
        keys.truncate(size);
        keys.sort_unstable();
        keys
    }

    #[test]
    fn ties_go_to_the_lower_key_and_hidden_keys_are_never_chosen() {
        let scores = [1.0, 3.0, f32::NEG_INFINITY, 3.0, f32::NAN, 3.0, 0.0];
        assert_eq!(largest(&scores, 1), [4]);
        assert_eq!(largest(&scores, 3), [1, 3, 4]);
        assert_eq!(largest(&scores, 5), [0, 1, 3, 4, 5]);
        assert_eq!(largest(&scores, 7), [0, 1, 3, 4, 5, 6]);
        assert_eq!(largest(&[0.0, -0.0, 0.0], 1), [0]);
        assert_eq!(largest(&[-0.0, 0.0, 0.0], 2), [0, 1]);
        assert!(largest(&[f32::NEG_INFINITY; 3], 2).is_empty());
        assert!(largest(&scores, 0).is_empty());
        assert_eq!(largest(&[f32::INFINITY, f32::MAX, f32::MIN], 3), [0, 1, 2]);
    }

    #[test]
    fn orders_lead_back_to_their_scores() {
        assert_eq!(order(-f32::NAN), NOT_A_NUMBER);
        assert!(score_of(NOT_A_NUMBER).is_nan());
        assert!(order(f32::INFINITY) < NOT_A_NUMBER);
        for score in [f32::MIN, -1.5, -f32::MIN_POSITIVE, -0.0, 0.0, 1e-40, 3.0, f32::MAX, f32::INFINITY] {
            assert_eq!(score_of(order(score)), score);
            assert_eq!(order_of_member(score), order(score));
        }
        assert_eq!(order(-0.0), order(0.0));
    }

    proptest! {
        /// The masses are small whole numbers, so their sums are exact.
        #[test]
        fn the_heaviest_are_what_sorting_gives(
            masses in proptest::collection::vec(0u8..6, 0..200),
            wanted in -1.0f64..600.0,
        ) {
            let mass = |key: u32| f64::from(masses[key as usize]);
            let order = |a: &u32, b: &u32| masses[*b as usize].cmp(&masses[*a as usize]).then(a.cmp(b));
            let mut sorted = (0..masses.len() as u32).collect::<Vec<_>>();
            sorted.sort_by(order);
            let (mut reached, mut count) = (0.0, 0);
            while count < sorted.len() && reached < wanted {
                reached += mass(sorted[count]);
                count += 1;
            }
            sorted.truncate(count);
            let mut keys = (0..masses.len() as u32).rev().collect::<Vec<_>>();
            let chosen = heaviest(&mut keys, order, mass, wanted);
            keys.truncate(chosen);
            keys.sort_unstable();
            sorted.sort_unstable();
            prop_assert_eq!(keys, sorted);
        }

        #[test]
        fn selection_is_what_sorting_gives(
            scores in proptest::collection::vec(
                prop_oneof![Just(f32::NEG_INFINITY), Just(f32::NAN), (-4i8..4).prop_map(f32::from), any::<f32>()],
                0..300,
            ),
            size in 0usize..310,
        ) {
            prop_assert_eq!(largest(&scores, size), by_sorting(&scores, size));
        }

        /// The rows are long enough to be sampled, with many equal scores or with few. `shift` makes the guess wrong,
        /// because it moves the sampled scores above or below the others.
        #[test]
        fn long_rows_are_selected_from_as_short_ones(
            seed in any::<u64>(),
            length in 2000usize..5000,
            size in 1usize..900,
            levels in prop_oneof![Just(5.0f32), Just(1e6)],
            shift in prop_oneof![Just(0.0f32), Just(-2.0), Just(2.0)],
            hidden in 0.0f32..1.0,
            lost in prop_oneof![Just(0.0f32), Just(0.01), Just(0.5)],
        ) {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
            let scores = (0..length).map(|at| {
                let score = (rng.random::<f32>() * levels).round() / levels + if at % SAMPLED == 0 { shift } else { 0.0 };
                match rng.random::<f32>() {
                    share if share < hidden => f32::NEG_INFINITY,
                    share if share < hidden + lost => f32::NAN,
                    _ => score - 0.5,
                }
            });
            let scores = scores.collect::<Vec<_>>();
            prop_assert_eq!(largest(&scores, size), by_sorting(&scores, size));
        }
    }
}
