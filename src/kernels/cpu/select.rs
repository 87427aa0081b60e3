//! Partial selection: the largest scores of a row without sorting it.

use std::{cell::RefCell, cmp::Ordering};

/// Bits of a score by which scores are counted first.
const COUNTED_BITS: u32 = 11;

thread_local! {
    static COUNTS: RefCell<Vec<u32>> = RefCell::new(vec![0; 1 << COUNTED_BITS]);
}

/// The positions of the `size` largest scores, in ascending order; the lower position first among equals. What is minus
/// infinity or not a number is never chosen.
///
/// The scores are counted by their leading bits, which leaves one class in which the boundary must lie; only that class
/// is selected from. Three passes over the row, whatever `size` is.
pub(crate) fn largest(scores: &[f32], size: usize) -> Vec<u32> {
    let (class, above, all) = COUNTS.with_borrow_mut(|counts| {
        counts.fill(0);
        // Candidates come after what cannot be chosen, which is order 0.
        for &score in scores {
            counts[class_of(order(score))] += 1;
        }
        let all = scores.len() - scores.iter().filter(|&&score| order(score) == 0).count();
        let mut above = 0;
        let class = (0..counts.len()).rev().find(|&class| {
            let reached = above + counts[class] as usize;
            let found = reached >= size;
            above = if found { above } else { reached };
            found
        });
        (class.unwrap_or(0), above, all)
    });
    if size == 0 {
        return Vec::new();
    }
    if all <= size {
        return (0..scores.len() as u32).filter(|&key| order(scores[key as usize]) > 0).collect();
    }
    // Falling order, then rising position.
    let place = |(at, &score): (usize, &f32)| (u64::from(!order(score)) << 32) | at as u64;
    let members = scores.iter().enumerate().filter(|(_, score)| class_of(order(**score)) == class);
    let mut members = members.map(place).collect::<Vec<_>>();
    let (_, &mut last, _) = members.select_nth_unstable(size - above - 1);
    let mut chosen = vec![0u32; size + 1];
    let mut count = 0;
    for entry in scores.iter().enumerate() {
        chosen[count] = entry.0 as u32;
        count += usize::from(place(entry) <= last);
    }
    chosen.truncate(size);
    chosen
}

/// Below this many keys, sorting is cheaper than halving.
const SORTED: usize = 32;

/// Moves to the front the fewest keys, from the first in `order` on, whose mass reaches `wanted`, and returns how many
/// they are: all of them if all are not enough.
///
/// The half in which the boundary lies is halved again until it is short, so that no more than a few keys are sorted.
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

/// A number that orders as scores do: 0 for what is never chosen, above that the higher the score.
#[inline(always)]
fn order(score: f32) -> u32 {
    let bits = score.to_bits();
    let ordered = bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000);
    // -0 and 0 are equal, as they are for everybody else.
    let ordered = if score == 0.0 { 0x8000_0000 } else { ordered };
    if score > f32::NEG_INFINITY { ordered } else { 0 }
}

#[inline(always)]
fn class_of(order: u32) -> usize {
    (order >> (32 - COUNTED_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{heaviest, largest};

    /// By a full sort.
    fn by_sorting(scores: &[f32], size: usize) -> Vec<u32> {
        let mut keys =
            (0..scores.len() as u32).filter(|&at| scores[at as usize] > f32::NEG_INFINITY).collect::<Vec<_>>();
        keys.sort_by(|&a, &b| scores[b as usize].partial_cmp(&scores[a as usize]).unwrap().then(a.cmp(&b)));
        keys.truncate(size);
        keys.sort_unstable();
        keys
    }

    #[test]
    fn ties_go_to_the_lower_key_and_hidden_keys_are_never_chosen() {
        let scores = [1.0, 3.0, f32::NEG_INFINITY, 3.0, f32::NAN, 3.0, 0.0];
        assert_eq!(largest(&scores, 2), [1, 3]);
        assert_eq!(largest(&scores, 4), [0, 1, 3, 5]);
        assert_eq!(largest(&scores, 7), [0, 1, 3, 5, 6]);
        assert_eq!(largest(&[0.0, -0.0, 0.0], 1), [0]);
        assert_eq!(largest(&[-0.0, 0.0, 0.0], 2), [0, 1]);
        assert!(largest(&[f32::NEG_INFINITY; 3], 2).is_empty());
        assert!(largest(&scores, 0).is_empty());
        assert_eq!(largest(&[f32::INFINITY, f32::MAX, f32::MIN], 3), [0, 1, 2]);
    }

    proptest! {
        /// Masses are small whole numbers, whose sums are exact.
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
    }
}
