//! The model in `examples` against the results of transformers. `tests/data/lm14m.json` is an extract of them.

use std::{fs, path::Path};

use burn::tensor::{DType, backend::Backend};
use serde::Deserialize;
use sparse_attention_hub::{
    eval::{
        Perplexity, PerplexityConfig,
        tasks::{SampleMaker, Task},
    },
    method::MaskerChainConfig,
    models::{GenerationConfig, Pretrained},
    nn::{AttentionHook, AttentionMode},
};

#[derive(Deserialize)]
struct Reference {
    prompt: String,
    ids: Vec<u32>,
    greedy: Vec<u32>,
    log_sum_exp: f64,
    top: Vec<(u32, f64)>,
    /// The mean of `-ln p` of each of the first windows of the text, by the length of the windows.
    windows: Vec<(usize, Vec<f64>)>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn reference() -> Reference {
    let text = fs::read_to_string(root().join("tests/data/lm14m.json")).expect("the reference is there");
    serde_json::from_str(&text).expect("it is JSON")
}

/// The model with a method.
pub fn pretrained<B: Backend>(method: &str) -> Pretrained<B> {
    let method = MaskerChainConfig::from_json(method).expect("the method is a list");
    let folder = root().join("examples/models/lm14m");
    Pretrained::from_directory(folder, &method, DType::F32, &B::Device::default()).expect("the model is whole")
}

pub fn greedy_text<B: Backend>() {
    let (reference, pretrained) = (reference(), pretrained::<B>("[]"));
    let ids = pretrained.tokenizer.encode(&reference.prompt, true).unwrap();
    assert_eq!(ids, reference.ids);
    let model = &pretrained.model;
    let hidden = model.prefill(&ids, &mut model.cache(0), 100, &mut AttentionMode::Dense).unwrap();
    let logits = model.next_logits(hidden);
    let log_sum_exp = logits.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln();
    assert!((log_sum_exp - reference.log_sum_exp).abs() < 2e-3, "{log_sum_exp}");
    for (token, logit) in reference.top {
        assert!((f64::from(logits[token as usize]) - logit).abs() < 2e-3, "token {token}");
    }
    let mut config = GenerationConfig::default().with_max_new_tokens(reference.greedy.len());
    config.end_tokens = Vec::new();
    let (mut first, mut then) = (AttentionMode::Dense, AttentionMode::Dense);
    let modes: [&mut dyn AttentionHook<B>; 2] = [&mut first, &mut then];
    let written = pretrained.write(&ids, &mut model.cache(0), &config, modes, &mut |_| {}).unwrap();
    assert_eq!(written.generated.tokens, reference.greedy);
}

pub fn needles<B: Backend>() {
    // The samples are short enough for every backend. A method that cannot see the needle must fail.
    let find = |method: &str, task: Task, number: usize| {
        let pretrained = pretrained::<B>(method);
        let text = fs::read_to_string(root().join("examples/data/validation.txt")).expect("the text is there");
        let maker =
            SampleMaker { tokenizer: &pretrained.tokenizer, text: &text, length: 512, depth: Some(0.4), seed: 7 };
        let sample = maker.sample(task, number).unwrap();
        let context = pretrained.tokenizer.encode(&sample.context, true).unwrap();
        let question = pretrained.tokenizer.encode(&sample.question, false).unwrap();
        let length = context.len() + question.len();
        assert!((400..512).contains(&length), "{}: {length} tokens", sample.task);
        let mut cache = pretrained.model.cache(0);
        pretrained.model.prefill(&context, &mut cache, 256, &mut AttentionMode::Dense).unwrap();
        let config = pretrained.generation.clone().with_max_new_tokens(sample.max_new_tokens);
        let (mut first, mut then) = (AttentionMode::Sparse, AttentionMode::Sparse);
        let modes: [&mut dyn AttentionHook<B>; 2] = [&mut first, &mut then];
        let written = pretrained.write(&question, &mut cache, &config, modes, &mut |_| {}).unwrap();
        sample.score.of(&written.text, &sample.answers)
    };
    let top = r#"[{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 16},
                  {"type": "oracle_top_k", "heavy_size": 24}]"#;
    let window = r#"[{"type": "sink", "sink_size": 4}, {"type": "local", "window_size": 32}]"#;
    for task in ["passkey", "niah_multikey4"] {
        let task = Task::named(task).expect("it is a task");
        assert_eq!((find("[]", task, 0), find(top, task, 0), find(window, task, 0)), (1.0, 1.0, 0.0), "{task:?}");
    }
}

pub fn perplexities_of_the_reference<B: Backend>() {
    let (reference, pretrained) = (reference(), pretrained::<B>("[]"));
    let text = fs::read_to_string(root().join("examples/data/validation.txt")).expect("the text is there");
    let text = pretrained.tokenizer.encode(&text, false).unwrap();
    let measure = |length: usize, dense_prefix: usize, windows: usize| {
        let config = PerplexityConfig { length, dense_prefix, windows };
        let (mut prefix, mut after) = (AttentionMode::Dense, AttentionMode::Sparse);
        let modes: [&mut dyn AttentionHook<B>; 2] = [&mut prefix, &mut after];
        let begin = pretrained.model.config().begin_token;
        Perplexity::measure(&pretrained.model, begin, &text, config, modes, || {}).expect("the text is long enough")
    };
    for (length, wanted) in reference.windows {
        let found = measure(length, 0, wanted.len());
        assert_eq!((found.windows.len(), found.tokens), (wanted.len(), length - 1));
        for (found, wanted) in found.windows.iter().zip(&wanted) {
            assert!((found - wanted).abs() < 1e-4, "{length}: {found} for {wanted}");
        }
    }
    // The loss of a window is that of its first half plus that of its second half.
    let (whole, first, second) = (measure(1024, 0, 1), measure(512, 0, 1), measure(1024, 512, 1));
    assert_eq!([whole.tokens, first.tokens, second.tokens], [1023, 511, 512]);
    let sum = |part: &Perplexity| part.mean() * part.tokens as f64;
    assert!(
        (sum(&whole) - sum(&first) - sum(&second)).abs() < 0.05,
        "{} and {}",
        sum(&whole),
        sum(&first) + sum(&second)
    );
}
