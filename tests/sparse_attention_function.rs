//! The function with burn's interface. Without a method it gives burn's output, and with a method it gives the output
//! of the layers.

mod common;

use burn::tensor::{
    Bool, Tensor, TensorData, backend::Backend, module::attention_fallback, ops::AttentionModuleOptions,
};
use common::*;
use serde_json::json;
use sparse_attention_hub::{nn::sparse_attention, prelude::*};

on_each_backend!(
    without_a_method_it_equals_burns,
    grouped_heads_need_no_repetition,
    a_method_chooses_among_what_the_masks_show,
    invalid_shapes_and_options_are_refused,
    draws_depend_on_the_layer_of_the_state,
);

fn hidden<B: Backend>(dims: [usize; 4]) -> Tensor<B, 4, Bool> {
    let keys = dims[3];
    // No row hides its first key, so every row sees a key.
    let hidden = (0..dims.iter().product()).map(|at| at % keys != 0 && at * 7 % 5 < 2).collect::<Vec<bool>>();
    Tensor::from_data(TensorData::new(hidden, dims), &B::Device::default())
}

fn without_a_method_it_equals_burns<B: Backend>() {
    let sizes = Sizes::new(2, 3, 3, 5, 17, 12);
    let inputs = inputs::<B>(sizes, 1);
    let qkv = || (inputs.queries().clone(), inputs.keys().clone(), inputs.values().clone());
    let pairs = [2, 3, 5, 17];
    let bias = || tensor::<B>(&normal(&mut generator(3), pairs.iter().product()), pairs);
    for is_causal in [false, true] {
        for (mask, bias) in [
            (None, None),
            (Some(hidden::<B>(pairs)), None),
            (None, Some(bias())),
            (Some(hidden::<B>(pairs)), Some(bias())),
        ] {
            for (scale, softcap) in [(None, None), (Some(0.2), None), (None, Some(1.5))] {
                let options = AttentionModuleOptions { scale, softcap, is_causal };
                let (q, k, v) = qkv();
                let wanted = attention_fallback(q, k, v, mask.clone(), bias.clone(), options);
                let (q, k, v) = qkv();
                let dense = MaskerChain::<B>::dense();
                let found =
                    sparse_attention(q, k, v, mask.clone(), bias.clone(), options, &dense, &mut LayerState::new(0));
                let wanted = host(&wanted).into_iter().map(f64::from).collect::<Vec<_>>();
                let what = format!("{options:?}, mask {}, bias {}", mask.is_some(), bias.is_some());
                assert_close(&host(&found.unwrap()), &wanted, 2e-6 + attention_rounding::<B>(), &what);
            }
        }
    }
}

fn grouped_heads_need_no_repetition<B: Backend>() {
    let inputs = inputs::<B>(Sizes::new(1, 8, 2, 3, 21, 12), 2);
    let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
    let (dense, state) = (MaskerChain::<B>::dense(), &mut LayerState::new(0));
    let (q, k, v) = (inputs.queries().clone(), inputs.keys().clone(), inputs.values().clone());
    let found = sparse_attention(q, k, v, None, None, options, &dense, state).unwrap();
    let wanted = dense_attention(&inputs.causal().unwrap(), Requested::default()).output;
    assert_eq!(host(&found), host(&wanted));
}

fn a_method_chooses_among_what_the_masks_show<B: Backend>() {
    let inputs = inputs::<B>(Sizes::new(2, 4, 2, 5, 33, 12), 3);
    let method = json!([{"type": "sink", "sink_size": 2}, {"type": "oracle_top_k", "heavy_size": 4}]).to_string();
    let method = MaskerChainConfig::from_json(&method).unwrap().init::<B>(&B::Device::default()).unwrap();
    let mask = hidden::<B>([2, 1, 5, 33]);
    let (q, k, v) = (inputs.queries().clone(), inputs.keys().clone(), inputs.values().clone());
    let options = AttentionModuleOptions::default();
    let found = sparse_attention(q, k, v, Some(mask.clone()), None, options, &method, &mut LayerState::new(0)).unwrap();
    let masked = inputs.with_visibility(Visibility::Masked(mask)).unwrap();
    let kept = method.mask(&masked, &mut LayerState::new(0)).unwrap();
    let wanted = masked_attention(&masked, &kept, Requested::default()).unwrap().output;
    assert_eq!(host(&found), host(&wanted));
}

fn invalid_shapes_and_options_are_refused<B: Backend>() {
    let inputs = inputs::<B>(Sizes::new(1, 2, 1, 9, 5, 4), 4);
    let call = |mask: Option<Tensor<B, 4, Bool>>, options: AttentionModuleOptions| {
        let (q, k, v) = (inputs.queries().clone(), inputs.keys().clone(), inputs.values().clone());
        let dense = MaskerChain::<B>::dense();
        sparse_attention(q, k, v, mask, None, options, &dense, &mut LayerState::new(0)).map(|_| ())
    };
    let options = AttentionModuleOptions::default();
    let causal = AttentionModuleOptions { is_causal: true, ..options };
    assert!(call(None, causal).unwrap_err().to_string().contains("queries"));
    let mask = Some(hidden::<B>([1, 1, 9, 4]));
    assert!(call(mask, options).unwrap_err().to_string().contains("[1, 1, 9, 4]"));
    let capped = AttentionModuleOptions { softcap: Some(-1.0), ..options };
    assert!(call(None, capped).unwrap_err().to_string().contains("softcap"));
    assert!(call(None, options).is_ok());
}

/// The draws depend on the layer.
fn draws_depend_on_the_layer_of_the_state<B: Backend>() {
    let inputs = inputs::<B>(Sizes::new(1, 2, 1, 1, 111, 4), 5);
    let method = r#"[{"type": "random_sampling", "sampling_rate": 0.2}]"#;
    let method = MaskerChainConfig::from_json(method).unwrap().init::<B>(&B::Device::default()).unwrap();
    let call = |layer: usize| {
        let (q, k, v) = (inputs.queries().clone(), inputs.keys().clone(), inputs.values().clone());
        let (options, mut state) = (AttentionModuleOptions::default(), LayerState::new(0).with_layer(layer));
        host(&sparse_attention(q, k, v, None, None, options, &method, &mut state).unwrap())
    };
    assert_eq!(call(1), call(1));
    assert_ne!(call(1), call(2));
}
