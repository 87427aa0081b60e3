//! The keys that a query keeps depend only on the keys that it sees. They do not depend on hidden or future keys, on
//! the chunks of a prompt, or on other sequences of the batch. Every method of [METHODS] is tested.

mod common;

use burn::tensor::{DType, Tensor, backend::Backend};
use common::*;
use serde_json::{Value, json};
use sparse_attention_hub::{attention::AttentionError, prelude::*};

on_each_backend!(
    hidden_keys_change_nothing,
    the_future_does_not_change_the_past,
    chunks_of_any_size_equal_one_call,
    a_row_of_a_batch_equals_its_sequence_alone,
    a_nan_query_shows,
    a_state_refuses_another_sequence,
    pages_are_bounded_by_the_keys_that_are_seen,
    narrowed_queries_keep_their_positions,
    different_float_types_are_refused,
    positions_beyond_32_bits_are_refused,
);

fn masker<B: Backend>(config: Value) -> Box<dyn Masker<B>> {
    MaskerRegistry::new().masker(&config, &Context::new(&B::Device::default())).unwrap()
}

fn kept<B: Backend>(masker: &dyn Masker<B>, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Mask<B> {
    masker.mask(inputs, state).unwrap()
}

/// The visibilities of [visibilities], and a window.
fn every_visibility<B: Backend>(sizes: Sizes, seed: u64) -> Vec<(&'static str, Visibility<B>)> {
    let mut all = visibilities::<B>(sizes, seed);
    all.push(("window", Visibility::Window { offset: sizes.keys - sizes.queries, window: 7 }));
    all
}

/// The inputs with other numbers in some keys and values.
fn with_others_in<B: Backend>(inputs: &AttentionInputs<B>, places: &[usize], number: f32) -> AttentionInputs<B> {
    let changed = |tensor: &Tensor<B, 4>| {
        let [_, _, keys, width] = tensor.dims();
        let numbers = host(tensor).into_iter().enumerate();
        let numbers = numbers.map(|(at, x)| if places.contains(&(at / width % keys)) { number } else { x });
        common::tensor::<B>(&numbers.collect::<Vec<_>>(), tensor.dims())
    };
    AttentionInputs::new(inputs.queries().clone(), changed(inputs.keys()), changed(inputs.values()))
        .unwrap()
        .with_visibility(inputs.visibility().clone())
        .unwrap()
}

/// The kept weights among the visible keys of all rows, and the output.
struct Rows {
    kept: Vec<f32>,
    output: Vec<f32>,
}

fn rows<B: Backend>(method: &dyn Masker<B>, inputs: &AttentionInputs<B>, visible: &[bool]) -> Rows {
    let mask = kept(method, inputs, &mut LayerState::new(3));
    let output = host(&masked_attention(inputs, &mask, Requested::default()).unwrap().output);
    let kept = host(&mask.to_dense()).into_iter().zip(visible).map(|(weight, seen)| if *seen { weight } else { 0.0 });
    Rows { kept: kept.collect(), output }
}

fn hidden_keys_change_nothing<B: Backend>() {
    for (case, sizes) in [Sizes::new(2, 6, 3, 11, 23, 6), Sizes::new(1, 8, 1, 1, 37, 60)].into_iter().enumerate() {
        for (name, visibility) in every_visibility::<B>(sizes, case as u64) {
            let inputs = inputs::<B>(sizes, case as u64).with_visibility(visibility).unwrap();
            let visible = naive_logits(&inputs).into_iter().map(|logit| logit > f64::NEG_INFINITY).collect::<Vec<_>>();
            for method in METHODS {
                let config = (method.config)(&sizes);
                let masker = masker::<B>(config.clone());
                let before = rows(masker.as_ref(), &inputs, &visible);
                let (keys, width) = (sizes.keys, inputs.values().dims()[3]);
                for (places, number) in [
                    (vec![keys - 1], f32::NAN),
                    (vec![keys - 2, keys - 1], f32::INFINITY),
                    ((keys / 2..keys).collect(), 50.0),
                    (vec![0, 3], f32::NEG_INFINITY),
                ] {
                    let after = rows(masker.as_ref(), &with_others_in(&inputs, &places, number), &visible);
                    for (row, seen) in visible.chunks(keys).enumerate() {
                        if places.iter().any(|&key| seen[key]) {
                            continue;
                        }
                        let what = format!("{config}, {name}, {number} in {places:?}, row {row}");
                        let of_row = |all: &[f32], width: usize| all[row * width..(row + 1) * width].to_vec();
                        assert_eq!(of_row(&after.kept, keys), of_row(&before.kept, keys), "{what}: the keys");
                        assert_eq!(of_row(&after.output, width), of_row(&before.output, width), "{what}: the output");
                    }
                }
            }
        }
    }
}

/// Changes of later tokens in a causal prompt do not change earlier rows.
fn the_future_does_not_change_the_past<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 80, 80, 12);
    let inputs = inputs::<B>(sizes, 9).causal().unwrap();
    let all = vec![true; sizes.mask_shape().pairs()];
    for method in METHODS {
        let config = (method.config)(&sizes);
        let masker = masker::<B>(config.clone());
        let before = rows(masker.as_ref(), &inputs, &all);
        let other = with_others_in(&inputs, &(50..80).collect::<Vec<_>>(), -3.0);
        let after = rows(masker.as_ref(), &other, &all);
        let width = inputs.values().dims()[3];
        for row in (0..4 * 80).filter(|row| row % 80 < 50) {
            // A masker may keep keys that the row does not see.
            let seen = row * 80..row * 80 + row % 80 + 1;
            assert_eq!(after.kept[seen.clone()], before.kept[seen], "{config}, row {row}");
            let values = row * width..(row + 1) * width;
            assert_eq!(after.output[values.clone()], before.output[values], "{config}, row {row}");
        }
    }
}

/// Whether a budget is a fraction of the number of keys at the time of the call.
fn depends_on_the_number_of_keys(config: &Value) -> bool {
    let sizes = ["heavy_size", "sink_size", "window_size", "sampling_size", "k", "init_offset", "local_offset"];
    let is_fraction = |field: &&str| config.get(*field).is_some_and(Value::is_f64);
    sizes.iter().any(is_fraction) || config.get("candidates").is_some_and(depends_on_the_number_of_keys)
}

fn queries<B: Backend>(whole: &AttentionInputs<B>, range: std::ops::Range<usize>) -> AttentionInputs<B> {
    let cut = |tensor: &Tensor<B, 4>, range| tensor.clone().slice_dim(2, range);
    let (keys, values) = (cut(whole.keys(), 0..range.end), cut(whole.values(), 0..range.end));
    AttentionInputs::new(cut(whole.queries(), range), keys, values).unwrap().causal().unwrap()
}

fn chunks_of_any_size_equal_one_call<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 61, 61, 12);
    let whole = inputs::<B>(sizes, 4).causal().unwrap();
    let mut counted = 0;
    for method in METHODS {
        let config = (method.config)(&sizes);
        if depends_on_the_number_of_keys(&config) {
            continue;
        }
        counted += 1;
        let masker = masker::<B>(config.clone());
        let run = |chunk: usize| {
            let mut state = LayerState::new(5);
            let (mut keys, mut outputs) = (vec![0f32; 4 * 61 * 61], Vec::new());
            for start in (0..61).step_by(chunk) {
                let end = (start + chunk).min(61);
                let inputs = queries(&whole, start..end);
                let mask = kept(masker.as_ref(), &inputs, &mut state);
                let (weights, length) = (host(&mask.to_dense()), end - start);
                for (head, query, key) in (0..4)
                    .flat_map(|head| (start..end).flat_map(move |query| (0..=query).map(move |key| (head, query, key))))
                {
                    keys[(head * 61 + query) * 61 + key] = weights[(head * length + query - start) * end + key];
                }
                outputs.push(masked_attention(&inputs, &mask, Requested::default()).unwrap().output);
            }
            (keys, host(&Tensor::cat(outputs, 2)))
        };
        let (keys, output) = run(61);
        let output = output.into_iter().map(f64::from).collect::<Vec<_>>();
        for chunk in [20, 7, 1] {
            let (in_chunks, found) = run(chunk);
            assert_same_choice(&in_chunks, &keys, &format!("{config}, chunks of {chunk}"));
            // Blocks of another width sum in another order.
            assert_close(&found, &output, 1e-5 + attention_rounding::<B>(), &format!("{config}, chunks of {chunk}"));
        }
    }
    assert!(counted > METHODS.len() / 2, "{counted} methods have sizes that are counts");
}

fn a_row_of_a_batch_equals_its_sequence_alone<B: Backend>() {
    let sizes = Sizes::new(3, 4, 2, 9, 31, 10);
    let batch = inputs::<B>(sizes, 6).causal().unwrap();
    for method in METHODS {
        let config = (method.config)(&sizes);
        let masker = masker::<B>(config.clone());
        let together = kept(masker.as_ref(), &batch, &mut LayerState::new(5)).to_dense();
        for sequence in 0..3 {
            let one = |tensor: &Tensor<B, 4>| tensor.clone().slice_dim(0, sequence..sequence + 1);
            let alone = AttentionInputs::new(one(batch.queries()), one(batch.keys()), one(batch.values())).unwrap();
            let alone = kept(masker.as_ref(), &alone.causal().unwrap(), &mut LayerState::new(5)).to_dense();
            assert_same_choice(&host(&alone), &host(&one(&together)), &format!("{config}, sequence {sequence}"));
        }
    }
}

fn a_nan_query_shows<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 5, 33, 12);
    let plain = inputs::<B>(sizes, 8);
    let width = sizes.head_dim;
    // Query 3 of every head is NaN.
    let numbers = host(plain.queries()).into_iter().enumerate();
    let numbers = numbers.map(|(at, x)| if at / width % 5 == 3 { f32::NAN } else { x }).collect::<Vec<_>>();
    let queries = tensor::<B>(&numbers, plain.queries().dims());
    for (name, visibility) in every_visibility::<B>(sizes, 8) {
        let inputs = AttentionInputs::new(queries.clone(), plain.keys().clone(), plain.values().clone());
        let inputs = inputs.unwrap().with_visibility(visibility).unwrap();
        for method in METHODS.iter().filter(|method| method.selects) {
            let config = (method.config)(&sizes);
            let mask = kept(masker::<B>(config.clone()).as_ref(), &inputs, &mut LayerState::new(5));
            let output = host(&masked_attention(&inputs, &mask, Requested::default()).unwrap().output);
            for (row, output) in output.chunks(inputs.values().dims()[3]).enumerate() {
                let shows = output.iter().all(|x| x.is_nan());
                assert!(shows == (row % 5 == 3), "{config}, {name}, row {row}: {output:?}");
            }
        }
    }
    // The smallest case: q = [NaN], k = [1, 2, 3], v = [1, 1, 1].
    let keys = tensor::<B>(&[1.0, 2.0, 3.0], [1, 1, 3, 1]);
    let inputs = AttentionInputs::new(tensor(&[f32::NAN], [1, 1, 1, 1]), keys.clone(), keys.ones_like()).unwrap();
    let mask =
        kept(masker::<B>(json!({"type": "oracle_top_k", "heavy_size": 2})).as_ref(), &inputs, &mut LayerState::new(0));
    assert!(host(&masked_attention(&inputs, &mask, Requested::default()).unwrap().output)[0].is_nan());
}

fn a_state_refuses_another_sequence<B: Backend>() {
    let first = Sizes::new(2, 4, 2, 3, 33, 12);
    let others = [
        ("batch", Sizes { batch: 1, ..first }),
        ("heads", Sizes { heads: 2, ..first }),
        ("kv_heads", Sizes { kv_heads: 4, ..first }),
        ("keys", Sizes { keys: 32, ..first }),
        ("head_dim", Sizes { head_dim: 10, ..first }),
    ];
    for method in METHODS.iter().filter(|method| method.selects) {
        let config = (method.config)(&first);
        // The weights of a scorer are for one size of heads. For another size the scorer itself gives the error.
        let masker = masker::<B>(config.clone());
        for (length, other) in others {
            let mut state = LayerState::new(1);
            kept(masker.as_ref(), &inputs::<B>(first, 1), &mut state);
            let refused = masker.mask(&inputs::<B>(other, 1), &mut state);
            let error = refused.err().unwrap_or_else(|| panic!("{config}: another {length} is taken"));
            let says = matches!(&error, AttentionError::AnotherSequence { length: found, .. } if *found == length);
            assert!(says || matches!(error, AttentionError::Shape { .. }), "{config}, {length}: {error}");
            // The state continues with its sequence.
            kept(masker.as_ref(), &inputs::<B>(Sizes { keys: 34, ..first }, 1), &mut state);
        }
    }
}

/// Keys 1, 0, 0.5, 9 in pages of two. The row of position 2 does not depend on the last key, except with the published
/// rule.
fn pages_are_bounded_by_the_keys_that_are_seen<B: Backend>() {
    let keep = |keys: &[f32], fit: &str| {
        let count = keys.len();
        let ones = tensor::<B>(&vec![1.0; count], [1, 1, count, 1]);
        let inputs = AttentionInputs::new(ones.clone(), tensor(keys, [1, 1, count, 1]), ones.zeros_like());
        let config = json!({"type": "quest_top_k", "heavy_size": 2, "page_size": 2, "label_bits": 16,
                            "minimum_pages": 1, "fit": fit});
        let mask = kept(masker::<B>(config).as_ref(), &inputs.unwrap().causal().unwrap(), &mut LayerState::new(0));
        host(&mask.to_dense())[2 * count..][..3].to_vec()
    };
    assert_eq!(keep(&[1.0, 0.0, 0.5], "visible"), [1.0, 1.0, 0.0]);
    assert_eq!(keep(&[1.0, 0.0, 0.5, 9.0], "visible"), [1.0, 1.0, 0.0]);
    assert_eq!(keep(&[1.0, 0.0, 0.5, 9.0], "prompt"), [0.0, 0.0, 1.0]);
}

fn narrowed_queries_keep_their_positions<B: Backend>() {
    let sizes = Sizes::new(1, 2, 1, 3, 8, 4);
    for (name, visibility) in every_visibility::<B>(sizes, 1) {
        let whole = inputs::<B>(sizes, 1).with_visibility(visibility).unwrap();
        let first = whole.offset();
        assert_eq!(whole.narrow_queries(0..1).unwrap().offset(), first, "{name}");
        let rest = whole.narrow_queries(1..3).unwrap();
        assert_eq!(rest.offset(), first + 1, "{name}");
        assert_eq!(rest.narrow_queries(1..2).unwrap().offset(), first + 2, "{name}");
        // The window of a query depends on the position of the query.
        let local = masker::<B>(json!({"type": "local", "window_size": 2}));
        let keep = |inputs: &AttentionInputs<B>| kept(local.as_ref(), inputs, &mut LayerState::new(0)).to_dense();
        let last = keep(&rest).slice_dim(2, 1..2);
        let keys = last.dims()[3];
        assert_eq!(host(&last), host(&keep(&whole).slice_dim(2, 2..3).slice_dim(3, 0..keys)), "{name}");
    }
}

fn different_float_types_are_refused<B: Backend>() {
    if !computes_in::<B>(DType::F16) {
        return;
    }
    let inputs = inputs::<B>(Sizes::new(1, 2, 1, 3, 8, 4), 1);
    let half = |tensor: &Tensor<B, 4>| tensor.clone().cast(DType::F16);
    let (queries, keys, values) = (inputs.queries(), inputs.keys(), inputs.values());
    for refused in [
        AttentionInputs::new(half(queries), keys.clone(), values.clone()),
        AttentionInputs::new(queries.clone(), half(keys), values.clone()),
        AttentionInputs::new(queries.clone(), keys.clone(), half(values)),
    ] {
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("F16") && message.contains("F32"), "{message}");
    }
    assert!(AttentionInputs::new(half(queries), half(keys), half(values)).is_ok());
}

fn positions_beyond_32_bits_are_refused<B: Backend>() {
    let inputs = || inputs::<B>(Sizes::new(1, 2, 1, 3, 8, 4), 1);
    for offset in [usize::MAX, usize::MAX - 2, i32::MAX as usize - 2] {
        for visibility in [Visibility::Causal { offset }, Visibility::Window { offset, window: 4 }] {
            let error = inputs().with_visibility(visibility).unwrap_err().to_string();
            assert!(error.contains("offset") && error.contains(&offset.to_string()), "{error}");
        }
    }
    assert!(inputs().with_visibility(Visibility::Causal { offset: i32::MAX as usize - 3 }).is_ok());
}
