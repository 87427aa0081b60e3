use std::ops::Range;

use burn::tensor::backend::Backend;

use super::AttentionInputs;
use crate::mask::MaskShape;

/// The keys that each row sees, in host memory, for selectors that work row by row.
pub(crate) struct VisibleKeys {
    shape: MaskShape,
    form: Form,
}

enum Form {
    /// Each row sees a range that follows from its query.
    Range(Box<dyn Fn(usize, usize) -> Range<usize> + Send + Sync>),
    /// `[batch or 1, heads or 1, queries, keys]`, `true` = hidden.
    Hidden { hidden: Vec<bool>, batch: usize, heads: usize },
}

/// The keys that one row sees.
#[derive(Debug, Clone)]
pub(crate) enum RowKeys<'a> {
    /// A range of keys.
    Range(Range<usize>),
    /// All keys whose entry is not `true`.
    Hidden(&'a [bool]),
}

impl VisibleKeys {
    /// The visible keys of some inputs.
    pub fn of<B: Backend>(inputs: &AttentionInputs<B>) -> Self {
        let shape = inputs.mask_shape();
        let form = match inputs.visibility().closed_form() {
            Some(seen) => Form::Range(Box::new(seen)),
            None => {
                let all = [shape.all_keys()];
                let hidden = inputs.visibility().hidden(shape, 0..shape.queries, &all, &inputs.device());
                match hidden {
                    Some(hidden) => {
                        let [batch, heads, ..] = hidden.dims();
                        Form::Hidden { hidden: hidden.into_data().iter::<bool>().collect(), batch, heads }
                    }
                    None => Form::Range(Box::new(|_, keys| 0..keys)),
                }
            }
        };
        Self { shape, form }
    }

    /// The keys of a row, by its head (counted over the batch) and its query.
    pub fn row(&self, head: usize, query: usize) -> RowKeys<'_> {
        let MaskShape { heads: all_heads, queries, keys, .. } = self.shape;
        match &self.form {
            Form::Range(seen) => RowKeys::Range(seen(query, keys)),
            Form::Hidden { hidden, batch, heads } => {
                let (sequence, head) = (head / all_heads % batch, head % all_heads % heads);
                let row = (sequence * heads + head) * queries + query;
                RowKeys::Hidden(&hidden[row * keys..][..keys])
            }
        }
    }

    /// The keys of each row. If all heads see the same keys, only the rows of one head are listed.
    pub fn rows(&self) -> impl Iterator<Item = RowKeys<'_>> {
        let MaskShape { batch, heads, queries, .. } = self.shape;
        let heads = if let Form::Range(_) = self.form { 1 } else { batch * heads };
        (0..heads).flat_map(move |head| (0..queries).map(move |query| self.row(head, query)))
    }
}

impl RowKeys<'_> {
    /// Whether the row sees a key.
    pub fn sees(&self, key: usize) -> bool {
        match self {
            Self::Range(range) => range.contains(&key),
            Self::Hidden(hidden) => !hidden[key],
        }
    }

    /// Whether the row sees every key of a range.
    pub fn sees_all(&self, keys: &Range<usize>) -> bool {
        match self {
            Self::Range(range) => range.start <= keys.start && keys.end <= range.end,
            Self::Hidden(hidden) => !hidden[keys.clone()].contains(&true),
        }
    }

    /// The end of the keys that the row sees: one past its last visible key, or 0 if it sees no key.
    pub fn end(&self) -> usize {
        match self {
            Self::Range(range) if range.is_empty() => 0,
            Self::Range(range) => range.end,
            Self::Hidden(hidden) => hidden.iter().rposition(|hidden| !hidden).map_or(0, |last| last + 1),
        }
    }

    /// The number of keys that the row sees, if they are the first keys without a gap.
    pub fn prefix(&self) -> Option<usize> {
        match self {
            Self::Range(range) if range.is_empty() => Some(0),
            Self::Range(range) => (range.start == 0).then_some(range.end),
            Self::Hidden(_) => {
                let end = self.end();
                self.sees_all(&(0..end)).then_some(end)
            }
        }
    }

    /// Calls `work` for each page of `page_size` keys of which the row sees some keys but not all. `keys` is the total
    /// number of keys.
    pub fn partial_pages(&self, page_size: usize, keys: usize, mut work: impl FnMut(Range<usize>)) {
        let page = |page: usize| page * page_size..((page + 1) * page_size).min(keys);
        match self {
            Self::Range(range) if range.is_empty() => {}
            Self::Range(range) => {
                let (first, last) = (range.start / page_size, (range.end - 1) / page_size);
                for at in [first, last].into_iter().take(if first == last { 1 } else { 2 }) {
                    if !self.sees_all(&page(at)) {
                        work(page(at));
                    }
                }
            }
            Self::Hidden(hidden) => {
                for (at, hidden) in hidden.chunks(page_size).enumerate() {
                    if hidden.contains(&true) && hidden.contains(&false) {
                        work(page(at));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(row: &RowKeys, page_size: usize, keys: usize) -> Vec<Range<usize>> {
        let mut pages = Vec::new();
        row.partial_pages(page_size, keys, |page| pages.push(page));
        pages
    }

    #[test]
    fn ranges_and_bits_say_the_same() {
        let keys = 11;
        for (start, end) in (0..=keys).flat_map(|end| (0..=end).map(move |start| (start, end))) {
            let hidden = (0..keys).map(|key| key < start || key >= end).collect::<Vec<_>>();
            let (range, bits) = (RowKeys::Range(start..end), RowKeys::Hidden(&hidden));
            assert_eq!(range.end(), bits.end(), "{start}..{end}");
            assert_eq!(range.prefix(), bits.prefix(), "{start}..{end}");
            for page_size in [1, 2, 3, 4, 16] {
                assert_eq!(partial(&range, page_size, keys), partial(&bits, page_size, keys), "{start}..{end}");
            }
        }
    }

    fn one(page: Range<usize>) -> Vec<Range<usize>> {
        vec![page]
    }

    #[test]
    fn only_pages_that_are_seen_in_part_are_partial() {
        assert_eq!(partial(&RowKeys::Range(0..7), 3, 10), one(6..9));
        assert!(partial(&RowKeys::Range(0..10), 3, 10).is_empty());
        assert_eq!(partial(&RowKeys::Range(4..5), 3, 10), one(3..6));
        assert_eq!(partial(&RowKeys::Hidden(&[false, true, false, false, true]), 2, 5), one(0..2));
    }
}
