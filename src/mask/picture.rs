use std::ops::Range;

use burn::tensor::backend::Backend;

use super::{Mask, MaskForm};

/// The characters from no pair kept to all pairs kept.
const SHADES: [char; 5] = ['.', '░', '▒', '▓', '█'];

impl<B: Backend> Mask<B> {
    /// One head of the mask as text. A line is a group of queries, and a character in it is a group of keys. The
    /// character is darker the more of its pairs are kept (`.` none, `█` all).
    ///
    /// There are at most `size` lines with at most `size` characters each. `None` if the batch or the head does not
    /// exist.
    ///
    /// ```text
    /// █.......
    /// ██......
    /// ███.....
    /// █.███...
    /// ```
    pub fn picture(&self, batch: usize, head: usize, size: usize) -> Option<String> {
        let shape = self.shape();
        if batch >= shape.batch || head >= shape.heads {
            return None;
        }
        let (lines, columns) = (shape.queries.min(size.max(1)), shape.keys.min(size.max(1)));
        let line_of = |query: usize| query * lines / shape.queries;
        let keys_of =
            |column: usize| (column * shape.keys).div_ceil(columns)..((column + 1) * shape.keys).div_ceil(columns);
        let mut kept = vec![0usize; lines * columns];
        let mut pairs = vec![0usize; lines * columns];
        let lists = match self.form() {
            MaskForm::Indices(_) | MaskForm::Dense(_) => self.head(batch, head).to_host_rows(),
            _ => Vec::new(),
        };
        for query in 0..shape.queries {
            let line = line_of(query) * columns;
            let ranges = match self.form() {
                MaskForm::Full => vec![shape.all_keys()],
                MaskForm::Pattern(pattern) => pattern.row(query, shape.keys).to_vec(),
                _ => lists.get(query).into_iter().flatten().map(|k| k.key as usize..k.key as usize + 1).collect(),
            };
            for column in 0..columns {
                let cell = keys_of(column);
                pairs[line + column] += cell.len();
                let overlap =
                    |range: &Range<usize>| range.end.min(cell.end).saturating_sub(range.start.max(cell.start));
                kept[line + column] += ranges.iter().map(overlap).sum::<usize>();
            }
        }
        let shade = |cell: usize| match kept[cell] {
            0 => SHADES[0],
            all if all == pairs[cell] => SHADES[4],
            some => SHADES[1 + 3 * some / pairs[cell]],
        };
        let text = (0..lines).map(|line| {
            let line = (0..columns).map(|column| shade(line * columns + column));
            line.chain(['\n']).collect::<String>()
        });
        Some(text.collect())
    }
}
