/// The filler sentences, which are repeated.
const NOISE: [&str; 5] =
    ["The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again."];

/// The text that needles are hidden in.
pub(super) enum Haystack<'a> {
    /// The sentences of [NOISE], repeated.
    Noise,
    /// The sentences of a text.
    Text(Vec<&'a str>),
}

impl<'a> Haystack<'a> {
    /// The sentences of a text. Spaces and line breaks inside a sentence are kept.
    pub fn of_text(text: &'a str) -> Self {
        Self::Text(text.split_inclusive(". ").map(|sentence| sentence.trim_end_matches(' ')).collect())
    }

    /// The number of sentences that are available.
    pub fn sentences(&self) -> usize {
        match self {
            Self::Noise => usize::MAX,
            Self::Text(sentences) => sentences.len(),
        }
    }

    /// `count` sentences, beginning with the sentence `first`, with needles between them. The number beside a needle is
    /// the share of the sentences that stand before it.
    pub fn with_needles(&self, first: usize, count: usize, needles: &[(f64, String)]) -> String {
        let mut parts = Vec::with_capacity(count + needles.len());
        for place in 0..=count {
            let here = needles.iter().filter(|(share, _)| (share * count as f64) as usize == place);
            parts.extend(here.map(|(_, needle)| needle.as_str()));
            if place < count {
                parts.push(match self {
                    Self::Noise => NOISE[place % NOISE.len()],
                    Self::Text(sentences) => sentences[(first + place) % sentences.len()],
                });
            }
        }
        parts.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needles_stand_where_their_shares_say() {
        let needles = [(0.0, "A.".to_owned()), (0.5, "B.".to_owned()), (1.0, "C.".to_owned())];
        let text = Haystack::of_text("one. two. three. four.");
        assert_eq!(text.sentences(), 4);
        assert_eq!(text.with_needles(3, 4, &needles), "A. four. one. B. two. three. C.");
        assert_eq!(Haystack::Noise.with_needles(0, 0, &needles), "A. B. C.");
    }
}
