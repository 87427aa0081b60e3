//! Methods with phases and layers: how their files are read, and which maskers run in a call.

mod common;

use burn::{
    config::Config,
    module::{AutodiffModule, Module},
    tensor::{Tensor, backend::Backend, ops::AttentionModuleOptions},
};
use common::{gqa::*, *};
use serde::Deserialize;
use serde_json::{Value, json};
use sparse_attention_hub::{
    attention::AttentionError,
    masker::{ConfigError, NamedConfig},
    method::{LayerMaskers, MaskersConfig, PhasesConfig},
    nn::{
        GqaInput, KvCache, SparseCrossAttentionCache, SparseCrossAttentionConfig, TransformerEncoderInput,
        sparse_attention,
    },
    prelude::*,
};

on_host_backends!(
    wrong_files_are_refused_by_what_is_wrong,
    layers_win_over_dense_layers_and_these_over_phases,
    inputs_say_their_phase,
    prompts_and_steps_of_a_grouped_layer_have_their_maskers,
    prompts_and_steps_of_burns_layers_have_their_maskers,
    first_calls_and_calls_without_a_cache_are_prefills,
    the_phase_of_a_batch_is_that_of_the_call,
    the_function_goes_by_its_state,
    the_same_maskers_in_both_phases_are_a_list,
    maskers_of_ones_own_remember_apart_in_each_phase,
    a_phase_without_maskers_is_dense_among_other_maskers,
    each_phase_may_have_a_sampler,
    records_have_the_maskers_of_both_phases,
    a_window_keeps_what_either_phase_needs,
    chains_say_their_phases;
    host: modules_have_the_maskers_of_both_phases,
);

const FILE: &str = r#"{
    "prefill": [{"type": "sink", "sink_size": 1}],
    "decode": [{"type": "sink", "sink_size": 2}],
    "dense_layers": [0, 1],
    "layers": {"5": [{"type": "sink", "sink_size": 3}], "1": {"decode": [{"type": "sink", "sink_size": 4}]}}
}"#;

/// How many of nine keys [FILE] keeps in a layer, in a prefill and in decoding.
const KEPT: [(usize, [usize; 2]); 5] = [(0, [9, 9]), (1, [9, 4]), (2, [1, 2]), (5, [3, 3]), (6, [1, 2])];

fn config(json: &Value) -> MaskerChainConfig {
    MaskerChainConfig::from_json(&json.to_string()).unwrap()
}

fn sink(size: usize) -> Value {
    json!([{"type": "sink", "sink_size": size}])
}

#[test]
fn files_of_both_forms_are_read_and_written() {
    let named = |size: usize| {
        let fields = [("sink_size".to_owned(), json!(size))].into_iter().collect();
        vec![NamedConfig { name: "sink".to_owned(), fields }]
    };
    let phases = PhasesConfig {
        prefill: named(1),
        decode: named(2),
        dense_layers: [0, 1].into(),
        layers: [
            (5, LayerMaskers::Both(named(3))),
            (1, LayerMaskers::Phases { prefill: Vec::new(), decode: named(4) }),
        ]
        .into(),
    };
    let read = MaskerChainConfig::from_json(FILE).unwrap();
    assert_eq!(read, MaskersConfig::from(phases).into());
    let lists = [json!([]), sink(4), json!([{"type": "causal"}, {"type": "sink", "sink_size": 0.5}])];
    let objects = [
        serde_json::from_str::<Value>(FILE).unwrap(),
        json!({"decode": sink(3)}),
        json!({"prefill": []}),
        json!({"dense_layers": []}),
        json!({"dense_layers": [7]}),
        json!({"layers": {"0": {"prefill": sink(1)}}}),
        json!({"layers": {"05": []}}),
    ];
    for method in lists.iter().chain(&objects) {
        let read = config(method);
        let written = serde_json::to_string(&read).unwrap();
        assert_eq!(MaskerChainConfig::from_json(&written).unwrap(), read, "{method} as {written}");
        // The same in the configuration of a layer, which burn saves.
        let layer = GroupedQueryAttentionConfig::new(20, 4, 2).with_maskers(read.clone());
        let loaded = GroupedQueryAttentionConfig::load_binary(layer.to_string().as_bytes()).unwrap();
        assert_eq!(loaded.maskers, read, "{method}");
        // A list is written as a plain list, which is the form of files from before methods had phases.
        assert!(!lists.contains(method) || serde_json::from_str::<Value>(&written).unwrap() == *method);
    }
    let bad = json!({"d_model": 20, "n_heads": 4, "n_kv_heads": 2, "maskers": {"decoding": []}}).to_string();
    assert!(GroupedQueryAttentionConfig::load_binary(bad.as_bytes()).is_err());
}

fn wrong_files_are_refused_by_what_is_wrong<B: Backend>() {
    let device = B::Device::default();
    let (no_type, two) = (
        json!([{"sink_size": 3}]),
        json!([{"type": "random_sampling", "sampling_rate": 0.5}, {"type": "magic_pig", "lsh_l": 3, "lsh_k": 2}]),
    );
    let (zero, unknown) = (sink(0), json!([{"type": "sinks"}]));
    let cases = [
        ("{}".to_owned(), vec!["the text", "not a list of masker configurations", "without a key", "dense_layers"]),
        ("7".to_owned(), vec!["the text", "not a list of masker configurations", "it is a number"]),
        (r#"{"decode": [], "decode": []}"#.to_owned(), vec!["`decode` stands twice"]),
        (r#"{"layers": {"5": [], "5": []}}"#.to_owned(), vec!["`5` stands twice"]),
        (json!({"layers": {"5": [], "05": []}}).to_string(), vec!["`layers` names layer 5 twice"]),
        (json!({"dense_layers": [3, 0, 3]}).to_string(), vec!["`dense_layers` names layer 3 twice"]),
        (
            json!({"decoding": []}).to_string(),
            vec!["the method", "\"decoding\"", "prefill, decode, dense_layers, layers"],
        ),
        (
            json!({"layers": {"5": {"dense_layers": []}}}).to_string(),
            vec!["`layers.5`", "\"dense_layers\"", "prefill, decode"],
        ),
        (json!({"layers": {"five": []}}).to_string(), vec!["`layers`", "\"five\"", "whole numbers from 0"]),
        (json!({"layers": {"+5": []}}).to_string(), vec!["`layers`", "\"+5\"", "whole numbers from 0"]),
        (json!({"layers": {"": []}}).to_string(), vec!["`layers`", "\"\"", "whole numbers from 0"]),
        (json!({"layers": []}).to_string(), vec!["`layers` is a list", "an object whose keys are layers"]),
        (json!({"layers": {"5": 7}}).to_string(), vec!["`layers.5` is a number", "a list of maskers"]),
        (json!({"layers": {"5": {}}}).to_string(), vec!["`layers.5` is an object without a key"]),
        (json!({"dense_layers": {"0": 1}}).to_string(), vec!["`dense_layers` is an object", "a list of layers"]),
        (json!({"dense_layers": [1, -1]}).to_string(), vec!["`dense_layers`", "-1", "whole numbers from 0"]),
        (json!({"dense_layers": [0.5]}).to_string(), vec!["`dense_layers`", "0.5", "whole numbers from 0"]),
        (json!({"dense_layers": ["1"]}).to_string(), vec!["`dense_layers`", "a text", "whole numbers from 0"]),
        (json!({"prefill": {"type": "causal"}}).to_string(), vec!["`prefill` is an object", "a list of maskers"]),
        (json!({"layers": {"5": {"decode": null}}}).to_string(), vec!["`layers.5.decode` is null"]),
        (json!({"decode": no_type}).to_string(), vec!["`decode`", "masker 0 of the chain has no \"type\""]),
        (json!({"layers": {"5": {"prefill": no_type}}}).to_string(), vec!["`layers.5.prefill`", "no \"type\""]),
        (json!({"prefill": zero}).to_string(), vec!["`prefill`", "`sink_size` is 0"]),
        (json!({"layers": {"5": unknown}}).to_string(), vec!["`layers.5`", "\"sinks\"", "known types"]),
        (json!({"layers": {"5": {"decode": unknown}}}).to_string(), vec!["`layers.5.decode`", "\"sinks\""]),
        (json!({"decode": two}).to_string(), vec!["`decode`", "maskers 0 and 1", "both sample"]),
    ];
    for (text, parts) in cases {
        let registered = MaskerRegistry::<B>::new().research_attention(&text, &device).map(|_| ());
        let chain = MaskerChainConfig::from_json(&text).and_then(|config| config.init::<B>(&device)).map(|_| ());
        for error in [registered, chain].map(|result| result.unwrap_err().to_string()) {
            assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
    }
    // The errors have types. An error with a place contains the error at this place.
    let error = |text: &str| MaskerChainConfig::from_json(text).unwrap_err();
    assert!(
        matches!(error(r#"{"decoding": []}"#), ConfigError::UnknownKey { place: None, key, .. } if key == "decoding")
    );
    assert!(matches!(error(r#"{"dense_layers": [3, 3]}"#), ConfigError::LayerTwice { layer: 3, .. }));
    let ConfigError::At { place, source } = error(r#"{"layers": {"5": [{}]}}"#) else { panic!("it has a place") };
    assert!(place == "layers.5" && matches!(*source, ConfigError::NoType { place: 0, .. }));
    // A layer may be in both `dense_layers` and `layers`. Layers may be in any order.
    assert!(MaskerChainConfig::from_json(r#"{"dense_layers": [9, 2], "layers": {"9": []}}"#).is_ok());
}

/// How many keys each query keeps. The number is the same for all queries.
fn kept<B: Backend>(mask: &Mask<B>) -> usize {
    let MaskShape { batch, heads, queries, .. } = mask.shape();
    let all = host(&mask.to_dense()).into_iter().sum::<f32>();
    all as usize / (batch * heads * queries)
}

fn layers_win_over_dense_layers_and_these_over_phases<B: Backend>() {
    let device = B::Device::default();
    let config = MaskerChainConfig::from_json(FILE).unwrap();
    let research = MaskerRegistry::<B>::new().research_attention(FILE, &device).unwrap();
    let chain = config.init::<B>(&device).unwrap();
    assert!(research.has_phases() && chain.has_phases());
    assert_eq!((research.maskers().len(), chain.maskers().len()), (4, 4));
    for (layer, wanted) in KEPT {
        let of_layer = config.init_for_layer::<B>(layer, &device).unwrap();
        let count = [0, 1, 2, 2, 2, 1, 2][layer];
        assert_eq!((of_layer.maskers().len(), of_layer.has_phases()), (count, ![0, 5].contains(&layer)));
        for (phase, wanted) in Phase::ALL.into_iter().zip(wanted) {
            for queries in [1, 3] {
                let inputs = inputs::<B>(Sizes::new(1, 2, 1, queries, 9, 4), 1).with_layer(layer).with_phase(phase);
                let state = || LayerState::new(1);
                let found = [
                    research.mask(&inputs, &mut state()).unwrap(),
                    chain.mask(&inputs, &mut state()).unwrap(),
                    of_layer.mask(&inputs, &mut state()).unwrap(),
                    ResearchAttention::from(chain.clone()).mask(&inputs, &mut state()).unwrap(),
                ];
                assert_eq!(found.map(|mask| kept(&mask)), [wanted; 4], "layer {layer}, {phase}, {queries} queries");
            }
        }
    }
}

fn inputs_say_their_phase<B: Backend>() {
    let of = |queries, keys| inputs::<B>(Sizes::new(1, 2, 1, queries, keys, 4), 1);
    for (queries, keys, wanted) in
        [(1, 2, Phase::Decode), (1, 9, Phase::Decode), (1, 1, Phase::Prefill), (2, 9, Phase::Prefill)]
    {
        assert_eq!(of(queries, keys).phase(), wanted, "{queries} queries over {keys} keys");
        for set in Phase::ALL {
            assert_eq!(of(queries, keys).with_phase(set).phase(), set);
        }
    }
    for set in Phase::ALL {
        let whole = of(5, 9).causal().unwrap().with_phase(set);
        assert_eq!(whole.narrow_queries(4..5).unwrap().phase(), set);
        assert_eq!(whole.narrow_queries(0..3).unwrap().phase(), set);
        assert_eq!(whole.clone().with_layer(3).with_softcap(3.0).unwrap().phase(), set);
    }
    assert_eq!(of(5, 9).narrow_queries(4..5).unwrap().phase(), Phase::Decode);
    assert_eq!(Phase::ALL.map(|phase| phase.to_string()), ["prefill", "decode"]);
}

/// Calls of a layer with a cache: the number of tokens, the phase that the caller sets, and the phase of the call.
const CALLS: [(usize, Option<Phase>, Phase); 8] = [
    (13, None, Phase::Prefill),
    (5, None, Phase::Prefill),
    (1, None, Phase::Decode),
    (1, None, Phase::Decode),
    (3, None, Phase::Prefill),
    (3, Some(Phase::Decode), Phase::Decode),
    (1, Some(Phase::Prefill), Phase::Prefill),
    (1, None, Phase::Decode),
];

/// The tokens of each of [CALLS].
fn parts<B: Backend>(x: &Tensor<B, 3>) -> Vec<(Tensor<B, 3>, Option<Phase>, Phase)> {
    let mut start = 0;
    let part = |(length, said, phase): (usize, Option<Phase>, Phase)| {
        start += length;
        (x.clone().slice_dim(1, start - length..start), said, phase)
    };
    CALLS.into_iter().map(part).collect()
}

/// After a prompt with dense attention or with a sink, every method decodes as it does after a prompt of its own.
fn prompts_and_steps_of_a_grouped_layer_have_their_maskers<B: Backend>() {
    let x = tokens::<B>(2, 28, 20, 1);
    for method in METHODS {
        let decode = (method.config)(&Sizes::new(1, 4, 2, 1, 1, 12));
        for prefill in [json!([]), sink(1)] {
            let both = json!({"prefill": prefill, "decode": [decode]});
            let of = |chain: Value| (layer::<B>(&common::gqa::config(4, 2), Some(chain)), KvCache::new(3));
            let [mut found, mut prompt, mut step] = [of(both), of(prefill), of(json!([decode]))];
            for (at, (part, said, phase)) in parts(&x).into_iter().enumerate() {
                let input = || GqaInput::new(part.clone());
                let said = said.map_or_else(input, |said| input().phase(said));
                let output = found.0.forward_cache(said, &mut found.1).unwrap();
                let of_prompt = prompt.0.forward_cache(input(), &mut prompt.1).unwrap();
                let of_step = step.0.forward_cache(input(), &mut step.1).unwrap();
                let wanted = if phase == Phase::Decode { of_step } else { of_prompt };
                close(&output, &wanted, &format!("{decode}, call {at}"));
            }
        }
    }
}

fn prompts_and_steps_of_burns_layers_have_their_maskers<B: Backend>() {
    let device = B::Device::default();
    let x = tokens::<B>(2, 28, 24, 1);
    let context = tokens::<B>(2, 17, 24, 2);
    let (prefill, decode) = (
        sink(1),
        json!([{"type": "quest_top_k", "heavy_size": 4, "page_size": 2, "label_bits": 16, "minimum_pages": 1}]),
    );
    let methods = [json!({"prefill": prefill, "decode": decode}), prefill, decode].map(|method| config(&method));
    let alone = methods.clone().map(|method| {
        drawn(SparseMultiHeadAttentionConfig::new(24, 4).with_dropout(0.0).with_maskers(method).init::<B>(&device))
    });
    let cross = methods.clone().map(|method| {
        drawn(
            SparseCrossAttentionConfig::new(24, 24, 4, 4, 6).with_dropout(0.0).with_maskers(method).init::<B>(&device),
        )
    });
    // The encoder has one layer, because the input of a second layer depends on the earlier calls of the first.
    let encoder = methods.map(|method| {
        let config = SparseTransformerEncoderConfig::new(24, 32, 4, 1).with_dropout(0.0).with_maskers(method);
        drawn(config.init::<B>(&device))
    });
    let mut own = [(); 3].map(|()| MhaCache::autoregressive());
    let mut over = [(); 3].map(|()| MhaCache::autoregressive_cross_attention());
    let mut memories = [(); 3].map(|()| SparseCrossAttentionCache::new());
    let mut of_encoder = [0, 1, 2].map(|at| encoder[at].new_autoregressive_cache());
    for (at, (part, said, phase)) in parts(&x).into_iter().enumerate() {
        // The first of the three layers has phases. Its output must be that of one of the other two.
        let other = if phase == Phase::Decode { 2 } else { 1 };
        let check = |outputs: [Tensor<B, 3>; 3], what: &str| {
            close(&outputs[0], &outputs[other], &format!("{what}, call {at}"));
            assert_ne!(all_numbers(&outputs[1]), all_numbers(&outputs[2]), "{what}, call {at}");
        };
        let say = |input: MhaInput<B>, at: usize| {
            if at == 0 { said.map_or(input.clone(), |said| input.phase(said)) } else { input }
        };
        let outputs = [0, 1, 2].map(|at| {
            let input = say(MhaInput::self_attn(part.clone()), at);
            alone[at].forward_step(input, &mut own[at]).unwrap().context
        });
        check(outputs, "self-attention");
        let outputs = [0, 1, 2].map(|at| {
            let input = say(MhaInput::new(part.clone(), context.clone(), context.clone()), at);
            alone[at].forward_step(input, &mut over[at]).unwrap().context
        });
        check(outputs, "over a context");
        let outputs = [0, 1, 2].map(|at| {
            memories[at].set_phase(said.filter(|_| at == 0));
            cross[at].forward_cache(part.clone(), context.clone(), None, &mut memories[at])
        });
        check(outputs, "cross-attention");
        let outputs = [0, 1, 2].map(|at| {
            let input = TransformerEncoderInput::new(part.clone());
            let input = match said.filter(|_| at == 0) {
                Some(said) => input.phase(said),
                None => input,
            };
            encoder[at].forward_step(input, &mut of_encoder[at]).unwrap()
        });
        check(outputs, "an encoder");
    }
    // The interface of burn: the input is the sequence so far, and its end is new.
    let mut caches = [(); 3].map(|()| MhaCache::autoregressive());
    for (done, end, other) in [(0, 13, 1), (13, 14, 2), (14, 17, 1)] {
        let so_far = MhaInput::self_attn(x.clone().slice_dim(1, 0..end));
        let new = [0, 1, 2]
            .map(|at| alone[at].forward_cache(so_far.clone(), &mut caches[at]).context.slice_dim(1, done..end));
        close(&new[0], &new[other], &format!("{end} of the sequence"));
    }
    // Layers of an encoder know their index.
    let list = sink(3);
    let config = SparseTransformerEncoderConfig::new(24, 32, 4, 3).with_dropout(0.0);
    let by_file = config
        .clone()
        .with_maskers(self::config(&json!({"layers": {"0": list}, "prefill": list, "dense_layers": [1]})));
    let by_file = drawn(by_file.init::<B>(&device));
    let mut by_hand = drawn(config.with_maskers(self::config(&list)).init::<B>(&device));
    by_hand.layers[1].mha.maskers.0 = MaskerChain::dense();
    let [found, wanted] = [&by_file, &by_hand].map(|encoder| encoder.forward(TransformerEncoderInput::new(x.clone())));
    assert_eq!(all_numbers(&found), all_numbers(&wanted));
    let one_chain =
        by_hand.with_maskers(self::config(&json!({"prefill": list, "dense_layers": [1]})).init::<B>(&device).unwrap());
    assert_eq!(all_numbers(&one_chain.forward(TransformerEncoderInput::new(x))), all_numbers(&wanted));
}

fn first_calls_and_calls_without_a_cache_are_prefills<B: Backend>() {
    let method = json!({"prefill": [{"type": "local", "window_size": 1}], "decode": sink(1)});
    let (x, one) = (tokens::<B>(1, 9, 20, 1), tokens::<B>(1, 1, 20, 2));
    let of = |chain: &Value| layer::<B>(&common::gqa::config(4, 2), Some(chain.clone()));
    let (found, prompt, step) = (of(&method), of(&method["prefill"]), of(&method["decode"]));
    for input in [&x, &one] {
        close(&found.forward(input.clone()).unwrap(), &prompt.forward(input.clone()).unwrap(), "without a cache");
        let told = GqaInput::new(input.clone()).phase(Phase::Decode);
        close(&found.forward(told).unwrap(), &prompt.forward(input.clone()).unwrap(), "without a cache, told");
    }
    // One token is a prefill if the cache is empty: if it is new, was reset, or was truncated.
    let mut cache = KvCache::new(1);
    let first = |cache: &mut KvCache<B>| {
        let mut other = KvCache::new(1);
        step.forward_cache(one.clone(), &mut other).unwrap();
        // The first call has one key only, which both methods keep. The second call shows the phase.
        found.forward_cache(one.clone(), cache).unwrap();
        let next = x.clone().slice_dim(1, 0..1);
        let output = found.forward_cache(next.clone(), cache).unwrap();
        close(&output, &step.forward_cache(next, &mut other).unwrap(), "the second token");
    };
    first(&mut cache);
    cache.reset();
    first(&mut cache);
    cache.truncate(0).unwrap();
    first(&mut cache);
    // A method that refuses to decode shows the phase of the first call.
    let fails = layer_that_fails_in_decoding::<B>();
    let mut cache = KvCache::new(1);
    assert!(fails.forward_cache(one.clone(), &mut cache).is_ok() && fails.forward(one.clone()).is_ok());
    assert!(
        fails.forward_cache(one.clone(), &mut cache).is_err() && fails.forward_cache(x.clone(), &mut cache).is_ok()
    );
    cache.truncate(0).unwrap();
    assert!(fails.forward_cache(one.clone(), &mut cache).is_ok());
    // A call that failed does not count.
    let mut cache = KvCache::new(1);
    let told = GqaInput::new(one.clone()).phase(Phase::Decode);
    assert!(fails.forward_cache(told, &mut cache).is_err());
    assert!(fails.forward_cache(one, &mut cache).is_ok());
}

/// A masker that returns an error in decoding.
#[derive(Module, Debug, Clone)]
struct PromptsOnly {}

impl<B: Backend> Masker<B> for PromptsOnly {
    fn add(&self, inputs: &AttentionInputs<B>, _: &mut LayerState, mask: Mask<B>) -> Result<Mask<B>, AttentionError> {
        match inputs.phase() {
            Phase::Prefill => Ok(Mask::full(mask.shape(), &mask.device())),
            Phase::Decode => {
                Err(AttentionError::Value { field: "phase", value: "decode".to_owned(), allowed: "prefill" })
            }
        }
    }
}

fn layer_that_fails_in_decoding<B: Backend>() -> GroupedQueryAttention<B, PromptsOnly> {
    common::gqa::config(4, 2).init_with(PromptsOnly {}, &B::Device::default()).unwrap()
}

/// Padding counts as tokens. A sequence with a single token is in a prefill if other sequences of the batch have
/// several.
fn the_phase_of_a_batch_is_that_of_the_call<B: Backend>() {
    let layer = layer_that_fails_in_decoding::<B>();
    let mut cache = KvCache::new(1);
    let padded =
        |length: usize, real: [usize; 2]| GqaInput::new(tokens::<B>(2, length, 20, 1)).right_aligned(&real).unwrap();
    assert!(layer.forward_cache(padded(5, [5, 1]), &mut cache).is_ok());
    assert!(layer.forward_cache(padded(4, [4, 1]), &mut cache).is_ok());
    assert!(layer.forward_cache(padded(1, [1, 1]), &mut cache).is_err());
    assert!(layer.forward_cache(padded(4, [1, 1]).phase(Phase::Decode), &mut cache).is_err());
    assert!(layer.forward_cache(padded(1, [1, 1]).phase(Phase::Prefill), &mut cache).is_ok());
}

fn the_function_goes_by_its_state<B: Backend>() {
    let method = config(&json!({"prefill": sink(2), "decode": sink(1)})).init::<B>(&B::Device::default()).unwrap();
    let whole = inputs::<B>(Sizes::new(1, 4, 2, 9, 9, 12), 1);
    // A call whose queries are the last of `keys` keys. Its output must be that of the phase `wanted`.
    let call = |state: &mut LayerState, queries: usize, keys: usize, wanted: Phase| {
        let part = |tensor: &Tensor<B, 4>, start: usize| tensor.clone().slice_dim(2, start..keys);
        let q = part(whole.queries(), keys - queries);
        let (k, v) = (part(whole.keys(), 0), part(whole.values(), 0));
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let found = sparse_attention(q.clone(), k.clone(), v.clone(), None, None, options, &method, state).unwrap();
        let inputs = AttentionInputs::new(q, k, v).unwrap().causal().unwrap().with_phase(wanted);
        let mask = method.mask(&inputs, &mut LayerState::new(0)).unwrap();
        let wanted = masked_attention(&inputs, &mask, Requested::default()).unwrap().output;
        assert_eq!(host(&found), host(&wanted), "{queries} queries over {keys} keys");
    };
    let mut state = LayerState::new(0);
    for _ in 0..2 {
        call(&mut state, 5, 5, Phase::Prefill);
        call(&mut state, 1, 6, Phase::Decode);
        call(&mut state, 2, 8, Phase::Prefill);
        state.truncate(7);
        call(&mut state, 1, 8, Phase::Decode);
        state.truncate(0);
        call(&mut state, 1, 5, Phase::Prefill);
        state.set_phase(Some(Phase::Decode));
        call(&mut state, 3, 8, Phase::Decode);
        state.set_phase(Some(Phase::Prefill));
        call(&mut state, 1, 9, Phase::Prefill);
        state.set_phase(None);
        call(&mut state, 1, 9, Phase::Decode);
        state.set_phase(Some(Phase::Decode));
        state.clear();
    }
    // A call that returns an error does not count.
    let query = || whole.queries().clone().slice_dim(2, 0..1);
    let narrow = whole.keys().clone().slice_dim(3, 0..3);
    let options = AttentionModuleOptions::default();
    assert!(
        sparse_attention(query(), narrow, whole.values().clone(), None, None, options, &method, &mut state).is_err()
    );
    call(&mut state, 1, 5, Phase::Prefill);
}

/// Phases have separate memories and may take in keys later than a list. They still remember and draw the same.
fn the_same_maskers_in_both_phases_are_a_list<B: Backend>() {
    let x = tokens::<B>(2, 28, 20, 1);
    for method in METHODS {
        let list = json!([{"type": "sink", "sink_size": 1}, (method.config)(&Sizes::new(1, 4, 2, 1, 1, 12))]);
        // The learned parameters are those of the file. `layer` would replace them by random ones.
        let of = |chain: Value| {
            let mut layer = layer::<B>(&common::gqa::config(4, 2), None);
            layer.maskers.0 = config(&chain).init_for_layer(0, &B::Device::default()).unwrap();
            (layer, KvCache::new(3))
        };
        let both = json!({"prefill": list, "decode": list});
        let by_layer = json!({"prefill": sink(1), "layers": {"0": list}, "dense_layers": [0]});
        let mut all = [of(list.clone()), of(both), of(by_layer)];
        for (at, (part, ..)) in parts(&x).into_iter().enumerate() {
            let [wanted, both, by_layer] =
                all.each_mut().map(|(layer, cache)| layer.forward_cache(part.clone(), cache).unwrap());
            close(&both, &wanted, &format!("{list}, call {at}"));
            assert_eq!(all_numbers(&by_layer), all_numbers(&wanted), "{list}, call {at}");
        }
    }
}

/// Keeps the first `n` keys in its `n`-th call.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Calls {}

impl<B: Backend> MaskerConfig<B> for Calls {
    type Masker = Self;

    fn init(&self, _: &Context<B>) -> Result<Self, ConfigError> {
        Ok(*self)
    }
}

impl<B: Backend> Masker<B> for Calls {
    fn add(&self, _: &AttentionInputs<B>, state: &mut LayerState, mask: Mask<B>) -> Result<Mask<B>, AttentionError> {
        let calls = state.memory::<usize>();
        *calls += 1;
        let first = Pattern { sink: *calls, window: 0, offset: 0 };
        Ok(mask.merge(&Mask::pattern(mask.shape(), first, &mask.device()))?)
    }
}

fn maskers_of_ones_own_remember_apart_in_each_phase<B: Backend>() {
    let mut registry = MaskerRegistry::<B>::new();
    registry.register::<Calls>("calls");
    let (calls, device) = (json!([{"type": "calls"}]), B::Device::default());
    let file = json!({"prefill": calls, "decode": calls, "layers": {"3": calls}}).to_string();
    let research = registry.research_attention(&file, &device).unwrap();
    let one = inputs::<B>(Sizes::new(1, 2, 1, 1, 9, 4), 1);
    let keeps = |state: &mut LayerState, layer: usize, phase: Phase| {
        let inputs = one.clone().with_layer(layer).with_phase(phase);
        kept(&research.forward(&inputs, state, Requested::default()).unwrap().mask)
    };
    use Phase::{Decode, Prefill};
    let state = &mut LayerState::new(1);
    let found = [Prefill, Prefill, Decode, Prefill, Decode].map(|phase| keeps(state, 0, phase));
    assert_eq!(found, [1, 2, 1, 3, 2]);
    // A list of a layer has one memory for both phases.
    let state = &mut LayerState::new(1);
    assert_eq!([Prefill, Decode, Prefill].map(|phase| keeps(state, 3, phase)), [1, 2, 3]);
    // The chain of a layer knows built-in maskers only. Its error names the place.
    let error = config(&json!({"decode": calls})).init::<B>(&device).unwrap_err().to_string();
    assert!(error.contains("`decode`") && error.contains("\"calls\""), "{error}");
    let missing = registry.research_attention(r#"{"prefill": [{}]}"#, &device).unwrap_err().to_string();
    assert!(missing.contains("`prefill`") && missing.contains("calls, causal"), "{missing}");
}

fn a_phase_without_maskers_is_dense_among_other_maskers<B: Backend>() {
    let device = B::Device::default();
    let one = inputs::<B>(Sizes::new(1, 2, 1, 1, 9, 4), 1);
    let sink = || config(&sink(2)).init::<B>(&device).unwrap();
    for (method, wanted) in [
        (json!({"decode": [{"type": "local", "window_size": 3}]}), [9, 5]),
        (json!({"prefill": [{"type": "local", "window_size": 3}], "dense_layers": [0]}), [9, 9]),
        (json!([]), [2, 2]),
    ] {
        let chain = || config(&method).init::<B>(&device).unwrap();
        let research = ResearchAttention::new(vec![Box::new(sink()), Box::new(chain())]).unwrap();
        for (phase, wanted) in Phase::ALL.into_iter().zip(wanted) {
            let inputs = one.clone().with_phase(phase);
            let found = [
                research.mask(&inputs, &mut LayerState::new(1)).unwrap(),
                (sink(), chain()).mask(&inputs, &mut LayerState::new(1)).unwrap(),
            ];
            assert_eq!(found.map(|mask| kept(&mask)), [wanted; 2], "{method} in {phase}");
        }
    }
}

fn each_phase_may_have_a_sampler<B: Backend>() {
    let device = B::Device::default();
    let sampler = json!([{"type": "random_sampling", "sampling_rate": 0.5}]);
    let method = json!({"prefill": sampler, "decode": sampler, "layers": {"1": sampler}});
    let chain = config(&method).init::<B>(&device).unwrap();
    assert!(chain.samples() && MaskerRegistry::<B>::new().research_attention(&method.to_string(), &device).is_ok());
    assert!(!config(&json!({"prefill": sink(1)})).init::<B>(&device).unwrap().samples());
    assert!(config(&json!({"decode": sampler})).init::<B>(&device).unwrap().samples());
    let dense = config(&json!({"decode": sampler, "dense_layers": [2]}));
    assert!(!dense.init_for_layer::<B>(2, &device).unwrap().samples());
}

/// A masker whose scorer has parameters, for layer 0 or 1.
fn learned(heavy_size: usize) -> Value {
    json!({"type": "top_k", "heavy_size": heavy_size, "scorer": hash(&Sizes::new(1, 4, 2, 1, 1, 12))})
}

fn records_have_the_maskers_of_both_phases<B: Backend>() {
    let device = B::Device::default();
    let init = |method: &Value| config(method).init_for_layer::<B>(0, &device).unwrap();
    let (one, two) = (json!([learned(3)]), json!([{"type": "sink", "sink_size": 1}, learned(5)]));
    let both = json!({"prefill": one, "decode": two, "layers": {"3": one}});
    let chain = init(&both);
    let (of_one, of_two) = (init(&one), init(&two));
    assert_eq!(Module::<B>::num_params(&chain), of_one.num_params() + of_two.num_params());
    assert!(of_one.num_params() > 0);
    let loaded = init(&both).try_load_record(chain.clone().into_record()).unwrap();
    assert!(loaded.has_phases() && loaded.maskers().len() == 3);
    // The record of one phase does not fit.
    let error = init(&both).try_load_record(of_two.into_record()).unwrap_err().to_string();
    let [hash, all] = ["top_k over hash", "the chain [top_k over hash"];
    assert!(error.contains("the chain [sink, top_k over hash") && error.contains(all), "{error}");
    assert_eq!(error.matches(hash).count(), 3, "{error}");
    let error = init(&one).try_load_record(chain.into_record()).unwrap_err().to_string();
    assert!(error.contains("not of the chain [top_k over hash"), "{error}");
    // In a layer without phases, the record is that of a list of the same maskers.
    let by_layer = init(&json!({"prefill": two, "layers": {"0": one}}));
    assert!(!by_layer.has_phases() && by_layer.try_load_record(of_one.into_record()).is_ok());
}

fn modules_have_the_maskers_of_both_phases<B: Backend>() {
    type AB<B> = burn::backend::Autodiff<B>;
    let device = Default::default();
    let method = config(&json!({"prefill": [learned(3)], "decode": [learned(5)]}));
    let layer = common::gqa::config(4, 2).with_maskers(method).init::<AB<B>>(&device).unwrap();
    let valid = layer.valid();
    let moved = layer.clone().fork(&device).to_device(&device);
    assert!(valid.maskers.0.has_phases() && moved.maskers.0.has_phases());
    assert_eq!(Module::<B>::num_params(&valid), Module::<AB<B>>::num_params(&layer));
    let mapped = drawn(valid.clone());
    assert!(mapped.maskers.0.has_phases());
    let (mut cache, mut again) = (KvCache::new(1), KvCache::new(1));
    for length in [9, 1, 1] {
        let x = tokens::<B>(1, length, 20, length as u64);
        let [found, wanted] = [(&valid, &mut cache), (&valid.clone(), &mut again)]
            .map(|(layer, cache)| layer.forward_cache(x.clone(), cache).unwrap());
        assert_eq!(all_numbers(&found), all_numbers(&wanted));
    }
}

/// The cache of a sliding window gives up the keys that no phase needs.
fn a_window_keeps_what_either_phase_needs<B: Backend>() {
    let local = json!([{"type": "local", "window_size": 3}]);
    let remembers = json!([{"type": "top_k", "heavy_size": 3, "scorer": {"type": "pages", "page_size": 2}}]);
    for (method, gives_up) in [
        (json!({"prefill": [], "decode": local}), true),
        (json!({"decode": remembers}), false),
        (json!({"prefill": remembers, "decode": local}), false),
    ] {
        let config = common::gqa::config(4, 2).with_sliding_window(Some(4));
        let layer = layer::<B>(&config, Some(method.clone()));
        let (mut cache, mut all) = (KvCache::new(1), KvCache::new(1).with_spare(usize::MAX));
        for (seed, length) in [400, 1, 3, 1, 1, 1].into_iter().enumerate() {
            let x = tokens::<B>(1, length, 20, seed as u64);
            let found = layer.forward_cache(x.clone(), &mut cache).unwrap();
            close(&found, &layer.forward_cache(x, &mut all).unwrap(), &method.to_string());
        }
        assert_eq!(cache.start() > 0, gives_up, "{method}");
    }
}

fn chains_say_their_phases<B: Backend>() {
    let device = B::Device::default();
    let method = json!({"decode": sink(2), "dense_layers": [1], "layers": {"5": sink(3)}});
    let all = config(&method).init::<B>(&device).unwrap().to_string();
    let parts =
        ["prefill: dense", "decode 0: Sink {size: Count(2)}", "layer 1: dense", "layer 5 0: Sink {size: Count(3)}"];
    for part in parts.map(|part| part.replace(' ', "")) {
        let all = all.split_whitespace().collect::<String>();
        assert!(all.contains(&part), "{part}: {all}");
    }
    let one = config(&method).init_for_layer::<B>(5, &device).unwrap().to_string();
    let list = config(&sink(3)).init::<B>(&device).unwrap().to_string();
    assert_eq!(one, list);
}
