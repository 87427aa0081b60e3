use serde::{Deserialize, Serialize};

/// Whether the query heads that share a key-value head (GQA) choose their keys together, so that each key and value is
/// read once for the whole group.
///
/// In a configuration: `"share_group": false` (the default), `true` (the same as `"mean"`), `"mean"` or `"max"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Field", into = "Field")]
pub enum ShareGroup {
    /// Every head chooses for itself.
    #[default]
    No,
    /// The group chooses by the mean of its heads' scores.
    Mean,
    /// The group chooses by the largest of its heads' scores.
    Max,
}

/// The value in a configuration.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Field {
    Flag(bool),
    Name(String),
}

impl TryFrom<Field> for ShareGroup {
    type Error = String;

    fn try_from(field: Field) -> Result<Self, String> {
        match field {
            Field::Flag(false) => Ok(Self::No),
            Field::Flag(true) => Ok(Self::Mean),
            Field::Name(name) => match name.as_str() {
                "mean" => Ok(Self::Mean),
                "max" => Ok(Self::Max),
                other => {
                    Err(format!("\"{other}\" is not a way to share; allowed are false, true, \"mean\" and \"max\""))
                }
            },
        }
    }
}

impl From<ShareGroup> for Field {
    fn from(share: ShareGroup) -> Self {
        match share {
            ShareGroup::No => Self::Flag(false),
            ShareGroup::Mean => Self::Name("mean".to_owned()),
            ShareGroup::Max => Self::Name("max".to_owned()),
        }
    }
}

impl ShareGroup {
    /// Combines the scores of a group in the scores of its first head. For the mean it computes the sum, which has the
    /// same order. A key that one head cannot choose is not available to the group. Without sharing, the scores stay
    /// unchanged.
    pub(crate) fn combine(self, scores: &mut [f32], heads: usize) {
        if self == Self::No {
            return;
        }
        let (first, others) = scores.split_at_mut(scores.len() / heads);
        for other in others.chunks_exact(first.len()) {
            for (score, &other) in first.iter_mut().zip(other) {
                let hidden = *score == f32::NEG_INFINITY || other == f32::NEG_INFINITY;
                *score = match self {
                    _ if hidden => f32::NEG_INFINITY,
                    Self::Max if *score >= other || score.is_nan() => *score,
                    Self::Max => other,
                    _ => *score + other,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ShareGroup;

    #[test]
    fn groups_choose_by_mean_or_maximum() {
        let hidden = f32::NEG_INFINITY;
        let scores = [1.0, 2.0, hidden, 4.0, 5.0, 0.0, 1.0, hidden];
        let mut mean = scores;
        ShareGroup::Mean.combine(&mut mean, 2);
        assert_eq!(mean[..4], [6.0, 2.0, hidden, hidden]);
        let mut max = scores;
        ShareGroup::Max.combine(&mut max, 2);
        assert_eq!(max[..4], [5.0, 2.0, hidden, hidden]);
    }

    #[test]
    fn what_is_not_a_number_stays_unless_it_is_hidden() {
        let scores = [f32::NAN, 1.0, f32::NAN, 1.0, f32::NAN, f32::NEG_INFINITY];
        for share in [ShareGroup::Mean, ShareGroup::Max] {
            let mut scores = scores;
            share.combine(&mut scores, 2);
            assert!(scores[0].is_nan() && scores[1].is_nan(), "{share:?}");
            assert_eq!(scores[2], f32::NEG_INFINITY, "{share:?}");
        }
    }

    #[test]
    fn files_name_it() {
        let read = |text: &str| serde_json::from_str::<ShareGroup>(text).map_err(|error| error.to_string());
        assert_eq!(read("false"), Ok(ShareGroup::No));
        assert_eq!(read("true"), Ok(ShareGroup::Mean));
        assert_eq!(read("\"max\""), Ok(ShareGroup::Max));
        assert!(read("\"sum\"").unwrap_err().contains("allowed are false, true"));
    }
}
