//! The keys to which a scorer or masker fits something that needs many keys, such as centroids.

use std::{collections::BTreeSet, ops::Range};

use serde::{Deserialize, Serialize};

use crate::problem::RowKeys;

/// The keys of a sequence to which something is fitted that needs many keys, such as centroids or means.
///
/// In a file: `"fit": 256` (the default) or `"fit": "prompt"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Field", into = "Field")]
pub enum Fit {
    /// A fit to the first keys of the sequence: to this number of them, to twice as many, to four times as many, and so
    /// on.
    ///
    /// A query uses the last fit of which it sees all keys. So it does not depend on a key that it does not see, and a
    /// prompt may be split into chunks of any size. A query uses the exact keys instead if it sees fewer keys than the
    /// first fit needs. It also uses them if it does not see all of the first keys without a gap, as with a sliding
    /// window or a mask with holes. A fit covers more than half of the keys that the query sees. All fits together cost
    /// about as much as one fit to all keys.
    Doubling(usize),
    /// One fit to all keys of the first call, which is the published rule.
    ///
    /// The queries of the first call then depend on later keys, and the kept keys depend on how a prompt is split into
    /// calls.
    Prompt,
}

impl Default for Fit {
    fn default() -> Self {
        Self::Doubling(256)
    }
}

/// The value in a file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Field {
    Keys(usize),
    Name(String),
}

impl TryFrom<Field> for Fit {
    type Error = String;

    fn try_from(field: Field) -> Result<Self, String> {
        let allowed = "allowed are a number of keys of at least 1, and \"prompt\"";
        match field {
            Field::Keys(0) => Err(format!("0 keys are not enough to fit to; {allowed}")),
            Field::Keys(keys) => Ok(Self::Doubling(keys)),
            Field::Name(name) if name == "prompt" => Ok(Self::Prompt),
            Field::Name(name) => Err(format!("\"{name}\" is nothing to fit to; {allowed}")),
        }
    }
}

impl From<Fit> for Field {
    fn from(fit: Fit) -> Self {
        match fit {
            Fit::Doubling(keys) => Self::Keys(keys),
            Fit::Prompt => Self::Name("prompt".to_owned()),
        }
    }
}

impl Fit {
    /// The number of keys in the fit that a row uses. `prefix` is the number of keys that the row sees, if these are
    /// exactly the first keys. `None` if the row has no fit.
    fn of_row(self, prefix: Option<usize>, first_call: usize) -> Option<usize> {
        match (self, prefix) {
            (Self::Prompt, _) => Some(first_call),
            (Self::Doubling(first), Some(prefix)) if prefix >= first => Some(first << (prefix / first).ilog2()),
            (Self::Doubling(_), _) => None,
        }
    }
}

/// The fits of a sequence, with the fitted content for each number of keys.
#[derive(Debug, Clone)]
pub(crate) struct Fits<T> {
    fits: Vec<Fitted<T>>,
    /// The number of keys of the first call that are still there.
    first_call: usize,
}

/// A content that is fitted to the first `to` keys and has processed the first `keys` keys.
#[derive(Debug, Clone)]
struct Fitted<T> {
    to: usize,
    keys: usize,
    content: T,
}

/// The keys that must be read for some rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The fits need the keys from this one on.
    pub from: usize,
    /// The rows without a fit need the keys before this one.
    pub exact: usize,
}

impl<T> Default for Fits<T> {
    fn default() -> Self {
        Self { fits: Vec::new(), first_call: 0 }
    }
}

impl<T: Default> Fits<T> {
    /// Adds the fits that some rows use over a number of keys, and removes the fits that no later row uses.
    pub fn plan<'a>(&mut self, fit: Fit, rows: impl Iterator<Item = RowKeys<'a>>, keys: usize) -> Plan {
        if self.first_call == 0 {
            self.first_call = keys;
        }
        let (mut used, mut exact) = (BTreeSet::new(), 0);
        for row in rows {
            match fit.of_row(row.prefix(), self.first_call) {
                Some(to) => {
                    used.insert(to);
                }
                None => exact = exact.max(row.end()),
            }
        }
        // Later rows use the last fit, or newer ones.
        let last = self.fits.last().map(|fitted| fitted.to);
        self.fits.retain(|fitted| used.contains(&fitted.to) || Some(fitted.to) == last);
        for to in used {
            if self.fits.iter().all(|fitted| fitted.to != to) {
                self.fits.push(Fitted { to, keys: 0, content: T::default() });
            }
        }
        self.fits.sort_by_key(|fitted| fitted.to);
        Plan { from: self.fits.iter().map(|fitted| fitted.keys).min().unwrap_or(keys), exact }
    }

    /// Lets each fit process the keys that it does not know yet. `grow` gets the content, the number of keys in the
    /// fit, and the range of new keys. The range has all keys if the fit is new.
    pub fn grow(&mut self, keys: usize, grow: impl Fn(&mut T, usize, Range<usize>)) {
        for fitted in self.fits.iter_mut().filter(|fitted| fitted.keys < keys) {
            grow(&mut fitted.content, fitted.to, fitted.keys..keys);
            fitted.keys = keys;
        }
    }

    /// The fit of a row. `None` if the row uses the exact keys.
    pub fn of_row(&self, fit: Fit, row: &RowKeys) -> Option<&T> {
        let to = fit.of_row(row.prefix(), self.first_call)?;
        self.fits.iter().find(|fitted| fitted.to == to).map(|fitted| &fitted.content)
    }

    /// Gives the content of each fit.
    pub fn contents_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.fits.iter_mut().map(|fitted| &mut fitted.content)
    }

    /// Removes all but the first `keys` keys, and the fits that were made from removed keys. `cut` gets the content,
    /// the number of keys that it knows, and the number to keep. It returns whether the content is now as if it had
    /// never seen the removed keys.
    pub fn truncate(&mut self, keys: usize, cut: impl Fn(&mut T, usize, usize) -> bool) {
        self.first_call = self.first_call.min(keys);
        self.fits.retain_mut(|fitted| {
            if keys >= fitted.keys {
                return true;
            }
            let known = std::mem::replace(&mut fitted.keys, keys);
            keys >= fitted.to && cut(&mut fitted.content, known, keys)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_name_it() {
        let read = |text: &str| serde_json::from_str::<Fit>(text).map_err(|error| error.to_string());
        assert_eq!(read("7"), Ok(Fit::Doubling(7)));
        assert_eq!(read("\"prompt\""), Ok(Fit::Prompt));
        assert!(read("0").unwrap_err().contains("at least 1"));
        assert!(read("\"decode\"").unwrap_err().contains("\"prompt\""));
        assert_eq!(serde_json::to_string(&Fit::default()).expect("a number"), "256");
    }

    #[test]
    fn a_row_uses_the_last_fit_that_it_sees_whole() {
        let fit = |prefix| Fit::Doubling(5).of_row(prefix, 99);
        let wanted =
            [(4, None), (5, Some(5)), (9, Some(5)), (10, Some(10)), (19, Some(10)), (20, Some(20)), (41, Some(40))];
        for (prefix, wanted) in wanted {
            assert_eq!(fit(Some(prefix)), wanted, "{prefix} keys");
        }
        assert_eq!(fit(None), None);
        assert_eq!(Fit::Prompt.of_row(None, 99), Some(99));
    }

    #[test]
    fn fits_are_made_once_and_cut_back() {
        let mut fits = Fits::<Vec<(usize, Range<usize>)>>::default();
        let rows = |ends: Range<usize>| ends.map(|end| RowKeys::Range(0..end));
        let grow = |content: &mut Vec<_>, to, new| content.push((to, new));
        // A prompt of 11 keys, whose rows see 1 to 11 of them.
        assert_eq!(fits.plan(Fit::Doubling(4), rows(1..12), 11), Plan { from: 0, exact: 3 });
        fits.grow(11, grow);
        let content =
            |fits: &Fits<_>, end| Vec::clone(fits.of_row(Fit::Doubling(4), &RowKeys::Range(0..end)).expect("a fit"));
        assert_eq!(content(&fits, 7), [(4, 0..11)]);
        assert_eq!(content(&fits, 8), [(8, 0..11)]);
        // A decode step removes the first fit.
        assert_eq!(fits.plan(Fit::Doubling(4), rows(12..13), 12), Plan { from: 11, exact: 0 });
        fits.grow(12, grow);
        assert_eq!(content(&fits, 12), [(8, 0..11), (8, 11..12)]);
        assert!(fits.of_row(Fit::Doubling(4), &RowKeys::Range(0..7)).is_none());
        // The fit to 8 keys stays when 9 keys are left, and is removed when 7 are left.
        fits.truncate(9, |_, known, keys| (known, keys) == (12, 9));
        assert_eq!(fits.plan(Fit::Doubling(4), rows(10..11), 10), Plan { from: 9, exact: 0 });
        fits.truncate(7, |_, _, _| true);
        assert_eq!(fits.plan(Fit::Doubling(4), rows(8..9), 8), Plan { from: 0, exact: 0 });
    }
}
