//! Scores in [0, 1] of an answer, compared with the right answers.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// A way to score an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Score {
    /// The share of the right answers that the text contains, ignoring case: RULER's `string_match_all`.
    ContainsAll,
    /// 1 if the text contains any of the right answers, ignoring case: RULER's `string_match_part`.
    ContainsAny,
    /// 1 if the text equals a right answer, ignoring case, punctuation, articles and spaces: SQuAD's exact match.
    ExactMatch,
    /// The harmonic mean of precision and recall of the words that the text shares with an answer, for the right answer
    /// where it is highest: SQuAD's F1.
    F1,
    /// The same harmonic mean for the longest common subsequence of words
    /// ([ROUGE-L](https://aclanthology.org/W04-1013)).
    RougeL,
}

impl Score {
    /// The score of a text against the right answers. 0 if there are none.
    pub fn of(self, text: &str, answers: &[String]) -> f64 {
        let lower = text.to_lowercase();
        let contained = answers.iter().filter(|answer| lower.contains(&answer.to_lowercase())).count();
        let best = |score: &dyn Fn(&str) -> f64| answers.iter().map(|answer| score(answer)).fold(0.0, f64::max);
        match self {
            Self::ContainsAll => contained as f64 / answers.len().max(1) as f64,
            Self::ContainsAny => f64::from(u8::from(contained > 0)),
            Self::ExactMatch => best(&|answer| f64::from(u8::from(normal(text) == normal(answer)))),
            Self::F1 => best(&|answer| f1(&normal(text), &normal(answer))),
            Self::RougeL => best(&|answer| rouge_l(&words(text), &words(answer))),
        }
    }
}

/// Lower-case words without punctuation.
fn words(text: &str) -> Vec<String> {
    let letters = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect::<String>();
    letters.split_whitespace().map(str::to_owned).collect()
}

/// Lower-case words without punctuation and articles.
fn normal(text: &str) -> Vec<String> {
    let mut words = words(text);
    words.retain(|word| !["a", "an", "the"].contains(&word.as_str()));
    words
}

fn harmonic_mean(common: usize, found: usize, wanted: usize) -> f64 {
    match common {
        0 => f64::from(u8::from(found == 0 && wanted == 0)),
        common => 2.0 * common as f64 / (found + wanted) as f64,
    }
}

fn f1(found: &[String], wanted: &[String]) -> f64 {
    let mut left = HashMap::<&str, usize>::new();
    for word in wanted {
        *left.entry(word).or_default() += 1;
    }
    let is_common = |word: &&String| match left.get_mut(word.as_str()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    };
    harmonic_mean(found.iter().filter(is_common).count(), found.len(), wanted.len())
}

fn rouge_l(found: &[String], wanted: &[String]) -> f64 {
    // The length of the longest common subsequence up to each word of the right answer, row by row.
    let mut lengths = vec![0; wanted.len() + 1];
    for word in found {
        let mut diagonal = 0;
        for (at, other) in wanted.iter().enumerate() {
            let above = lengths[at + 1];
            lengths[at + 1] = if word == other { diagonal + 1 } else { above.max(lengths[at]) };
            diagonal = above;
        }
    }
    harmonic_mean(lengths[wanted.len()], found.len(), wanted.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(score: Score, text: &str, answers: &[&str]) -> f64 {
        score.of(text, &answers.iter().map(|answer| (*answer).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn texts_are_scored_as_the_benchmarks_do() {
        use Score::{ContainsAll, ContainsAny, ExactMatch, F1, RougeL};
        assert_eq!(score(ContainsAll, " ABC and xyz.", &["abc", "def", "XYZ"]), 2.0 / 3.0);
        assert_eq!(score(ContainsAny, "abc", &["def", "b"]), 1.0);
        assert_eq!(score(ContainsAny, "abc", &["def"]), 0.0);
        assert_eq!(score(ExactMatch, " The cat!", &["dog", "Cat"]), 1.0);
        assert_eq!(score(ExactMatch, "cats", &["cat"]), 0.0);
        // Two of three words are shared, and two of four. "red" is twice in the text but once in the answer.
        assert_eq!(score(F1, "red red blue", &["blue, red, green, grey"]), 4.0 / 7.0);
        assert_eq!(score(F1, "", &["blue"]), 0.0);
        // "x z" is the longest common subsequence of "x y z" and "x z y w": the order of y and z counts.
        assert_eq!(score(RougeL, "x y z", &["x z y w"]), 4.0 / 7.0);
        assert_eq!(score(ContainsAll, "anything", &[]), 0.0);
    }
}
