//! Tasks that measure what a method costs a model: retrieval tasks made here, after the recipes of
//! [RULER](https://arxiv.org/abs/2404.06654), and task files.

mod files;
mod haystack;
mod needles;
mod variable_tracking;
mod word_lists;
mod words;

use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

pub use files::read_samples;

use super::Score;
use crate::{
    masker::mix,
    models::{ModelError, Tokenizer},
};

/// A question about a context, with what is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What it is called.
    pub id: String,
    /// The task that it is of.
    pub task: String,
    /// About how many tokens it has.
    pub length: usize,
    /// What the question is about.
    pub context: String,
    /// The question, with the beginning of the answer.
    pub question: String,
    /// The right answers.
    pub answers: Vec<String>,
    /// How an answer is scored.
    pub score: Score,
    /// How many tokens an answer may have.
    pub max_new_tokens: usize,
}

/// A task that is made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Task {
    /// A number of five digits among sentences that are repeated.
    Passkey,
    /// A number of seven digits under one of so many keys, among repeated sentences or in a text.
    Needle {
        /// How many keys there are, of which one is asked for.
        keys: usize,
        /// Whether they are in a text, instead of among repeated sentences.
        in_text: bool,
    },
    /// Several numbers under one key, all of which are asked for.
    MultiValue,
    /// Several keys with a number each, all of which are asked for.
    MultiQuery,
    /// Two chains of assignments; the variables of one are asked for.
    VariableTracking,
    /// The ten most common words of a list.
    CommonWords,
    /// The three most frequent words of a coded text, whose frequencies fall by a power.
    FrequentWords,
}

impl Task {
    /// The tasks by their names.
    pub const ALL: [(&str, Self); 9] = [
        ("passkey", Self::Passkey),
        ("niah_single_noise", Self::Needle { keys: 1, in_text: false }),
        ("niah_single_text", Self::Needle { keys: 1, in_text: true }),
        ("niah_multikey4", Self::Needle { keys: 4, in_text: true }),
        ("niah_multivalue", Self::MultiValue),
        ("niah_multiquery", Self::MultiQuery),
        ("variable_tracking", Self::VariableTracking),
        ("common_words", Self::CommonWords),
        ("frequent_words", Self::FrequentWords),
    ];

    /// The task of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, task)| task)
    }

    /// The name of the task; those that only differ in a number have the same.
    pub fn name(self) -> String {
        let known = Self::ALL.into_iter().find(|(_, task)| *task == self).map(|(name, _)| name.to_owned());
        known.unwrap_or_else(|| format!("{self:?}"))
    }
}

/// How samples of a task are made.
#[derive(Clone, Copy)]
pub struct SampleMaker<'a> {
    /// The tokenizer in whose tokens lengths are counted.
    pub tokenizer: &'a Tokenizer,
    /// The text in which needles are hidden.
    pub text: &'a str,
    /// The most tokens of a sample, with its answer.
    pub length: usize,
    /// Where in the context a needle stands that is asked for, in [0, 1]; `None`: anywhere.
    pub depth: Option<f64>,
    /// The seed of what is drawn.
    pub seed: u64,
}

/// Parts of a sample: the context for a number of filling sentences, the question, and what is right.
struct Draft<'a> {
    context: Box<dyn Fn(usize) -> String + 'a>,
    /// The most sentences that there are.
    most: usize,
    question: String,
    answers: Vec<String>,
}

impl SampleMaker<'_> {
    /// The sample of a number. The same seed, length, depth and number give the same sample.
    ///
    /// # Errors
    /// If the length is too short for the task, the depth is not in [0, 1], or the text is too short for the length.
    pub fn sample(&self, task: Task, number: usize) -> Result<Sample, ModelError> {
        if let Some(depth) = self.depth.filter(|depth| !(0.0..=1.0).contains(depth)) {
            let allowed = "a share of the context, in [0, 1]".to_owned();
            return Err(ModelError::Value { field: "depth", value: depth.to_string(), allowed });
        }
        let name = task.name();
        let of_name = name.bytes().fold(self.seed, |seed, byte| mix(seed, u64::from(byte)));
        let mut generator = Xoshiro256PlusPlus::seed_from_u64(mix(mix(of_name, self.length as u64), number as u64));
        let draft = match task {
            Task::Passkey => needles::passkey(self, &mut generator),
            Task::Needle { keys, in_text } => needles::needle(self, keys, in_text, &mut generator),
            Task::MultiValue => needles::multi_value(self, &mut generator),
            Task::MultiQuery => needles::multi_query(self, &mut generator),
            Task::VariableTracking => variable_tracking::draft(&mut generator),
            Task::CommonWords => words::common(&mut generator),
            Task::FrequentWords => words::frequent(&mut generator),
        };
        let answer = self.count(&format!(" {}", draft.answers.join(" ")))?;
        let room = self.length.saturating_sub(answer);
        let fits = |sentences: usize| -> Result<bool, ModelError> {
            Ok(self.count(&format!("{}{}", (draft.context)(sentences), draft.question))? < room)
        };
        let too = |what: &str, allowed: &str| {
            let (value, allowed) = (format!("{}, too {what} for {name}", self.length), allowed.to_owned());
            ModelError::Value { field: "length", value, allowed }
        };
        if draft.most == 0 {
            return Err(too("long", "no more tokens than the text has in which needles are hidden"));
        }
        if !fits(0)? {
            return Err(too("short", "more tokens than question and needles have"));
        }
        // The most sentences that fit.
        let (mut fitting, mut beyond) = (0, 1);
        while fits(beyond)? {
            if beyond >= draft.most {
                return Err(too("long", "no more tokens than the text has in which needles are hidden"));
            }
            (fitting, beyond) = (beyond, (beyond * 2).min(draft.most));
        }
        while beyond - fitting > 1 {
            let middle = fitting + (beyond - fitting) / 2;
            if fits(middle)? {
                fitting = middle;
            } else {
                beyond = middle;
            }
        }
        let context = (draft.context)(fitting);
        Ok(Sample {
            id: format!("{name}-{}-{number}", self.length),
            task: name,
            length: self.length,
            context,
            question: draft.question,
            answers: draft.answers,
            score: Score::ContainsAll,
            // A word more than the answer, and what stands between its parts.
            max_new_tokens: answer + answer / 4 + 4,
        })
    }

    fn count(&self, text: &str) -> Result<usize, ModelError> {
        Ok(self.tokenizer.encode(text, true)?.len())
    }
}
