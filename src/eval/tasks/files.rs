//! Task files, with one JSON object per line.

use std::path::Path;

use serde_json::Value;

use super::{Sample, Score};
use crate::io::FileError;

/// Reads a task file. Each line is a sample in one of three forms:
///
/// | form | fields |
/// |---|---|
/// | prompts | `prompt`, `answer`, and possibly `id`, `task`, `length`, `answer_tokens`; the last line of the prompt is the question |
/// | LongBench | `context`, `input`, `answers`, and possibly `dataset`, `_id`, `length` |
/// | RULER | `input`, `outputs`, and possibly `index`, `length`, `task`; the last line of the input is the question |
///
/// `score` names the [Score] of the answer. Without it, prompts and RULER are scored by [Score::ContainsAll], and
/// LongBench by [Score::F1]. Answers have at most `max_new_tokens` tokens, unless a line gives `answer_tokens`.
///
/// # Errors
/// If the file cannot be read, or a line is in none of these forms; the error names the line.
pub fn read_samples(
    path: impl AsRef<Path>,
    score: Option<Score>,
    max_new_tokens: usize,
) -> Result<Vec<Sample>, FileError> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Open { path: path.to_owned(), source })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let file = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let samples = lines.map(|(number, line)| {
        let sample = serde_json::from_str::<Value>(line).map_err(|error| error.to_string());
        sample.and_then(|value| sample_of(&value, &file, number, score, max_new_tokens)).map_err(|reason| {
            let reason = format!("line {}: {reason}", number + 1);
            FileError::Format { path: path.to_owned(), format: "a task file", reason }
        })
    });
    samples.collect()
}

fn sample_of(
    value: &Value,
    file: &str,
    number: usize,
    score: Option<Score>,
    max_new_tokens: usize,
) -> Result<Sample, String> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let texts = |name: &str| {
        let list = value.get(name)?.as_array()?;
        list.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    };
    let count = |name: &str| value.get(name).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
    let split = |prompt: &str| {
        let at = prompt.rfind('\n').unwrap_or(0);
        (prompt[..at].to_owned(), prompt[at..].to_owned())
    };
    let ((context, question), answers, usual) = match (text("prompt"), text("context"), text("input")) {
        (Some(prompt), ..) => {
            let answer = text("answer").ok_or("there is a `prompt`, but `answer` is not a text")?;
            // Several names in one answer are separate right answers, in any order.
            let parts = answer.split_whitespace().map(str::to_owned).collect();
            (split(prompt), parts, Score::ContainsAll)
        }
        (None, Some(context), Some(input)) => {
            let answers = texts("answers").ok_or("there is a `context`, but `answers` is not a list of texts")?;
            let question = format!("\n\nQuestion: {input}\nAnswer:");
            ((context.to_owned(), question), answers, Score::F1)
        }
        (None, None, Some(input)) => {
            let answers = texts("outputs").ok_or("there is an `input`, but `outputs` is not a list of texts")?;
            (split(input), answers, Score::ContainsAll)
        }
        _ => return Err("there is neither `prompt`, nor `context` and `input`, nor `input`".to_owned()),
    };
    let task = text("task").or(text("dataset")).unwrap_or(file).to_owned();
    let id = text("id").or(text("_id")).map(str::to_owned);
    Ok(Sample {
        id: id.unwrap_or_else(|| format!("{task}-{}", count("index").unwrap_or(number))),
        task,
        length: count("length").unwrap_or(0),
        context,
        question,
        answers,
        score: score.unwrap_or(usual),
        max_new_tokens: count("answer_tokens").map_or(max_new_tokens, |tokens| tokens + 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Sample>, String> {
        let path = std::env::temp_dir().join(format!("tasks-{}-{}.jsonl", std::process::id(), text.len()));
        std::fs::write(&path, text).expect("the temporary folder can be written");
        let samples = read_samples(&path, None, 30).map_err(|error| error.to_string());
        // A file that stays in the temporary folder does no harm.
        let _ = std::fs::remove_file(path);
        samples
    }

    #[test]
    fn all_three_forms_are_read() {
        let samples = read(
            r#"{"id": "a-1", "task": "a", "length": 9, "prompt": "x\ny\nWhat? It is", "answer": "P Q", "answer_tokens": 4}
{"context": "c", "input": "q?", "answers": ["one", "two"], "dataset": "hotpotqa", "length": 3}

{"index": 7, "input": "c\nq", "outputs": ["o"], "length": 4096}"#,
        )
        .unwrap();
        assert_eq!((samples[0].context.as_str(), samples[0].question.as_str()), ("x\ny", "\nWhat? It is"));
        assert_eq!((samples[0].answers.len(), samples[0].max_new_tokens), (2, 5));
        assert_eq!((samples[1].score, samples[1].id.as_str()), (Score::F1, "hotpotqa-1"));
        assert_eq!((samples[1].context.as_str(), samples[1].max_new_tokens), ("c", 30));
        assert_eq!((samples[2].length, samples[2].answers[0].as_str()), (4096, "o"));
        assert!(samples[2].id.ends_with("-7"), "{}", samples[2].id);
    }

    #[test]
    fn a_line_that_is_no_sample_is_named() {
        let error = read("{\"prompt\": \"a\", \"answer\": \"b\"}\n{\"prompt\": \"a\", \"answer\": 5}").unwrap_err();
        assert!(error.contains("line 2") && error.contains("`answer`"), "{error}");
        assert!(read("{\"a\": 1}").unwrap_err().contains("neither"));
        assert!(read("{").unwrap_err().contains("line 1"));
    }
}
