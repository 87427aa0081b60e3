use std::ops::Range;

/// Keys that are kept by position alone, in closed form. These are the first `sink` keys of the sequence, and the
/// `window` keys up to and including the query's own position.
///
/// Row `i` is at position `offset + i`. It keeps key `j` if `j < sink`, or if `position - window < j <= position`. A
/// pattern is three integers for any number of queries and keys.
///
/// Every row keeps the whole sink, even the part of it that lies after the row's position. Which keys a query may *see*
/// is given by [Visibility](crate::attention::Visibility), not by the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// The number of keys that are kept at the start of the sequence.
    pub sink: usize,
    /// The number of keys that are kept up to and including the query's own position. [`usize::MAX`] keeps all of them.
    pub window: usize,
    /// The position of the first query. It is negative if there are more queries than keys.
    pub offset: isize,
}

impl Pattern {
    /// The first `size` keys in every row.
    pub fn sink(size: usize) -> Self {
        Self { sink: size, window: 0, offset: 0 }
    }

    /// The last `size` keys up to each query's position.
    pub fn local(size: usize, offset: isize) -> Self {
        Self { sink: 0, window: size, offset }
    }

    /// All keys up to each query's position.
    pub fn causal(offset: isize) -> Self {
        Self::local(usize::MAX, offset)
    }

    /// The keys of a row, as two ascending, disjoint ranges. Either range may be empty.
    pub fn row(&self, row: usize, keys: usize) -> [Range<usize>; 2] {
        let sink = self.sink.min(keys);
        let after = self.position(row).saturating_add(1);
        let (start, end) = (end_minus(after, self.window, keys), clamp(after, keys));
        if start >= end {
            [0..sink, sink..sink]
        } else if start <= sink {
            [0..sink.max(end), keys..keys]
        } else {
            [0..sink, start..end]
        }
        .map(|range| if range.is_empty() { 0..0 } else { range })
    }

    /// Two ascending, disjoint ranges that contain every key that a row of `rows` keeps.
    pub fn columns(&self, rows: Range<usize>, keys: usize) -> [Range<usize>; 2] {
        if rows.is_empty() {
            return [0..0, 0..0];
        }
        let sink = self.sink.min(keys);
        let start = end_minus(self.position(rows.start).saturating_add(1), self.window, keys);
        let end = clamp(self.position(rows.end), keys);
        if start >= end || self.window == 0 {
            [0..sink, 0..0]
        } else if start <= sink {
            [0..sink.max(end), 0..0]
        } else {
            [0..sink, start..end]
        }
    }

    /// Whether `row` keeps `key`.
    pub fn keeps(&self, row: usize, key: usize) -> bool {
        let position = usize::try_from(self.position(row)).ok();
        let distance = position.and_then(|position| position.checked_sub(key));
        key < self.sink || distance.is_some_and(|distance| distance < self.window)
    }

    /// The position of a row.
    fn position(&self, row: usize) -> isize {
        self.offset.saturating_add_unsigned(row)
    }

    /// A pattern that keeps the same keys, for the first `rows` rows and the first `keys` keys. Its numbers are at most
    /// `rows + keys`, so that they fit in the integers of the backend.
    pub(super) fn within_reach(&self, rows: usize, keys: usize) -> Self {
        let sink = self.sink.min(keys);
        // If the offset is beyond the last key, only the part of the window that reaches back to the keys counts.
        let beyond = usize::try_from(self.offset).map_or(0, |offset| offset.saturating_sub(keys));
        // The distance between a row and a key is at most this.
        let furthest = keys.saturating_add(rows);
        let window = self.window.saturating_sub(beyond).min(furthest);
        // If the offset is `-rows` or less, no row reaches the first key.
        let first = isize::try_from(rows).map_or(isize::MIN, |rows| -rows);
        Self { sink, window, offset: self.offset.saturating_sub_unsigned(beyond).max(first) }
    }

    /// The union with another pattern. `None` if the union is not a pattern, because both have a window and their
    /// offsets differ.
    pub fn union(&self, other: &Self) -> Option<Self> {
        let offset = match (self.window, other.window) {
            (0, _) => other.offset,
            (_, 0) => self.offset,
            _ if self.offset == other.offset => self.offset,
            _ => return None,
        };
        Some(Self { sink: self.sink.max(other.sink), window: self.window.max(other.window), offset })
    }

    /// The keys that both this pattern and the sliding window `seen` keep. `None` if these keys are not a pattern. This
    /// is the case if the two offsets differ, or if there is a sink and this pattern's window is smaller than `seen`.
    pub(crate) fn within(&self, seen: Self) -> Option<Self> {
        let aligned = self.offset == seen.offset;
        match self {
            Self { sink: 0, window: 0, .. } => Some(*self),
            _ if aligned && self.window >= seen.window => Some(seen),
            Self { sink: 0, .. } if aligned => Some(*self),
            _ => None,
        }
    }
}

fn clamp(position: isize, keys: usize) -> usize {
    usize::try_from(position).unwrap_or(0).min(keys)
}

/// `end - window`, clamped to the keys.
fn end_minus(end: isize, window: usize, keys: usize) -> usize {
    isize::try_from(window).map_or(0, |window| clamp(end.saturating_sub(window), keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_membership_agree() {
        let ends = [(0, 4, isize::MAX), (2, 4, isize::MIN), (1, usize::MAX, isize::MAX)];
        for (sink, window, offset) in
            [(0, 0, 0), (3, 5, 2), (9, 1, -4), (2, usize::MAX, 0), (70, 3, 60)].into_iter().chain(ends)
        {
            let pattern = Pattern { sink, window, offset };
            for keys in [1, 7, 63] {
                for row in 0..9 {
                    let by_ranges: Vec<usize> = pattern.row(row, keys).into_iter().flatten().collect();
                    let by_membership: Vec<usize> = (0..keys).filter(|&key| pattern.keeps(row, key)).collect();
                    assert_eq!(by_ranges, by_membership, "{pattern:?} row {row} keys {keys}");
                }
            }
        }
    }

    #[test]
    fn numbers_within_reach_keep_the_same() {
        let far = [0, 1, 5, 62, 63, 64, 70, 90, 1 << 40, usize::MAX - 1, usize::MAX];
        let offsets = far.iter().flat_map(|&far| {
            let far = isize::try_from(far).unwrap_or(isize::MAX);
            [far, -far, isize::MIN]
        });
        for offset in offsets {
            for (window, sink) in far.iter().flat_map(|&window| [(window, 0), (window, 3), (window, usize::MAX)]) {
                let pattern = Pattern { sink, window, offset };
                for (rows, keys) in [(1, 63), (9, 7), (111, 63), (3, 0)] {
                    let within = pattern.within_reach(rows, keys);
                    assert!(within.sink <= keys && within.window <= rows + keys, "{pattern:?}: {within:?}");
                    assert!(-(rows as isize) <= within.offset && within.offset <= keys as isize, "{within:?}");
                    for row in 0..rows {
                        assert_eq!(within.row(row, keys), pattern.row(row, keys), "{pattern:?} {row} {keys}");
                        for key in [0, keys / 2, keys.saturating_sub(1)].into_iter().filter(|&key| key < keys) {
                            assert_eq!(within.keeps(row, key), pattern.keeps(row, key), "{pattern:?} {row} {key}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn columns_cover_their_rows() {
        let pattern = Pattern { sink: 2, window: 4, offset: 5 };
        assert_eq!(pattern.columns(1..3, 20), [0..2, 3..8]);
        assert_eq!(pattern.columns(0..1, 20), [0..6, 0..0]);
        // Without a window there is nothing but the sink, however many rows there are.
        assert_eq!(Pattern::sink(3).columns(4..8, 20), [0..3, 0..0]);
    }

    #[test]
    fn what_is_kept_of_a_window_is_what_both_keep() {
        let seen = Pattern::local(4, 2);
        for (sink, window, offset) in [(0, 0, 9), (0, 3, 2), (0, 4, 2), (5, 7, 2), (5, usize::MAX, 2)] {
            let pattern = Pattern { sink, window, offset };
            let within = pattern.within(seen).expect("a pattern");
            for (row, key) in (0..9).flat_map(|row| (0..20).map(move |key| (row, key))) {
                let both = pattern.keeps(row, key) && seen.keeps(row, key);
                assert_eq!(within.keeps(row, key), both, "{pattern:?} row {row} key {key}");
            }
        }
        assert_eq!(Pattern { sink: 2, window: 3, offset: 2 }.within(seen), None);
        assert_eq!(Pattern::local(3, 1).within(seen), None);
    }

    #[test]
    fn union_of_windows_at_other_positions_is_no_pattern() {
        assert_eq!(Pattern::local(3, 0).union(&Pattern::local(4, 1)), None);
        assert_eq!(Pattern::sink(3).union(&Pattern::local(4, 1)), Some(Pattern { sink: 3, window: 4, offset: 1 }));
    }
}
