//! Decode steps with a cache equal one causal forward pass over the whole sequence.

use burn::tensor::{Tensor, backend::Backend};
use sparse_attention_hub::nn::{
    MhaCache, MhaInput, SparseMultiHeadAttention, SparseTransformerEncoderConfig, TransformerEncoderInput,
};

use crate::{
    common::on_each_backend,
    layers::support::{
        B, D_MODEL, HEADS, SINK_LOCAL, assert_same, assert_same_but_for_near_scores, bools, configs, method, padding,
        sequence,
    },
};

const LENGTH: usize = 70;

fn part<B: Backend>(x: &Tensor<B, 3>, range: std::ops::Range<usize>) -> Tensor<B, 3> {
    x.clone().slice_dim(1, range)
}

/// The ends of the calls. There are chunks and single tokens, before and after the reserved capacity is reached.
const ENDS: [usize; 7] = [13, 14, 15, 63, 64, 65, LENGTH];

fn steps_equal_the_whole<B: Backend>() {
    let device = Default::default();
    for maskers in
        ["[]", SINK_LOCAL, r#"[{"type": "sink", "sink_size": 2}, {"type": "oracle_top_k", "heavy_size": 5}]"#]
    {
        let same = match maskers.contains("top_k") {
            true => assert_same_but_for_near_scores::<B>,
            false => assert_same::<B, B, 3>,
        };
        for kv_heads in [1, 2, 4, 8] {
            let layer = configs().0.with_maskers(method(maskers)).with_n_heads_kv(Some(kv_heads)).init::<B>(&device);
            let x = sequence::<B>([2, LENGTH, D_MODEL], 1);
            let wanted = layer.forward(MhaInput::self_attn(x.clone()).causal()).context;
            let (mut steps, mut whole) = (MhaCache::autoregressive(), MhaCache::autoregressive());
            let mut start = 0;
            for end in ENDS {
                let what = format!("{maskers}, {kv_heads} kv heads, {start}..{end}");
                let new = layer.forward_step(MhaInput::self_attn(part(&x, start..end)), &mut steps).unwrap();
                same(&new.context, &part(&wanted, start..end), &what);
                // As in burn, the input of `forward_cache` is the whole sequence so far.
                let so_far = layer.forward_cache(MhaInput::self_attn(part(&x, 0..end)), &mut whole);
                same(&so_far.context, &part(&wanted, 0..end), &what);
                assert_eq!((steps.len(), whole.len()), (end, end));
                start = end;
            }
            steps.reset();
            assert!(steps.is_empty());
            let again = layer.forward_step(MhaInput::self_attn(x.clone()), &mut steps).unwrap();
            same(&again.context, &wanted, "after a reset");
        }
    }
}

on_each_backend!(steps_equal_the_whole);

#[test]
fn masked_steps_equal_the_whole() {
    let layer = configs().0.init::<B>(&Default::default());
    let x = sequence::<B>([2, LENGTH, D_MODEL], 1);
    let pad = padding::<B>([2, LENGTH], true);
    let hidden = bools::<B, 3>([2, LENGTH, LENGTH], |at| at % 7 == 1);
    let input = MhaInput::self_attn(x.clone()).mask_pad(pad.clone()).mask_attn(hidden.clone()).causal();
    let wanted = layer.forward(input).context;
    let mut cache = MhaCache::autoregressive();
    let mut start = 0;
    for end in ENDS {
        let input = MhaInput::self_attn(part(&x, start..end))
            .mask_pad(pad.clone().slice_dim(1, 0..end))
            .mask_attn(hidden.clone().slice([0..2, start..end, 0..end]));
        let new = layer.forward_step(input, &mut cache).unwrap().context;
        assert_same(&new, &part(&wanted, start..end), "masked step");
        start = end;
    }
}

/// The keys and values of a cross-attention input are projected once. Later calls do not read them.
#[test]
fn a_cross_attention_memory_is_read_once() {
    let layer = configs().0.init::<B>(&Default::default());
    let (x, memory) = (sequence::<B>([2, 9, D_MODEL], 1), sequence::<B>([2, 33, D_MODEL], 2));
    let wanted = layer.forward(MhaInput::new(x.clone(), memory.clone(), memory.clone())).context;
    let mut cache = MhaCache::autoregressive_cross_attention();
    for end in 1..=9 {
        let memory = if end == 1 { memory.clone() } else { memory.clone() * 0.0 };
        let found = layer.forward_cache(MhaInput::new(part(&x, 0..end), memory.clone(), memory), &mut cache);
        assert_same(&found.context, &part(&wanted, 0..end), "over a memory");
        assert_eq!(cache.len(), 33);
    }
}

#[test]
fn a_sequence_that_does_not_grow_is_an_error() {
    let layer: SparseMultiHeadAttention<B> = configs().0.init(&Default::default());
    let x = sequence::<B>([2, 9, D_MODEL], 1);
    let mut cache = MhaCache::autoregressive();
    layer.forward_cache(MhaInput::self_attn(x.clone()), &mut cache);
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        layer.forward_cache(MhaInput::self_attn(x), &mut cache);
    }));
    let message = *again.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("more than 9"), "{message}");
    let error = layer.forward_step(MhaInput::self_attn(sequence::<B>([3, 1, D_MODEL], 1)), &mut cache).unwrap_err();
    assert!(error.to_string().contains("[2, _, _]"), "{error}");
    assert_eq!(cache.len(), 9);
}

#[test]
fn encoder_steps_equal_the_whole() {
    let device = Default::default();
    for norm_first in [false, true] {
        let encoder = SparseTransformerEncoderConfig::new(D_MODEL, 64, HEADS, 3)
            .with_norm_first(norm_first)
            .with_maskers(method(SINK_LOCAL))
            .init::<B>(&device);
        let x = sequence::<B>([2, LENGTH, D_MODEL], 1);
        let wanted = encoder.forward(TransformerEncoderInput::new(x.clone()).causal());
        let (mut steps, mut whole) = (encoder.new_autoregressive_cache(), encoder.new_autoregressive_cache());
        let mut start = 0;
        for end in ENDS {
            let input = TransformerEncoderInput::new(part(&x, start..end));
            let new = encoder.forward_step(input, &mut steps).unwrap();
            assert_same(&new, &part(&wanted, start..end), "step");
            let input = TransformerEncoderInput::new(part(&x, 0..end));
            let so_far = encoder.forward_autoregressive_inference(input, &mut whole);
            assert_same(&so_far, &part(&wanted, 0..end), "so far");
            start = end;
        }
        assert_eq!(steps.layers().len(), 3);
        steps.reset();
        let again = encoder.forward_step(TransformerEncoderInput::new(x), &mut steps).unwrap();
        assert_same(&again, &wanted, "after a reset");
    }
}
