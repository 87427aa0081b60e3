//! The samples of the tasks that the library makes itself.

use std::{fs, path::Path};

use sparse_attention_hub::{
    eval::tasks::{Sample, SampleMaker, Task, read_samples},
    models::{ModelError, Tokenizer},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn with_maker<T>(length: usize, depth: Option<f64>, work: impl FnOnce(SampleMaker) -> T) -> T {
    let tokenizer = Tokenizer::from_directory(root().join("examples/models/lm14m")).expect("the tokenizer is there");
    let text = fs::read_to_string(root().join("examples/data/validation.txt")).expect("the text is there");
    work(SampleMaker { tokenizer: &tokenizer, text: &text, length, depth, seed: 5 })
}

#[test]
fn samples_fit_and_hold_their_answers() {
    for (name, task) in Task::ALL {
        with_maker(700, None, |maker| {
            let tokens = |sample: &Sample| {
                let text = format!("{}{} {}", sample.context, sample.question, sample.answers.join(" "));
                maker.tokenizer.encode(&text, true).expect("it is a text").len()
            };
            let sample = maker.sample(task, 0).expect("the length is enough");
            assert_eq!((sample.task.as_str(), Task::named(name)), (name, Some(task)));
            // The sample with its answer is at most as long as requested, and not much shorter.
            assert!((600..=700).contains(&tokens(&sample)), "{name}: {} tokens", tokens(&sample));
            for answer in &sample.answers {
                assert!(sample.context.contains(answer), "{name}: {answer}");
            }
            assert_eq!(maker.sample(task, 0).expect("as before"), sample);
            let other = maker.sample(task, 1).expect("as before");
            assert!(other.context != sample.context && other.answers != sample.answers, "{name}");
        });
    }
}

#[test]
fn needles_are_at_their_depth() {
    for (depth, range) in [(0.0, 0.0..0.1), (0.5, 0.4..0.6), (1.0, 0.85..1.0)] {
        for name in ["passkey", "niah_single_noise", "niah_single_text", "niah_multikey4"] {
            let task = Task::named(name).expect("it is a task");
            let sample = with_maker(1500, Some(depth), |maker| maker.sample(task, 3)).expect("the length is enough");
            let at = sample.context.find(&sample.answers[0]).expect("the answer is there");
            let share = at as f64 / sample.context.len() as f64;
            assert!(range.contains(&share), "{name} at {depth}: {share}");
        }
    }
}

#[test]
fn common_words_are_the_most_common() {
    for (name, separator) in [("common_words", ". "), ("frequent_words", " ")] {
        let task = Task::named(name).expect("it is a task");
        let sample = with_maker(2000, None, |maker| maker.sample(task, 0)).expect("the length is enough");
        let list = sample.context.split_once('\n').expect("the list is in a line of its own").1;
        let count = |word: &str| list.split([' ', '\n']).filter(|found| *found == word).count();
        let least = sample.answers.iter().map(|answer| count(answer)).min().expect("there are answers");
        let mut words = list.split(separator).flat_map(str::split_whitespace).collect::<Vec<_>>();
        words.retain(|word| {
            word.chars().all(char::is_alphabetic) && !sample.answers.iter().any(|answer| answer == word)
        });
        let most = words.iter().map(|word| count(word)).max().expect("there are other words");
        assert!(least > most, "{name}: {least} times and {most} times");
    }
}

#[test]
fn impossible_lengths_and_depths_are_refused() {
    let find = |length, depth| with_maker(length, depth, |maker| maker.sample(Task::MultiQuery, 0)).err();
    assert!(matches!(find(50, None), Some(ModelError::Value { field: "length", .. })));
    assert!(matches!(find(500_000, None), Some(ModelError::Value { field: "length", .. })));
    assert!(matches!(find(500, Some(1.5)), Some(ModelError::Value { field: "depth", .. })));
    let text = with_maker(500, None, |maker| SampleMaker { text: "", ..maker }.sample(Task::MultiQuery, 0)).err();
    assert!(matches!(text, Some(ModelError::Value { field: "length", .. })), "{text:?}");
    assert!(read_samples(root().join("nowhere.jsonl"), None, 8).is_err());
}
