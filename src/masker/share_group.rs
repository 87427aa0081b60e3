use serde::{Deserialize, Serialize};

/// Whether the query heads that share a key-value head (GQA) choose their keys together, so that each key and value is
/// read once for the whole group.
///
/// In a file: `"share_group": false` (the default), `true` (which is `"mean"`), `"mean"` or `"max"`.
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

/// What stands in a file.
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
    /// The scores of a group in those of its first head (for the mean their sum, which orders alike). What one head cannot
    /// choose, the group cannot. Heads that do not share keep theirs.
    pub(crate) fn combine(self, scores: &mut [f32], heads: usize) {
        if self == Self::No {
            return;
        }
        let (first, others) = scores.split_at_mut(scores.len() / heads);
        for other in others.chunks_exact(first.len()) {
            for (score, &other) in first.iter_mut().zip(other) {
                *score = match self {
                    Self::Max if other > *score && *score > f32::NEG_INFINITY => other,
                    Self::Max if other > f32::NEG_INFINITY => *score,
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
    fn files_name_it() {
        let read = |text: &str| serde_json::from_str::<ShareGroup>(text).map_err(|error| error.to_string());
        assert_eq!(read("false"), Ok(ShareGroup::No));
        assert_eq!(read("true"), Ok(ShareGroup::Mean));
        assert_eq!(read("\"max\""), Ok(ShareGroup::Max));
        assert!(read("\"sum\"").unwrap_err().contains("allowed are false, true"));
    }
}
