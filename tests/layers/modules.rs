//! The layers as burn modules, custom methods, and errors of configurations and inputs.

use burn::{
    module::{AutodiffModule, Module},
    tensor::{Tensor, backend::Backend},
};
use serde_json::json;
#[cfg(feature = "flex")]
use sparse_attention_hub::nn::{MhaCache, SparseCrossAttentionCache, TransformerEncoderInput};
use sparse_attention_hub::{
    attention::{AttentionError, Phase},
    masker::{ConfigError, SinkConfig},
    method::ResearchAttention,
    nn::{
        GroupedQueryAttentionConfig, KvCache, MhaInput, SparseCrossAttentionConfig, SparseMultiHeadAttention,
        SparseMultiHeadAttentionConfig, SparseTransformerEncoder, SparseTransformerEncoderConfig,
    },
    prelude::*,
};

use crate::{
    common::{Sizes, assert_close, channels, hash, host, inputs},
    layers::support::{
        AB, B, D_MODEL, HEADS, SINK_LOCAL, assert_same, configs, made, method, padding, parameters, sequence,
    },
};

/// A method with every kind of nested part.
fn nested() -> MaskerChainConfig {
    let sizes = Sizes::new(1, HEADS, HEADS, 1, 1, D_MODEL / HEADS);
    let chain = json!([
        {"type": "sink", "sink_size": 1},
        {"type": "top_k", "heavy_size": 3, "scorer": hash(&sizes)},
        {"type": "top_k", "heavy_size": 0.1, "scorer": channels(&sizes), "share_group": "max"},
        {"type": "magic_pig", "lsh_l": 9, "lsh_k": 2},
    ]);
    method(&chain.to_string())
}

#[test]
fn layers_are_modules() {
    are_modules(nested());
}

/// The same for a method whose phases differ between layers.
#[test]
fn layers_with_phases_are_modules() {
    let list = serde_json::to_value(nested()).unwrap();
    let method = json!({"prefill": list, "decode": list, "layers": {"1": {"decode": list}}});
    are_modules(self::method(&method.to_string()));
}

fn are_modules(maskers: MaskerChainConfig) {
    let device = Default::default();
    let config = SparseTransformerEncoderConfig::new(D_MODEL, 64, HEADS, 2).with_maskers(maskers).with_dropout(0.0);
    let encoder: SparseTransformerEncoder<AB> = config.init(&device);
    let wanted = parameters::<AB, _>(&encoder);
    let count = wanted.iter().map(Vec::len).sum::<usize>();
    assert_eq!(encoder.num_params(), count);
    assert_eq!(AutodiffModule::<AB>::valid(&encoder).num_params(), count);
    let forked = encoder.clone().fork(&device);
    assert_eq!(parameters::<AB, _>(&forked), wanted);
    let moved = encoder.clone().to_device(&device);
    assert_eq!(parameters::<AB, _>(&moved), wanted);
    let devices = encoder.devices();
    assert!(devices.len() == 1 && devices[0] == device, "{devices:?}");
    let frozen = encoder.clone().no_grad();
    assert!(!frozen.layers[0].mha.query.weight.val().is_require_grad());
    let loaded = config.init::<AB>(&device).load_record(encoder.clone().into_record());
    assert_eq!(parameters::<AB, _>(&loaded), wanted);
    let valid: SparseTransformerEncoder<B> = encoder.valid();
    assert_eq!(parameters::<B, _>(&valid), wanted);
    let trained: SparseTransformerEncoder<AB> = valid.train::<AB>();
    assert_eq!(parameters::<AB, _>(&trained), wanted);
    assert!(trained.layers[0].mha.query.weight.val().is_require_grad());
}

#[test]
fn layers_say_what_they_are() {
    let layer = configs().0.with_maskers(method(SINK_LOCAL)).init::<B>(&Default::default());
    assert_eq!(
        layer.to_string(),
        "SparseMultiHeadAttention {d_model: 48, n_heads: 8, n_heads_kv: 8, d_k: 6, dropout: 0, quiet_softmax: false, \
         burn_conventions: false, maskers: MaskerChain {0: Sink {size: Count(2)}, 1: Local {size: Count(9)}}, \
         params: 9408}"
    );
    let dense = configs().0.init::<B>(&Default::default());
    assert!(dense.to_string().contains("maskers: MaskerChain, params: 9408"), "{dense}");
    let nested = configs().0.with_maskers(nested()).init::<B>(&Default::default()).to_string();
    for part in [
        "TopK {heavy_size: Count(3), scorer: ",
        "MagicPig {lsh_l: 9, lsh_k: 2",
        "Channels {layers: [0, 1], group_factor: 2, label_bits: 4}",
    ] {
        assert!(nested.contains(part), "{nested}");
    }
    let encoder = SparseTransformerEncoderConfig::new(D_MODEL, 64, HEADS, 2).with_maskers(method(SINK_LOCAL));
    let encoder = encoder.init::<B>(&Default::default()).to_string();
    assert!(
        encoder.starts_with("SparseTransformerEncoder {d_model: 48, d_ff: 64, n_heads: 8, n_layers: 2"),
        "{encoder}"
    );
    assert!(encoder.contains("Local {size: Count(9)}"), "{encoder}");
}

/// A chain keeps the same keys as the registry's chain from the same file, with the same random draws. It can be
/// converted into research attention.
#[test]
fn chains_are_the_registrys() {
    let device = Default::default();
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let sizes = Sizes::new(1, 6, 2, 40, 512, 64);
    let inputs = inputs::<B>(sizes, 3).causal().unwrap();
    let phases = Phase::ALL.map(|phase| inputs.clone().with_phase(phase));
    let mut compared = 0;
    'files: for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let Ok(registered) = MaskerRegistry::<B>::new().research_attention_from_file(&path, &device) else {
            continue;
        };
        let chain: MaskerChain<B> = MaskerChainConfig::from_file(&path).unwrap().init(&device).unwrap();
        for inputs in &phases {
            let wanted = match registered.mask(inputs, &mut LayerState::new(5)) {
                Ok(mask) => host(&mask.to_dense()).into_iter().map(f64::from).collect::<Vec<_>>(),
                // The weights are for the heads of another model.
                Err(AttentionError::Shape { .. } | AttentionError::NoWeights { .. }) => continue 'files,
                Err(error) => panic!("{}: {error}", path.display()),
            };
            let found = chain.mask(inputs, &mut LayerState::new(5)).unwrap();
            assert_close(&host(&found.to_dense()), &wanted, 0.0, &path.display().to_string());
            let research = ResearchAttention::from(chain.clone());
            let found = research.mask(inputs, &mut LayerState::new(5)).unwrap();
            assert_close(&host(&found.to_dense()), &wanted, 0.0, &path.display().to_string());
            // As one masker among others.
            let research = ResearchAttention::new(vec![Box::new(chain.clone())]).unwrap();
            assert_eq!(research.maskers().len(), 1);
            research.forward(inputs, &mut LayerState::new(5), Requested::default()).unwrap();
        }
        compared += 1;
    }
    assert!(compared >= 12, "{compared} configurations");
}

/// A custom masker that keeps the key at the position of each query.
#[derive(Module, Debug, Clone)]
struct Diagonal {}

impl<B: Backend> Masker<B> for Diagonal {
    fn add(
        &self,
        inputs: &AttentionInputs<B>,
        _state: &mut LayerState,
        mask: Mask<B>,
    ) -> Result<Mask<B>, AttentionError> {
        Ok(mask.merge(&Mask::pattern(mask.shape(), Pattern::local(1, inputs.offset()), &mask.device()))?)
    }
}

#[test]
fn methods_of_ones_own_are_types() {
    let device = Default::default();
    let (config, _) = configs();
    let x = sequence::<AB>([2, 21, D_MODEL], 1);
    let built_in =
        config.with_maskers(method(r#"[{"type": "sink", "sink_size": 3}, {"type": "local", "window_size": 1}]"#));
    let built_in = built_in.init::<AB>(&device);
    let wanted = built_in.forward(MhaInput::self_attn(x.clone())).context;
    let sink = || SinkConfig { sink_size: Size::Count(3) }.init(&Context::<AB>::new(&device)).unwrap();
    let tuple = built_in.clone().with_maskers((sink(), Diagonal {}));
    assert_same(&tuple.forward(MhaInput::self_attn(x.clone())).context, &wanted, "a tuple");
    let chain: MaskerChain<AB> = method(r#"[{"type": "sink", "sink_size": 3}]"#).init(&device).unwrap();
    let nested = built_in.clone().with_maskers((Diagonal {}, chain));
    assert_same(&nested.forward(MhaInput::self_attn(x.clone())).context, &wanted, "a chain in a tuple");
    let valid = nested.valid();
    assert_same(&valid.forward(MhaInput::self_attn(x.clone().inner())).context, &wanted, "valid");
    let alone = built_in.with_maskers(Diagonal {});
    let value = alone.output.forward(alone.value.forward(x.clone()));
    assert_same(&alone.forward(MhaInput::self_attn(x)).context, &value, "a query that keeps itself");
}

#[test]
fn a_users_masker_is_the_method_of_grouped_query_attention() {
    let device = Default::default();
    let x = sequence::<B>([2, 21, 48], 1);
    let layer = made(GroupedQueryAttentionConfig::new(48, 6, 2).init::<B>(&device).unwrap());
    let alone = layer.clone().with_maskers(Diagonal {});
    // Each of the 6 query heads of 8 channels gets the value of its key-value head.
    let value = alone.value.forward(x.clone()).reshape([2, 21, 2, 1, 8]).repeat_dim(3, 3).reshape([2, 21, 48]);
    let value = alone.output.forward(value);
    assert_same(&alone.forward(x.clone()).unwrap(), &value, "a query that keeps itself");
    let dense = alone.with_maskers(MaskerChain::dense());
    assert_same(&dense.forward(x.clone()).unwrap(), &layer.forward(x).unwrap(), "without a method");
}

#[test]
fn a_cache_keeps_its_layer() {
    let device = Default::default();
    let mut cache = KvCache::<B>::new(3).with_layer(5);
    let tokens = || Tensor::<B, 4>::zeros([1, 2, 1, 4], &device);
    cache.append(tokens(), tokens()).unwrap();
    let fork = cache.clone();
    cache.reset();
    assert_eq!([cache.state().layer(), fork.state().layer()], [5, 5]);
}

#[test]
fn names_of_a_registry_are_pointed_to_the_layers_builder() {
    let device = Default::default();
    for json in [r#"[{"type": "mine"}]"#, r#"[{"type": "top_k", "heavy_size": 3, "scorer": {"type": "mine"}}]"#] {
        let error =
            GroupedQueryAttentionConfig::new(48, 6, 2).with_maskers(method(json)).init::<B>(&device).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("of type \"mine\"") && error.contains("the layer's `with_maskers`"), "{error}");
    }
}

#[test]
fn two_samplers_in_a_tuple_are_an_error() {
    let device = Default::default();
    let sampler = || -> MaskerChain<B> {
        method(r#"[{"type": "random_sampling", "sampling_rate": 0.5}]"#).init(&device).unwrap()
    };
    let layer = configs().0.try_init_with::<B, _>((sampler(), sampler()), &device).unwrap();
    let error = layer.try_forward(MhaInput::self_attn(sequence([1, 9, D_MODEL], 1))).unwrap_err();
    assert!(error.to_string().contains("`maskers` is a tuple with 2 that sample"), "{error}");
}

#[test]
fn configurations_that_cannot_work_are_errors() {
    let device = Default::default();
    let error = |config: SparseMultiHeadAttentionConfig| config.try_init::<B>(&device).unwrap_err().to_string();
    assert!(error(SparseMultiHeadAttentionConfig::new(50, 8)).contains("`d_model` is 50"));
    assert!(error(configs().0.with_n_heads_kv(Some(3))).contains("`n_heads_kv` is 3"));
    assert!(error(configs().0.with_n_heads_kv(Some(0))).contains("`n_heads_kv` is 0"));
    assert!(error(configs().0.with_dropout(1.0)).contains("`dropout` is 1"));
    let unknown = method(r#"[{"type": "sinc", "sink_size": 3}]"#);
    let message = error(configs().0.with_maskers(unknown));
    assert!(message.contains("masker of type \"sinc\"") && message.contains("oracle_top_k"), "{message}");
    let unknown = method(r#"[{"type": "top_k", "heavy_size": 3, "scorer": {"type": "orakle"}}]"#);
    let message = error(configs().0.with_maskers(unknown));
    assert!(message.contains("scorer of type \"orakle\"") && message.contains("oracle"), "{message}");
    let message = error(configs().0.with_maskers(method(r#"[{"type": "sink", "sink_size": 0}]"#)));
    assert!(message.contains("`sink_size` is 0"), "{message}");
    let two = r#"[{"type": "random_sampling", "sampling_rate": 0.5}, {"type": "priority_sampling", "k": 3}]"#;
    assert!(error(configs().0.with_maskers(method(two))).contains("maskers 0 and 1 of the chain both sample"));
    assert!(matches!(MaskerChainConfig::from_json(r#"[{"sink_size": 3}]"#), Err(ConfigError::NoType { place: 0, .. })));
    assert!(matches!(MaskerChainConfig::from_json("{}"), Err(ConfigError::NotAChain { .. })));
    assert!(matches!(MaskerChainConfig::from_file("no such file"), Err(ConfigError::Read { .. })));
}

/// Sizes of 0, and sizes that no memory can hold.
#[test]
fn sizes_that_cannot_be_are_errors() {
    let device = Default::default();
    let message = |result: Result<(), ConfigError>| result.unwrap_err().to_string();
    let attention = |d_model, heads| {
        message(SparseMultiHeadAttentionConfig::new(d_model, heads).try_init::<B>(&device).map(|_| ()))
    };
    assert!(attention(0, 8).contains("`d_model` is 0"));
    assert!(attention(48, 0).contains("`n_heads` is 0"));
    assert!(attention(1 << 40, 1).contains("`d_model` is 1099511627776"));
    let encoder = |[d_model, d_ff, heads, layers]: [usize; 4]| {
        let config = SparseTransformerEncoderConfig::new(d_model, d_ff, heads, layers);
        message(config.try_init::<B>(&device).map(|_| ()))
    };
    assert!(encoder([0, 64, 8, 2]).contains("`d_model` is 0"));
    assert!(encoder([48, 0, 8, 2]).contains("`d_ff` is 0"));
    assert!(encoder([48, 64, 0, 2]).contains("`n_heads` is 0"));
    assert!(encoder([48, 64, 8, 0]).contains("`n_layers` is 0"));
    assert!(encoder([48, 1 << 60, 8, 2]).contains("`d_ff` is"));
    let cross = |sizes: [usize; 5]| {
        let [d_model, d_context, heads, heads_kv, d_head] = sizes;
        let config = SparseCrossAttentionConfig::new(d_model, d_context, heads, heads_kv, d_head);
        message(config.try_init::<B>(&device).map(|_| ()))
    };
    assert!(cross([0, 20, 8, 2, 5]).contains("`d_model` is 0"));
    assert!(cross([24, 0, 8, 2, 5]).contains("`d_context` is 0"));
    assert!(cross([24, 20, 0, 2, 5]).contains("`n_heads` is 0"));
    assert!(cross([24, 20, 8, 0, 5]).contains("`n_heads_kv` is 0"));
    assert!(cross([24, 20, 8, 2, 0]).contains("`d_head` is 0"));
    let mut cache = KvCache::<B>::with_capacity(0, 1 << 40);
    let tokens = || Tensor::<B, 4>::zeros([1, 2, 1, 64], &device);
    let error = cache.append(tokens(), tokens()).unwrap_err();
    assert!(matches!(error, AttentionError::Shape { tensor: "keys", .. }), "{error}");
    assert!(cache.is_empty());
}

/// Weights that the configuration does not name, and weights for other layers than the one that is built.
#[test]
fn weights_that_are_missing_are_errors_at_building() {
    let device = Default::default();
    let sizes = Sizes::new(1, HEADS, HEADS, 1, 1, D_MODEL / HEADS);
    let mut without = hash(&sizes);
    without.as_object_mut().unwrap().remove("hat_weights");
    let top_k =
        |scorer: &serde_json::Value| method(&json!([{"type": "top_k", "heavy_size": 3, "scorer": scorer}]).to_string());
    let mut preset = without.clone();
    (preset["type"], preset["heavy_size"]) = (json!("hash_attention_top_k"), json!(3));
    for maskers in [top_k(&without), method(&json!([preset]).to_string())] {
        let built = [
            configs().0.with_maskers(maskers.clone()).try_init::<B>(&device).map(|_| ()),
            SparseTransformerEncoderConfig::new(D_MODEL, 64, HEADS, 2)
                .with_maskers(maskers.clone())
                .try_init::<B>(&device)
                .map(|_| ()),
            GroupedQueryAttentionConfig::new(D_MODEL, HEADS, HEADS)
                .with_maskers(maskers.clone())
                .init::<B>(&device)
                .map(|_| ()),
            SparseCrossAttentionConfig::new(D_MODEL, 20, HEADS, HEADS, 6)
                .with_maskers(maskers.clone())
                .try_init::<B>(&device)
                .map(|_| ()),
            maskers.init_for_layer::<B>(3, &device).map(|_| ()),
        ];
        for result in built {
            let error = result.unwrap_err();
            assert!(error.to_string().contains("field `hat_weights`: is missing"), "{error}");
        }
    }
    for (scorer, asked) in [(hash(&sizes), "`layer 5`"), (channels(&sizes), "`model.layers.5.self_attn.qk_proj`")] {
        let error =
            configs().0.with_maskers(top_k(&scorer)).with_layer(5).try_init::<B>(&device).unwrap_err().to_string();
        let file = if asked.contains("layer 5") { &scorer["hat_weights"] } else { &scorer["sorted_channel_file"] };
        let parts = [file.as_str().unwrap(), asked, "it has the layers [0, 1]"];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    // If a method was built for one layer and another layer calls it, the error still names all layers of the file.
    let mut layer = configs().0.with_maskers(top_k(&hash(&sizes))).try_init::<B>(&device).unwrap();
    layer.layer = 7;
    let error = layer.try_forward(MhaInput::self_attn(sequence([1, 9, D_MODEL], 1))).unwrap_err().to_string();
    let file = hash(&sizes)["hat_weights"].as_str().unwrap().to_owned();
    for part in ["no weights for layer 7", file.as_str(), "has them for the layers [0, 1]"] {
        assert!(error.contains(part), "{error}");
    }
}

/// Inputs of another float type than the weights are an error that names both types, in every layer.
#[cfg(feature = "flex")]
#[test]
fn inputs_of_another_type_are_errors() {
    use burn::tensor::DType;
    type F = burn_flex::Flex;
    let device = Default::default();
    let half = |dims| Tensor::<F, 3>::ones(dims, &device).cast(DType::F16);
    let full = |dims| Tensor::<F, 3>::ones(dims, &device);
    let named = |error: AttentionError, tensor: &str| {
        let error = error.to_string();
        assert!(error.contains(&format!("`{tensor}` holds numbers of type F16, but must hold F32")), "{error}");
    };
    let attention = configs().0.init::<F>(&device);
    let x = [2, 5, D_MODEL];
    named(attention.try_forward(MhaInput::self_attn(half(x))).unwrap_err(), "query");
    named(attention.try_forward(MhaInput::new(full(x), half(x), full(x))).unwrap_err(), "key");
    named(attention.try_forward(MhaInput::new(full(x), full(x), half(x))).unwrap_err(), "value");
    let mut cache = MhaCache::autoregressive();
    named(attention.forward_step(MhaInput::self_attn(half(x)), &mut cache).unwrap_err(), "query");
    let cross = SparseCrossAttentionConfig::new(D_MODEL, D_MODEL, HEADS, HEADS, 6).init::<F>(&device);
    named(cross.try_forward(half(x), full(x), None).unwrap_err(), "query");
    named(cross.try_forward(full(x), half(x), None).unwrap_err(), "context");
    let mut cross_cache = SparseCrossAttentionCache::new();
    named(cross.try_forward_cache(full(x), half(x), None, &mut cross_cache).unwrap_err(), "context");
    assert!(cache.is_empty() && cross_cache.is_empty());
    for norm_first in [false, true] {
        let config = SparseTransformerEncoderConfig::new(D_MODEL, 64, HEADS, 2).with_norm_first(norm_first);
        let encoder = config.init::<F>(&device);
        named(encoder.try_forward(TransformerEncoderInput::new(half(x))).unwrap_err(), "input");
        let mut cache = encoder.new_autoregressive_cache();
        named(encoder.forward_step(TransformerEncoderInput::new(half(x)), &mut cache).unwrap_err(), "input");
        let error = encoder.try_forward(TransformerEncoderInput::new(full([2, 5, 40]))).unwrap_err().to_string();
        assert!(error.contains("`input` has the shape [2, 5, 40]"), "{error}");
    }
    let grouped = GroupedQueryAttentionConfig::new(D_MODEL, HEADS, 2).init::<F>(&device).unwrap();
    named(grouped.forward(half(x)).unwrap_err(), "input");
    let mut cache = KvCache::new(0);
    named(grouped.forward_cache(half(x), &mut cache).unwrap_err(), "input");
    let heads = |dtype| Tensor::<F, 4>::ones([1, 2, 3, 6], &device).cast(dtype);
    named(cache.append(heads(DType::F32), heads(DType::F16)).unwrap_err(), "values");
    cache.append(heads(DType::F32), heads(DType::F32)).unwrap();
    named(cache.append(heads(DType::F16), heads(DType::F16)).unwrap_err(), "keys");
    assert_eq!(cache.len(), 3);
    let message =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attention.forward(MhaInput::self_attn(half(x)))));
    let message = *message.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("F16") && message.contains("F32"), "{message}");
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let layer: SparseMultiHeadAttention<B> = configs().0.init(&Default::default());
    let x = |length, width| sequence::<B>([2, length, width], 1);
    let error = |input: MhaInput<B>| layer.try_forward(input).unwrap_err().to_string();
    assert!(error(MhaInput::self_attn(x(9, 40))).contains("`query` has the shape [2, 9, 40]"));
    assert!(error(MhaInput::new(x(9, 48), x(9, 48), x(8, 48))).contains("`value` has the shape [2, 8, 48]"));
    assert!(error(MhaInput::self_attn(x(9, 48)).mask_pad(padding([2, 8], false))).contains("mask_pad"));
    assert!(error(MhaInput::new(x(9, 48), x(8, 48), x(8, 48)).causal()).contains("at most 8 queries"));
}
