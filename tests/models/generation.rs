//! The generation of text.

use std::ops::ControlFlow;

use burn::tensor::{Tensor, backend::Backend};
use sparse_attention_hub::{
    adapters::Recorder,
    attention::{AttentionError, Phase},
    eval::{Perplexity, PerplexityConfig, Recording},
    models::{Generated, GenerationConfig, LanguageModel, LanguageModelCache, Pretrained, SamplingConfig, StopReason},
    nn::AttentionMode,
};

use super::{common::assert_close, folder::text_model};

const METHOD: &str = r#"[{"type": "sink", "sink_size": 2}, {"type": "local", "window_size": 4}]"#;
const TEXT: &str = "The framework includes an optimization system, and each mask says which keys a query keeps.";

/// Generates tokens after [TEXT], and returns them with their text.
fn generate<B: Backend>(pretrained: &Pretrained<B>, config: &GenerationConfig) -> (Generated, String) {
    let prompt = pretrained.tokenizer.encode(TEXT, true).unwrap();
    let (mut dense, mut sparse) = (AttentionMode::Dense, AttentionMode::Sparse);
    let mut text = String::new();
    let mut cache = pretrained.model.cache(0);
    let hooks: [&mut dyn sparse_attention_hub::nn::AttentionHook<B>; 2] = [&mut dense, &mut sparse];
    let written = pretrained.write(&prompt, &mut cache, config, hooks, &mut |part| text.push_str(part)).unwrap();
    assert_eq!(text, written.text);
    // The last token was not an input of the model.
    assert_eq!(cache.len(), prompt.len() + written.generated.tokens.len() - 1);
    (written.generated, written.text)
}

/// A context is read once and continued in two ways.
pub fn forks_of_a_context_give_what_separate_caches_give<B: Backend>() {
    let pretrained =
        text_model::<B>(r#"[{"type": "pq_cache", "heavy_size": 6, "pq_sub_dim": 4, "pq_bits": 2, "fit": 5}]"#);
    let (model, mode) = (&pretrained.model, &mut AttentionMode::Sparse);
    let [context, one, other] =
        [TEXT, " Why?", " An answer."].map(|text| pretrained.tokenizer.encode(text, false).unwrap());
    let mut first = model.cache(5);
    model.forward(&context, &mut first, mode).unwrap();
    let mut second = first.clone();
    let mut run =
        |tokens: &[u32], cache: &mut LanguageModelCache<B>| model.forward(tokens, cache, mode).unwrap().to_data();
    let mut separate = |tokens: &[u32]| {
        let mut cache = model.cache(5);
        run(&context, &mut cache);
        [run(tokens, &mut cache), run(&tokens[..1], &mut cache)]
    };
    let wanted = [separate(&one), separate(&other)];
    let begun = [run(&one, &mut first), run(&other, &mut second)];
    // Each layer has one sequence.
    assert_eq!(first.reorder(&[0]), Ok(()));
    assert!(matches!(first.reorder(&[1]), Err(AttentionError::NoSequence { place: 0, found: 1, batch: 1 })));
    let ended = [run(&one[..1], &mut first), run(&other[..1], &mut second)];
    assert_eq!((first.len(), second.len()), (context.len() + one.len() + 1, context.len() + other.len() + 1));
    for ((begun, ended), wanted) in begun.into_iter().zip(ended).zip(wanted) {
        assert_eq!([begun, ended], wanted);
    }
}

pub fn generation_stops_where_it_should<B: Backend>() {
    let pretrained = text_model::<B>(METHOD);
    let config = GenerationConfig::default().with_max_new_tokens(12);
    let (all, text) = generate(&pretrained, &config);
    assert_eq!((all.tokens.len(), all.reason), (12, StopReason::Length));
    assert_eq!(text, pretrained.tokenizer.decode(&all.tokens, true).unwrap());
    // The fifth token is an end token. Generation ends where it occurs first.
    let end = all.tokens[4];
    let first = all.tokens.iter().position(|token| *token == end).unwrap();
    let mut ends = config.clone();
    ends.end_tokens = vec![end];
    let (ended, _) = generate(&pretrained, &ends);
    assert_eq!((&ended.tokens[..], ended.reason), (&all.tokens[..=first], StopReason::EndToken));
    // A stop text from the middle of the generated text.
    let letters = text.char_indices().map(|(at, _)| at).collect::<Vec<_>>();
    let stop = text[letters[letters.len() / 2]..letters[letters.len() / 2 + 2]].to_owned();
    let (stopped, before) = generate(&pretrained, &config.clone().with_stop(vec![stop.clone()]));
    assert_eq!((before.as_str(), stopped.reason), (text.split(&stop).next().unwrap(), StopReason::Stopped));
    // The caller stops after two tokens.
    let prompt = pretrained.tokenizer.encode(TEXT, true).unwrap();
    let (mut dense, mut sparse, mut count) = (AttentionMode::Dense, AttentionMode::Sparse, 0);
    let two = pretrained.model.generate(
        &prompt,
        &mut pretrained.model.cache(0),
        &config,
        [&mut dense, &mut sparse],
        &mut |_| {
            count += 1;
            Ok(if count == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        },
    );
    assert_eq!(two.unwrap().tokens, all.tokens[..2]);
    // Generation stops when the model has no position left.
    let positions = pretrained.model.config().max_positions;
    let (mut dense, mut sparse) = (AttentionMode::Dense, AttentionMode::Sparse);
    let mut cache = pretrained.model.cache(0);
    let long = vec![5; positions - 3];
    let modes: [&mut dyn sparse_attention_hub::nn::AttentionHook<B>; 2] = [&mut dense, &mut sparse];
    let last = pretrained.model.generate(&long, &mut cache, &config, modes, &mut |_| Ok(ControlFlow::Continue(())));
    let last = last.unwrap();
    assert_eq!((last.tokens.len(), last.reason, cache.len()), (4, StopReason::Positions, positions));
}

fn host<B: Backend>(hidden: Tensor<B, 3>) -> Vec<f64> {
    hidden.into_data().convert::<f64>().iter::<f64>().collect()
}

pub fn prompts_in_chunks_give_the_same<B: Backend>() {
    let model = text_model::<B>(METHOD).model;
    let tokens = (0..63).map(|at| (at * 37 + 5) % 500).collect::<Vec<u32>>();
    for mode in [AttentionMode::Dense, AttentionMode::Sparse] {
        let hidden = |chunk: usize| host(model.prefill(&tokens, &mut model.cache(0), chunk, &mut { mode }).unwrap());
        let whole = hidden(100);
        for chunk in [1, 7, 62] {
            let found = hidden(chunk).iter().map(|x| *x as f32).collect::<Vec<_>>();
            assert_close(&found, &whole, 2e-5, &format!("{mode:?} in chunks of {chunk}"));
        }
    }
}

/// A method with phases generates the same tokens as its list with a hook for each phase. The prompts have chunks of
/// one token, and one of the methods draws random numbers.
pub fn phases_of_a_method_are_those_of_generation<B: Backend>() {
    let draws = r#"[{"type": "sink", "sink_size": 1}, {"type": "random_sampling", "sampling_rate": 0.3}]"#;
    let quest = r#"[{"type": "quest_top_k", "heavy_size": 6, "page_size": 2, "label_bits": 16, "minimum_pages": 1}]"#;
    let prompt = (0..41).map(|at| (at * 37 + 5) % 500).collect::<Vec<u32>>();
    for (list, length) in [(METHOD, 41), (draws, 41), (quest, 41), (quest, 28)] {
        let write = |method: &str, [mut first, mut then]: [AttentionMode; 2]| {
            let model = text_model::<B>(method).model;
            let (mut cache, config) = (model.cache(3), GenerationConfig::default().with_max_new_tokens(6));
            let mut reads = first;
            let modes: [&mut dyn sparse_attention_hub::nn::AttentionHook<B>; 2] = [&mut first, &mut then];
            let go_on = &mut |_| Ok(ControlFlow::Continue(()));
            // Chunks of 13, 13 and 1 tokens.
            model.prefill(&prompt[..27], &mut cache, 13, &mut reads).unwrap();
            let tokens = model.generate(&prompt[27..length], &mut cache, &config, modes, go_on).unwrap().tokens;
            // The hidden state of the next token must be equal in every digit.
            (tokens, host(model.forward(&[7], &mut cache, &mut { then }).unwrap()))
        };
        let (dense, sparse) = (AttentionMode::Dense, AttentionMode::Sparse);
        let wanted = write(list, [dense, sparse]);
        assert_eq!(write(&format!(r#"{{"decode": {list}}}"#), [sparse; 2]), wanted, "{list}");
        let wanted = write(list, [sparse, dense]);
        assert_eq!(write(&format!(r#"{{"prefill": {list}}}"#), [sparse; 2]), wanted, "{list}");
        let wanted = write(list, [sparse; 2]);
        let layers = format!(r#"{{"layers": {{"0": {list}, "1": {list}, "2": {list}, "3": {list}}}}}"#);
        assert_eq!(write(&layers, [sparse; 2]), wanted, "{list}");
        assert_eq!(write(r#"{"dense_layers": [0]}"#, [sparse; 2]), write("[]", [dense; 2]));
    }
}

/// The caller of a model can set the phase. Perplexity sets decoding.
pub fn callers_of_a_model_say_the_phase<B: Backend>() {
    let (of_phases, list) =
        (text_model::<B>(&format!(r#"{{"decode": {METHOD}}}"#)).model, text_model::<B>(METHOD).model);
    let tokens = (0..30).map(|at| (at * 37 + 5) % 500).collect::<Vec<u32>>();
    let (mut cache, mut other, mut mode) = (of_phases.cache(0), list.cache(0), AttentionMode::Sparse);
    of_phases.forward(&tokens[..20], &mut cache, &mut mode).unwrap();
    list.forward(&tokens[..20], &mut other, &mut AttentionMode::Dense).unwrap();
    let found = of_phases.forward_in_phase(Phase::Decode, &tokens[20..], &mut cache, &mut mode).unwrap();
    assert_eq!(host(found), host(list.forward(&tokens[20..], &mut other, &mut mode).unwrap()));
    cache.truncate(20).unwrap();
    other.truncate(20).unwrap();
    let found = of_phases.forward_in_phase(Phase::Prefill, &tokens[20..21], &mut cache, &mut mode).unwrap();
    assert_eq!(host(found), host(list.forward(&tokens[20..21], &mut other, &mut AttentionMode::Dense).unwrap()));
    let perplexity = |model: &LanguageModel<B>| {
        let (mut prefix, mut after) = (AttentionMode::Dense, AttentionMode::Sparse);
        let config = PerplexityConfig { length: 30, dense_prefix: 10, windows: 1 };
        Perplexity::measure(model, None, &tokens, config, [&mut prefix, &mut after], || {}).unwrap()
    };
    assert_eq!(perplexity(&of_phases), perplexity(&list));
}

pub fn an_empty_method_is_dense<B: Backend>() {
    let model = text_model::<B>("[]").model;
    let tokens = [5u32, 9, 200, 31, 7];
    let hidden = |mode: AttentionMode| host(model.forward(&tokens, &mut model.cache(0), &mut { mode }).unwrap());
    assert_eq!(hidden(AttentionMode::Sparse), hidden(AttentionMode::Dense));
}

pub fn seeds_draw_the_same<B: Backend>() {
    let pretrained = text_model::<B>(METHOD);
    let config = GenerationConfig::default().with_max_new_tokens(12).with_sampling(Some(SamplingConfig::default()));
    let config = config.unwrap();
    let tokens = |seed| generate(&pretrained, &config.clone().with_seed(seed)).0.tokens;
    assert_eq!(tokens(1), tokens(1));
    assert_ne!(tokens(1), tokens(2));
}

pub fn a_recording_is_the_same_in_chunks<B: Backend>() {
    let model = text_model::<B>("[]").model;
    let tokens = (0..40).map(|at| (at * 37 + 5) % 500).collect::<Vec<u32>>();
    let record = |chunk: usize, positions: std::ops::Range<usize>| {
        let (mut dense, mut cache) = (AttentionMode::Dense, model.cache(0));
        let mut recorder = Recorder::<B>::new(&mut dense, [1], positions);
        model.prefill(&tokens, &mut cache, chunk, &mut recorder).unwrap();
        recorder.finish()
    };
    let parts = |recording: &Recording<B>| {
        let inputs = &recording.inputs;
        [inputs.queries(), inputs.keys(), inputs.values()]
            .map(|tensor| (tensor.dims(), tensor.to_data().convert::<f64>().iter::<f64>().collect::<Vec<_>>()))
    };
    let whole = record(100, 9..33).unwrap().remove(0);
    let [(queries, _), (keys, _), _] = parts(&whole);
    assert_eq!((queries, keys), ([1, 4, 24, 16], [1, 2, 33, 16]));
    assert_eq!((whole.inputs.layer(), whole.inputs.offset()), (1, 9));
    for chunk in [1, 8, 33] {
        let found = record(chunk, 9..33).unwrap().remove(0);
        for ((dims, found), (wanted, values)) in parts(&found).into_iter().zip(parts(&whole)) {
            assert_eq!(dims, wanted);
            let found = found.into_iter().map(|x| x as f32).collect::<Vec<_>>();
            assert_close(&found, &values, 2e-5, &format!("recorded in chunks of {chunk}"));
        }
    }
    // A recording from a file is the same, within the precision of f16.
    let path = std::env::temp_dir().join(format!(
        "sah-recording-{}-{chunks}.safetensors",
        std::process::id(),
        chunks = B::name(&B::Device::default()).len()
    ));
    let saved = whole.with_dense_output();
    saved.save(&path).unwrap();
    let opened = Recording::<B>::open(&path, &B::Device::default()).unwrap();
    // A file that is left in the temporary folder does no harm.
    let _ = std::fs::remove_file(&path);
    assert_eq!((opened.inputs.layer(), opened.inputs.offset()), (1, 9));
    assert_eq!(opened.inputs.scale(), saved.inputs.scale());
    for ((_, found), (_, values)) in parts(&opened).into_iter().zip(parts(&saved)) {
        let found = found.into_iter().map(|x| x as f32).collect::<Vec<_>>();
        assert_close(&found, &values, 1e-3, "a recording from a file");
    }
    assert!(opened.output.is_some());
    // The model does not reach the last of these positions.
    assert!(record(100, 9..41).is_err());
}
