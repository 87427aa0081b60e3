//! Every masker of [METHODS] in the same tests, over odd shapes, GQA ratios and visibilities.

mod common;

use burn::tensor::{DType, Tensor, backend::Backend};
use common::*;
use serde_json::{Value, json};
use sparse_attention_hub::masker::ConfigError;
use sparse_attention_hub::prelude::*;

on_each_backend!(
    masks_only_grow,
    full_budget_equals_dense,
    the_same_seed_draws_the_same,
    selectors_do_not_keep_hidden_keys,
    nothing_visible_gives_zero,
    a_decode_step_keeps_what_the_prefill_kept,
    half_precision_chooses_as_the_same_numbers_in_f32,
    samplers_can_draw_with_replacement,
    uniform_samplers_read_what_they_draw,
    budgets_are_kept,
    two_samplers_are_refused,
    bad_configurations_are_named,
    a_users_masker_is_built_by_name,
);

fn masker<B: Backend>(config: Value) -> Box<dyn Masker<B>> {
    MaskerRegistry::new().masker(&config, &Context::new(&B::Device::default())).unwrap()
}

/// Masks that may come before a masker: nothing, a pattern, rows with sampled keys, weights.
fn previous<B: Backend>(sizes: Sizes) -> Vec<Mask<B>> {
    let (shape, device) = (sizes.mask_shape(), B::Device::default());
    let weights = (0..shape.pairs()).map(|at| [0.0, 0.0, 1.0, 0.0, 0.25][at % 5]).collect::<Vec<f32>>();
    let dense = Mask::from_dense(tensor(&weights, shape.dims())).unwrap();
    let offset = sizes.keys as isize - sizes.queries as isize;
    vec![
        Mask::empty(shape, &device),
        Mask::pattern(shape, Pattern { sink: 1, window: 1, offset }, &device),
        Mask::from_csr(shape, &dense.to_csr(), &device).unwrap(),
        dense,
    ]
}

fn each_case<B: Backend>(check: impl Fn(&Method, AttentionInputs<B>, Sizes, &str)) {
    for method in METHODS {
        for (case, sizes) in SIZES.into_iter().enumerate() {
            for (name, visibility) in visibilities::<B>(sizes, case as u64) {
                let inputs = inputs::<B>(sizes, case as u64).with_visibility(visibility).unwrap();
                check(method, inputs, sizes, &format!("{} on {sizes:?}, {name}", (method.config)(&sizes)));
            }
        }
    }
}

fn masks_only_grow<B: Backend>() {
    each_case::<B>(|method, inputs, sizes, what| {
        for mask in previous::<B>(sizes) {
            let before = host(&mask.to_dense());
            let grown = masker((method.config)(&sizes)).add(&inputs, &mut LayerState::new(1), mask.clone()).unwrap();
            assert_eq!(grown.shape(), sizes.mask_shape(), "{what}");
            let after = host(&grown.to_dense());
            assert!(before.iter().zip(&after).all(|(before, after)| after >= before), "{what}: lost a key");
            assert!(after.iter().all(|weight| (0.0..=1.0).contains(weight)), "{what}: not a probability");
            assert_eq!(host(&mask.to_dense()), before, "{what}: changed the mask it was given");
            // A row must hold each key once. The conversion from CSR checks this.
            Mask::<B>::from_csr(grown.shape(), &grown.to_csr(), &grown.device()).unwrap();
            let full = Mask::full(grown.shape(), &grown.device());
            let still_full = masker((method.config)(&sizes)).add(&inputs, &mut LayerState::new(1), full).unwrap();
            assert!(still_full.is_full(), "{what}: a full mask is not full any more");
        }
    });
}

fn full_budget_equals_dense<B: Backend>() {
    each_case::<B>(|method, inputs, sizes, what| {
        let Some(full) = (method.full)(&sizes) else { return };
        let causal = full["type"] == "causal";
        // If the inputs are not causal, the causal masker keeps fewer keys than dense attention.
        if causal && !matches!(inputs.visibility(), Visibility::Causal { .. }) {
            return;
        }
        let wanted = host(&dense_attention(&inputs, Requested::default()).output);
        let wanted = wanted.into_iter().map(f64::from).collect::<Vec<_>>();
        for mask in previous::<B>(sizes).into_iter().take(2) {
            let mask = masker(full.clone()).add(&inputs, &mut LayerState::new(1), mask).unwrap();
            let found = masked_attention(&inputs, &mask, Requested::default()).unwrap().output;
            // Blocks of another width sum in another order.
            assert_close(&host(&found), &wanted, 1e-5, what);
        }
    });
}

fn the_same_seed_draws_the_same<B: Backend>() {
    each_case::<B>(|method, inputs, sizes, what| {
        let masker = masker::<B>((method.config)(&sizes));
        let samples = method.samples || (method.config)(&sizes)["type"] == "magic_pig";
        assert_eq!(masker.samples(), samples, "{what}");
        let draw = |state: &mut LayerState| {
            let empty = Mask::empty(sizes.mask_shape(), &inputs.device());
            host(&masker.add(&inputs, state, empty).unwrap().to_dense())
        };
        let (mut first, mut second) = (LayerState::new(7), LayerState::new(7));
        for _ in 0..2 {
            assert_eq!(draw(&mut first), draw(&mut second), "{what}");
        }
        if method.samples && sizes.keys > 60 && matches!(inputs.visibility(), Visibility::Full) {
            assert_ne!(draw(&mut LayerState::new(7)), draw(&mut LayerState::new(8)), "{what}: two seeds draw alike");
        }
    });
}

fn selectors_do_not_keep_hidden_keys<B: Backend>() {
    each_case::<B>(|method, inputs, sizes, what| {
        if !method.selects {
            return;
        }
        let mask = Mask::empty(sizes.mask_shape(), &inputs.device());
        let mask = masker((method.config)(&sizes)).add(&inputs, &mut LayerState::new(1), mask).unwrap();
        // A full mask means dense attention, in which the visibility hides keys.
        if !mask.is_full() {
            let weights = host(&mask.to_dense());
            let hidden = naive_logits(&inputs).into_iter().map(|logit| logit == f64::NEG_INFINITY);
            assert!(hidden.zip(weights).all(|(hidden, weight)| !hidden || weight == 0.0), "{what}");
        }
    });
}

fn nothing_visible_gives_zero<B: Backend>() {
    each_case::<B>(|method, inputs, sizes, what| {
        let mask = Mask::empty(sizes.mask_shape(), &inputs.device());
        let mask = masker((method.config)(&sizes)).add(&inputs, &mut LayerState::new(1), mask).unwrap();
        let output = host(&masked_attention(&inputs, &mask, Requested::default()).unwrap().output);
        assert!(output.iter().all(|value| value.is_finite()), "{what}");
        let width = inputs.values().dims()[3];
        let weights = host(&mask.to_dense());
        for (row, logits) in naive_logits(&inputs).chunks(sizes.keys).enumerate() {
            let keeps = |key: usize| weights[row * sizes.keys + key] > 0.0 && logits[key] > f64::NEG_INFINITY;
            if !(0..sizes.keys).any(keeps) {
                assert!(output[row * width..(row + 1) * width].iter().all(|&value| value == 0.0), "{what}");
            }
        }
    });
}

/// Budgets in keys do not depend on the number of queries in a call. The last row of a causal prefill keeps the same
/// keys as a decode step at that position.
fn a_decode_step_keeps_what_the_prefill_kept<B: Backend>() {
    let sizes = Sizes::new(2, 4, 2, 33, 33, 12);
    let prefill = inputs::<B>(sizes, 2).causal().unwrap();
    let step = AttentionInputs::new(
        prefill.queries().clone().slice_dim(2, 32..33),
        prefill.keys().clone(),
        prefill.values().clone(),
    )
    .unwrap()
    .causal()
    .unwrap();
    for method in METHODS {
        let keep = |inputs: &AttentionInputs<B>| {
            let empty = Mask::empty(inputs.mask_shape(), &inputs.device());
            masker((method.config)(&sizes)).add(inputs, &mut LayerState::new(1), empty).unwrap().to_dense()
        };
        let last = keep(&prefill).slice_dim(2, 32..33);
        assert_same_choice(&host(&last), &host(&keep(&step)), &(method.config)(&sizes).to_string());
    }
}

/// Scores are computed in f32 for every number type of the inputs.
fn half_precision_chooses_as_the_same_numbers_in_f32<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 31, 63, 12);
    let single = inputs::<B>(sizes, 5);
    for dtype in [DType::F16, DType::BF16] {
        if !computes_in::<B>(dtype) {
            continue;
        }
        let rounded = |single: &AttentionInputs<B>, dtype| {
            let [queries, keys, values] =
                [single.queries(), single.keys(), single.values()].map(|tensor| tensor.clone().cast(dtype));
            AttentionInputs::new(queries, keys, values).unwrap().causal().unwrap()
        };
        let half = rounded(&single, dtype);
        let same_numbers = rounded(&half, DType::F32);
        for method in METHODS {
            let kept = |inputs| {
                let mask = Mask::empty(sizes.mask_shape(), &B::Device::default());
                let masker = masker::<B>((method.config)(&sizes));
                masker.add(inputs, &mut LayerState::new(1), mask).unwrap().to_csr()
            };
            assert_eq!(kept(&half), kept(&same_numbers), "{} in {dtype:?}", (method.config)(&sizes));
        }
    }
}

/// With replacement, the sampled keys of a row represent the whole population. The sum of `1 / weight` equals the
/// population exactly, because every draw counts `population / draws`.
fn samplers_can_draw_with_replacement<B: Backend>() {
    let sizes = Sizes::new(1, 8, 1, 5, 111, 12);
    let inputs = inputs::<B>(sizes, 2);
    let mut random = json!({"type": "random_sampling", "sampling_rate": 0.4});
    let mut adaptive = adaptive(0.4, 0.3, 0);
    for config in [&mut random, &mut adaptive] {
        config["replacement"] = json!(true);
        let sink = Mask::pattern(sizes.mask_shape(), Pattern::sink(3), &inputs.device());
        let mask = masker(config.clone()).add(&inputs, &mut LayerState::new(1), sink).unwrap();
        let weights = host(&mask.to_dense());
        for row in weights.chunks(111) {
            assert_eq!(row[..3], [1.0; 3]);
            let counted = row[3..].iter().filter(|&&w| w > 0.0).map(|w| 1.0 / f64::from(*w)).sum::<f64>();
            assert!((counted - 108.0).abs() < 1e-3, "{config}: {counted}");
        }
        let repeated = weights.iter().filter(|&&w| w > 0.0 && w < 1.0).map(|w| w.to_bits());
        assert!(repeated.collect::<std::collections::HashSet<_>>().len() > 1, "{config}: no key drawn twice");
    }
}

/// Uniform samplers read only the keys that are kept already and the keys that they draw. If all other keys are
/// replaced with NaN, the same keys are kept with the same probabilities.
fn uniform_samplers_read_what_they_draw<B: Backend>() {
    let sizes = Sizes::new(2, 4, 2, 3, 111, 12);
    let inputs = inputs::<B>(sizes, 6).causal().unwrap();
    for config in [
        json!({"type": "random_sampling", "sampling_rate": 0.2}),
        adaptive(0.1, 0.5, 1),
        json!({"type": "verified_sampling", "target": "denominator", "epsilon": 0.5, "delta": 0.2, "pilot_size": 6}),
        json!({"type": "verified_sampling", "target": "output", "epsilon": 0.9, "delta": 0.2, "pilot_size": 6}),
    ] {
        let masker = masker::<B>(config.clone());
        let keep = |inputs: &AttentionInputs<B>| {
            let sink = Mask::pattern(sizes.mask_shape(), Pattern::sink(3), &inputs.device());
            host(&masker.add(inputs, &mut LayerState::new(4), sink).unwrap().to_dense())
        };
        let wanted = keep(&inputs);
        let mut counted = 0;
        for (row, kept) in wanted.chunks(111).enumerate() {
            let poisoned = |tensor: &Tensor<B, 4>| {
                let width = tensor.dims()[3];
                let numbers = host(tensor).into_iter().enumerate();
                let numbers = numbers.map(|(at, x)| if kept[at / width % 111] > 0.0 { x } else { f32::NAN });
                common::tensor::<B>(&numbers.collect::<Vec<_>>(), tensor.dims())
            };
            let (keys, values) = (poisoned(inputs.keys()), poisoned(inputs.values()));
            let others = AttentionInputs::new(inputs.queries().clone(), keys, values).unwrap().causal().unwrap();
            assert_eq!(keep(&others)[row * 111..(row + 1) * 111], *kept, "{config}, row {row}");
            counted += kept.iter().filter(|&&weight| weight == 0.0).count();
        }
        assert!(counted > 24 * 30, "{config}: {counted} keys are not kept");
    }
}

fn budgets_are_kept<B: Backend>() {
    let sizes = Sizes::new(2, 6, 3, 63, 63, 8);
    let causal = inputs::<B>(sizes, 4).causal().unwrap();
    let kept = |config: Value| {
        let sink = Mask::pattern(sizes.mask_shape(), Pattern::sink(2), &causal.device());
        let mask = masker(config).add(&causal, &mut LayerState::new(1), sink).unwrap();
        let weights = host(&mask.to_dense());
        weights.chunks(63).map(|row| row.iter().filter(|&&w| w > 0.0).count()).collect::<Vec<_>>()
    };
    let per_row = |count: fn(usize) -> usize| {
        // Query `i` sees `i + 1` keys, and two of them are already kept.
        (0..12 * 63).map(|row| 2 + count((row % 63 + 1usize).saturating_sub(2))).collect::<Vec<_>>()
    };
    assert_eq!(kept(json!({"type": "oracle_top_k", "heavy_size": 5})), per_row(|left| left.min(5)));
    assert_eq!(kept(json!({"type": "oracle_top_k", "heavy_size": 0.1})), per_row(|left| left.min(6)));
    assert_eq!(kept(json!({"type": "random_sampling", "sampling_rate": 0.25})), per_row(|left| left.div_ceil(4)));
    // A pilot of size 0 disables the sampler.
    let mut off = adaptive(0.2, 0.1, 0);
    off["base_rate_sampling"] = json!(0);
    assert_eq!(kept(off), per_row(|_| 0));
}

fn two_samplers_are_refused<B: Backend>() {
    let chain = json!([adaptive(0.1, 0.1, 4), {"type": "sink", "sink_size": 4},
                       {"type": "random_sampling", "sampling_rate": 0.1}]);
    let refused = MaskerRegistry::<B>::new().research_attention(&chain.to_string(), &B::Device::default());
    assert!(matches!(refused, Err(ConfigError::TwoSamplers { first: 0, second: 2 })));
}

fn bad_configurations_are_named<B: Backend>() {
    let device = B::Device::default();
    let message =
        |config: Value| MaskerRegistry::<B>::new().masker(&config, &Context::new(&device)).unwrap_err().to_string();
    let cases = [
        (json!({"type": "sink", "sink_size": 0}), ["`sink_size` is 0", "at least 1"]),
        (json!({"type": "sink", "sink_size": -3}), ["sink_size", "-3"]),
        (json!({"type": "sink", "sink_size": "4"}), ["sink_size", "a count of keys"]),
        (json!({"type": "sink"}), ["\"sink\"", "missing field `sink_size`"]),
        (json!({"type": "sink", "sink_size": 4, "window": 3}), ["\"sink\"", "unknown field `window`"]),
        (json!({"type": "local", "window_size": 1.5}), ["`window_size` is 1.5", "(0, 1]"]),
        (json!({"type": "oracle_top_p", "top_p": 1.01}), ["`top_p` is 1.01", "[0, 1]"]),
        (json!({"type": "top_k", "heavy_size": 4, "scorer": {"type": "psychic"}}), ["scorer", "psychic"]),
        (json!({"type": "random_sampling", "sampling_rate": 0.0}), ["`sampling_rate` is 0", "(0, 1]"]),
        (adaptive(1.0, 0.1, 0), ["`base_rate_sampling` is 1.0", "below 1"]),
        (adaptive(0.1, 1.0, 0), ["`epsilon` is 1", "(0, 1)"]),
        (json!({"type": "sinks"}), ["\"sinks\"", "adaptive_sampling, causal, double_sparsity_top_k"]),
        (json!({"sink_size": 4}), ["no \"type\"", "known types"]),
    ];
    for (config, parts) in cases {
        let message = message(config.clone());
        assert!(parts.iter().all(|part| message.contains(part)), "{config}: {message}");
    }
    let chain = |text: &str| MaskerRegistry::<B>::new().research_attention(text, &device).unwrap_err().to_string();
    assert!(chain("{}").contains("not a list of masker configurations"));
    let missing = MaskerRegistry::<B>::new().research_attention_from_file("no/such.json", &device);
    assert!(missing.unwrap_err().to_string().contains("no/such.json"));
}

/// A masker of a user is registered by name. It is then used in a configuration like the built-in maskers.
fn a_users_masker_is_built_by_name<B: Backend>() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct StridedConfig {
        stride: usize,
    }
    #[derive(Debug)]
    struct Strided(usize);
    impl<B: Backend> MaskerConfig<B> for StridedConfig {
        type Masker = Strided;
        fn init(&self, _context: &Context<B>) -> Result<Strided, ConfigError> {
            match self.stride {
                0 => Err(ConfigError::value("stride", 0, "at least 1")),
                stride => Ok(Strided(stride)),
            }
        }
    }
    impl<B: Backend> Masker<B> for Strided {
        fn add(
            &self,
            inputs: &AttentionInputs<B>,
            _state: &mut LayerState,
            mask: Mask<B>,
        ) -> Result<Mask<B>, sparse_attention_hub::attention::AttentionError> {
            let shape = inputs.mask_shape();
            let weights = (0..shape.pairs()).map(|at| if (at % shape.keys).is_multiple_of(self.0) { 1.0 } else { 0.0 });
            Ok(mask.merge(&Mask::from_dense(tensor(&weights.collect::<Vec<f32>>(), shape.dims()))?)?)
        }
    }
    let mut registry = MaskerRegistry::<B>::new();
    registry.register::<StridedConfig>("strided");
    let method = r#"[{"type": "sink", "sink_size": 2}, {"type": "strided", "stride": 4}]"#;
    let attention = registry.research_attention(method, &B::Device::default()).unwrap();
    let inputs = inputs::<B>(Sizes::new(1, 1, 1, 1, 11, 3), 1);
    let mask = attention.mask(&inputs, &mut LayerState::new(1)).unwrap();
    assert_eq!(mask.picture(0, 0, 11).unwrap(), "██..█...█..\n");
}
