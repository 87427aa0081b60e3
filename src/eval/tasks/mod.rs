//! Tasks that measure how much quality a method costs a model: generated retrieval tasks, which follow the recipes of
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
    models::{ModelError, Tokenizer},
    state::mix,
};

/// A question about a context, with the right answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name of the sample.
    pub id: String,
    /// The name of the task.
    pub task: String,
    /// The approximate number of tokens.
    pub length: usize,
    /// The text that the question is about.
    pub context: String,
    /// The question, followed by the beginning of the answer.
    pub question: String,
    /// The right answers.
    pub answers: Vec<String>,
    /// How the answer is scored.
    pub score: Score,
    /// The largest number of tokens of the answer.
    pub max_new_tokens: usize,
}

/// A generated task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Task {
    /// A number of five digits among repeated sentences.
    Passkey,
    /// A number of seven digits under one of several keys.
    Needle {
        /// The number of keys. The question asks for one of them.
        keys: usize,
        /// Whether the keys are hidden in a text, instead of among repeated sentences.
        in_text: bool,
    },
    /// Several numbers under one key. The question asks for all of them.
    MultiValue,
    /// Several keys with one number each. The question asks for all of them.
    MultiQuery,
    /// Two chains of assignments. The question asks for the variables of one chain.
    VariableTracking,
    /// The ten most common words of a list.
    CommonWords,
    /// The three most frequent words of a coded text, whose word frequencies follow a power law.
    FrequentWords,
}

impl Task {
    /// All tasks with their names.
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

    /// The task with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, task)| task)
    }

    /// The name of the task. A needle task that is not in [ALL](Self::ALL) is named by its fields.
    pub fn name(self) -> String {
        let known = Self::ALL.into_iter().find(|(_, task)| *task == self).map(|(name, _)| name.to_owned());
        known.unwrap_or_else(|| format!("{self:?}"))
    }
}

/// Configuration that generates samples of tasks.
#[derive(Clone, Copy)]
pub struct SampleMaker<'a> {
    /// The tokenizer that counts the tokens.
    pub tokenizer: &'a Tokenizer,
    /// The text in which needles are hidden.
    pub text: &'a str,
    /// The largest number of tokens of a sample, including its answer.
    pub length: usize,
    /// The position in the context of the needle that is asked for, in [0, 1]. `None`: a random position.
    pub depth: Option<f64>,
    /// The seed of the random choices.
    pub seed: u64,
}

/// The parts of a sample: a function from the number of filling sentences to the context, the question, and the
/// answers.
struct Draft<'a> {
    context: Box<dyn Fn(usize) -> String + 'a>,
    /// The largest number of filling sentences.
    most: usize,
    question: String,
    answers: Vec<String>,
}

impl SampleMaker<'_> {
    /// The sample with a number. The same seed, length, depth and number give the same sample.
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
        // The largest number of sentences that fits.
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
            // Room for a word more than the answer, and for the text between its parts.
            max_new_tokens: answer + answer / 4 + 4,
        })
    }

    fn count(&self, text: &str) -> Result<usize, ModelError> {
        Ok(self.tokenizer.encode(text, true)?.len())
    }
}
