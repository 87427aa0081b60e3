//! Lists of words in which some words are more frequent than others.

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{
    Draft,
    word_lists::{letters, nouns},
};

/// The number of common words.
const COMMON: usize = 10;
/// How often each common word is in the list for each time that another word is.
const TIMES: usize = 10;
/// The exponent of the power law: frequencies fall with the rank.
const EXPONENT: f64 = 2.0;

/// A numbered list in which ten words are common.
pub(super) fn common<'a>(generator: &mut impl Rng) -> Draft<'a> {
    let words = nouns(generator);
    let (answers, seed) = (words[..COMMON].to_vec(), generator.next_u64());
    let context = move |count: usize| {
        // Each round adds one of the other words.
        let (common, others) = words.split_at(COMMON);
        let mut list = Vec::new();
        for round in 0..=count {
            list.push(&others[round % others.len()]);
            // It also adds enough common words for the ratio `TIMES`, taken in turns so that all of them are about as
            // common.
            list.extend((0..TIMES * COMMON / others.len() + 1).map(|at| &common[(round + at * 7) % COMMON]));
        }
        list.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(seed));
        let numbered = list.iter().enumerate().map(|(at, word)| format!("{}. {word}", at + 1)).collect::<Vec<_>>();
        format!(
            "This is a numbered list of words, some of which are in it more often than others.\n {}",
            numbered.join(" ")
        )
    };
    let question =
        "\nQuestion: Which 10 words are most often in the list? Answer: The 10 words that are most often in \
                    the list are:"
            .to_owned();
    Draft { context: Box::new(context), most: usize::MAX, question, answers }
}

/// Words of random letters whose frequencies fall with their rank. Dots replace the most frequent word.
pub(super) fn frequent<'a>(generator: &mut impl Rng) -> Draft<'a> {
    let words = letters(50, 6, 'a', generator);
    let (answers, seed) = (words[1..4].to_vec(), generator.next_u64());
    let context = move |count: usize| {
        let share = |rank: usize| ((rank + 1) as f64).powf(-EXPONENT);
        let all = (0..words.len()).map(share).sum::<f64>();
        let times = |rank: usize| ((count + 20) as f64 * share(rank) / all) as usize;
        let mut text = Vec::new();
        for (rank, word) in words.iter().enumerate() {
            let word = if rank == 0 { "..." } else { word.as_str() };
            text.extend(std::iter::repeat_n(word, times(rank)));
        }
        text.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(seed));
        format!("This is a coded text; remember how often each word is in it.\n {}", text.join(" "))
    };
    let question =
        "\nQuestion: Which three words, other than dots, are most often in the text? Answer: The three words \
                    that are most often in the text are:"
            .to_owned();
    Draft { context: Box::new(context), most: usize::MAX, question, answers }
}
