use burn::tensor::{DType, Tensor, backend::Backend};

use super::Visibility;
use crate::mask::{Mask, MaskForm, MaskShape};

/// The share of the query-key pairs that a mask keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Density {
    /// The share of the visible pairs that is kept. This is the work that is left of dense attention. It is 0 if no
    /// pair is visible.
    pub visible: f64,
    /// The share of all pairs that is kept, visible or not. The Python project counts in this way.
    pub all: f64,
}

/// The numbers of pairs of a head.
#[derive(Debug, Clone, Copy, Default)]
struct Pairs {
    kept_and_visible: f64,
    visible: f64,
    kept: f64,
    all: f64,
}

impl Pairs {
    fn add(self, other: Self) -> Self {
        Self {
            kept_and_visible: self.kept_and_visible + other.kept_and_visible,
            visible: self.visible + other.visible,
            kept: self.kept + other.kept,
            all: self.all + other.all,
        }
    }

    fn density(self) -> Density {
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        Density { visible: share(self.kept_and_visible, self.visible), all: share(self.kept, self.all) }
    }
}

impl<B: Backend> Mask<B> {
    /// The share of the pairs that the mask keeps, over all heads.
    ///
    /// If the visibility has another shape than the mask, the tensor operation panics.
    /// [AttentionInputs](crate::attention::AttentionInputs) checks the shape beforehand.
    pub fn density(&self, visibility: &Visibility<B>) -> Density {
        self.pairs(visibility).into_iter().fold(Pairs::default(), Pairs::add).density()
    }

    /// The share of the pairs that each head keeps. There are `batch * heads` entries.
    pub fn density_per_head(&self, visibility: &Visibility<B>) -> Vec<Density> {
        self.pairs(visibility).into_iter().map(Pairs::density).collect()
    }

    fn pairs(&self, visibility: &Visibility<B>) -> Vec<Pairs> {
        let MaskShape { batch, heads, queries, keys } = self.shape();
        match (self.form(), visibility.closed_form()) {
            (MaskForm::Empty | MaskForm::Full | MaskForm::Pattern(_), Some(seen)) => {
                let mut pairs = Pairs { all: (queries * keys) as f64, ..Pairs::default() };
                for row in 0..queries {
                    let seen = seen(row, keys);
                    let ranges = match self.form() {
                        MaskForm::Empty => [0..0, 0..0],
                        MaskForm::Pattern(pattern) => pattern.row(row, keys),
                        _ => [0..keys, 0..0],
                    };
                    pairs.visible += seen.len() as f64;
                    for range in ranges {
                        pairs.kept += range.len() as f64;
                        let both = range.start.max(seen.start)..range.end.min(seen.end);
                        pairs.kept_and_visible += both.len() as f64;
                    }
                }
                vec![pairs; batch * heads]
            }
            (MaskForm::Indices(rows), Some(seen)) => {
                let lists = rows.to_host();
                let mut heads_pairs = vec![Pairs::default(); batch * heads];
                for (row, list) in lists.iter().enumerate() {
                    let pairs = &mut heads_pairs[row / queries];
                    let seen = seen(row % queries, keys);
                    pairs.all += keys as f64;
                    pairs.visible += seen.len() as f64;
                    pairs.kept += list.len() as f64;
                    pairs.kept_and_visible +=
                        list.iter().filter(|kept| seen.contains(&(kept.key as usize))).count() as f64;
                }
                heads_pairs
            }
            _ => self.pairs_dense(visibility),
        }
    }

    fn pairs_dense(&self, visibility: &Visibility<B>) -> Vec<Pairs> {
        let MaskShape { batch, heads, queries, keys } = self.shape();
        if queries * keys == 0 {
            return vec![Pairs::default(); batch * heads];
        }
        let kept = self.support().to_dense();
        let shape = self.shape();
        let visible = match visibility.hidden(shape, 0..queries, &[shape.all_keys()], &self.device()) {
            Some(hidden) => Tensor::<B, 4>::ones(shape.dims(), (&self.device(), DType::F32))
                .mask_fill(hidden.expand(shape.dims()), 0.0),
            None => Tensor::ones(shape.dims(), (&self.device(), DType::F32)),
        };
        // The counts of a row are exact in f32. The counts of a head may not be, so they are added up in f64.
        let per_head = |counts: Tensor<B, 4>| {
            let counts = counts.sum_dim(3).into_data().convert::<f32>();
            let counts = counts.iter::<f32>().map(f64::from).collect::<Vec<_>>();
            counts.chunks(queries).map(|rows| rows.iter().sum()).collect::<Vec<f64>>()
        };
        let (both, kept, visible) = (per_head(kept.clone() * visible.clone()), per_head(kept), per_head(visible));
        (0..batch * heads)
            .map(|head| Pairs {
                kept_and_visible: both[head],
                visible: visible[head],
                kept: kept[head],
                all: (queries * keys) as f64,
            })
            .collect()
    }
}
