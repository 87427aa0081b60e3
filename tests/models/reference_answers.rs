//! The answers of the model in `examples` to prompts that hide a fact in a long text. `tests/data/needles.jsonl` has
//! the prompts and the tokens that transformers generates.

use std::{fs, ops::ControlFlow, path::Path};

use burn::tensor::backend::Backend;
use serde::Deserialize;
use sparse_attention_hub::{
    models::GenerationConfig,
    nn::{AttentionHook, AttentionMode},
};

use super::shipped::pretrained;

#[derive(Deserialize)]
struct Prompt {
    id: String,
    length: usize,
    prompt: String,
    generated: Vec<u32>,
}

/// Answers the prompts for which `is_wanted` holds, and returns their number.
fn answer<B: Backend>(is_wanted: impl Fn(&Prompt) -> bool) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/needles.jsonl");
    let text = fs::read_to_string(path).expect("the prompts are there");
    let prompts = text.lines().map(|line| serde_json::from_str::<Prompt>(line).expect("each line is a prompt"));
    let prompts = prompts.filter(|prompt| is_wanted(prompt)).collect::<Vec<_>>();
    let pretrained = pretrained::<B>("[]");
    let mut cache = pretrained.model.cache(0);
    for Prompt { id, prompt, generated, .. } in &prompts {
        let tokens = pretrained.tokenizer.encode(prompt, true).expect("it is a text");
        let mut config = GenerationConfig::default().with_max_new_tokens(generated.len());
        config.end_tokens = Vec::new();
        let (mut first, mut then) = (AttentionMode::Dense, AttentionMode::Dense);
        let modes: [&mut dyn AttentionHook<B>; 2] = [&mut first, &mut then];
        cache.reset();
        let mut go_on = |_| Ok(ControlFlow::Continue(()));
        let found = pretrained.model.generate(&tokens, &mut cache, &config, modes, &mut go_on);
        assert_eq!(found.expect("the prompt is short enough").tokens, *generated, "{id}");
    }
    prompts.len()
}

/// One short prompt of each task.
pub fn short_answers_of_the_reference<B: Backend>() {
    assert_eq!(answer::<B>(|prompt| prompt.length == 1024 && prompt.id.ends_with("-00")), 5);
}

pub fn answers_of_the_reference<B: Backend>() {
    assert_eq!(answer::<B>(|_| true), 30);
}
