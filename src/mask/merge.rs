use burn::tensor::{Tensor, backend::Backend};

use super::{Chosen, Kept, KeyIndices, Mask, MaskError, MaskForm, MaskShape, Pattern};

impl<B: Backend> Mask<B> {
    /// The union of two masks.
    ///
    /// A key that both masks keep gets the larger probability. If both *sampled* it, with probabilities `a` and `b`
    /// below 1, it gets `a + b - ab`, because the draws were independent. Merging is commutative, and it is associative
    /// up to rounding. It never lowers a weight.
    ///
    /// Two patterns merge to a pattern where possible. A pattern that keeps at most half of the keys merges with lists
    /// to lists. Other pairs are merged in dense form, unless one of the masks is full or empty.
    ///
    /// # Errors
    /// If the shapes differ, or if the dense form is needed and the device or memory cannot hold it.
    pub fn merge(&self, other: &Self) -> Result<Self, MaskError> {
        if self.shape() != other.shape() {
            return Err(MaskError::Shape {
                what: "the mask to merge",
                found: other.shape().dims().to_vec(),
                expected: self.shape(),
            });
        }
        let form = match (self.form(), other.form()) {
            (MaskForm::Full, _) | (_, MaskForm::Full) => MaskForm::Full,
            (MaskForm::Empty, form) | (form, MaskForm::Empty) => form.clone(),
            (MaskForm::Pattern(a), MaskForm::Pattern(b)) => match a.union(b) {
                Some(union) => MaskForm::Pattern(union),
                None => self.merge_dense(other)?,
            },
            (MaskForm::Pattern(pattern), MaskForm::Indices(rows))
            | (MaskForm::Indices(rows), MaskForm::Pattern(pattern)) => match self.pattern_rows(*pattern) {
                Some(kept) => MaskForm::Indices(kept.concatenate(rows.outside(*pattern))),
                None => self.merge_dense(other)?,
            },
            _ => self.merge_dense(other)?,
        };
        Ok(Self::with_form(self.shape(), form, &self.device()))
    }

    /// The union with lists that share no key with this mask, so that no duplicates need to be found.
    pub(crate) fn merge_disjoint(&self, rows: &[Vec<Kept>]) -> Result<Self, MaskError> {
        let added = Self::from_host_rows(self.shape(), rows, &self.device());
        let MaskForm::Indices(new) = added.form() else {
            return Ok(self.clone());
        };
        let form = match self.form() {
            MaskForm::Empty => MaskForm::Indices(new.clone()),
            MaskForm::Full => MaskForm::Full,
            MaskForm::Indices(old) => MaskForm::Indices(old.clone().concatenate(new.clone())),
            MaskForm::Pattern(pattern) => match self.pattern_rows(*pattern) {
                Some(old) => MaskForm::Indices(old.concatenate(new.clone())),
                None => self.merge_dense(&added)?,
            },
            MaskForm::Dense(_) => self.merge_dense(&added)?,
        };
        Ok(Self::with_form(self.shape(), form, &self.device()))
    }

    /// The union with chosen keys. This mask keeps none of them.
    pub(crate) fn with_chosen(&self, chosen: &Chosen) -> Result<Self, MaskError> {
        let pattern = match self.form() {
            MaskForm::Empty => None,
            MaskForm::Pattern(pattern) if self.is_narrow(*pattern) => Some(*pattern),
            _ => return self.merge_disjoint(&chosen.to_rows(self.shape())),
        };
        Ok(Self::from_chosen(self.shape(), pattern, chosen, &self.device()))
    }

    /// The union of a pattern and chosen keys that the pattern does not keep. It consists of lists, even if the pattern
    /// keeps most keys.
    pub(crate) fn from_chosen(shape: MaskShape, pattern: Option<Pattern>, chosen: &Chosen, device: &B::Device) -> Self {
        match KeyIndices::from_chosen(shape, pattern, chosen, device) {
            Some(rows) => Self::with_form(shape, MaskForm::Indices(rows), device),
            None => Self::empty(shape, device),
        }
    }

    fn merge_dense(&self, other: &Self) -> Result<MaskForm<B>, MaskError> {
        let (a, b) = (self.try_to_dense()?, other.try_to_dense()?);
        let sampled =
            |weights: &Tensor<B, 4>| weights.clone().greater_elem(0.0).bool_and(weights.clone().lower_elem(1.0));
        let both_sampled = sampled(&a).bool_and(sampled(&b));
        let independent = a.clone() + b.clone() - a.clone() * b.clone();
        let larger = a.max_pair(b);
        // Rounding may leave the sum a little below the larger of the two, or above 1.
        let independent = independent.max_pair(larger.clone()).clamp_max(1.0);
        Ok(MaskForm::Dense(larger.mask_where(both_sampled, independent)))
    }

    /// Whether a pattern keeps at most half of the keys. Lists of more keys would be larger than dense weights.
    fn is_narrow(&self, pattern: Pattern) -> bool {
        pattern.sink.saturating_add(pattern.window) <= self.shape().keys / 2
    }

    /// A pattern as lists. `None` if the pattern is not [narrow](Self::is_narrow).
    fn pattern_rows(&self, pattern: Pattern) -> Option<KeyIndices<B>> {
        let shape = self.shape();
        if !self.is_narrow(pattern) {
            return None;
        }
        let one_head = (0..shape.queries)
            .map(|row| {
                let keys = pattern.row(row, shape.keys).into_iter().flatten();
                keys.map(|key| Kept::certainly(key as u32)).collect()
            })
            .collect::<Vec<_>>();
        let head_shape = MaskShape { batch: 1, heads: 1, ..shape };
        let rows = KeyIndices::<B>::from_host(head_shape, &one_head, &self.device())?;
        Some(rows.repeat(shape.batch, shape.heads))
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn_flex::Flex;

    use super::*;

    #[test]
    fn chosen_keys_join_any_mask() {
        let shape = MaskShape::new([1, 4, 3, 20]);
        let device = Default::default();
        for heads_per_row in [1, 2] {
            let lists = shape.rows() / heads_per_row;
            let row = |row: usize| (0..row % 4).map(|slot| (8 + (row * 3 + slot) % 5) as u32).collect::<Vec<_>>();
            let chosen = Chosen { rows: (0..lists).map(row).collect(), heads_per_row };
            let pattern = |window| Mask::<Flex>::pattern(shape, Pattern { sink: 2, window, offset: 15 }, &device);
            let masks = [
                Mask::empty(shape, &device),
                pattern(2),
                Mask::from_dense(pattern(1).to_dense()).expect("weights in [0, 1]"),
                Mask::full(shape, &device),
            ];
            for mask in masks {
                let joined = mask.with_chosen(&chosen).expect("the device holds it");
                let wanted = mask.merge_disjoint(&chosen.to_rows(shape)).expect("the device holds it");
                assert_eq!(joined.to_dense().to_data(), wanted.to_dense().to_data(), "{heads_per_row} {mask:?}");
            }
        }
    }
}
