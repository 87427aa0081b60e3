//! The layers as burn modules, methods of one's own, and what cannot be.

use burn::{
    module::{AutodiffModule, Module},
    tensor::backend::Backend,
};
use serde_json::json;
use sparse_attention_hub::{
    attention::{AttentionError, ResearchAttention},
    masker::{ConfigError, SinkConfig},
    nn::{
        MhaInput, SparseMultiHeadAttention, SparseMultiHeadAttentionConfig, SparseTransformerEncoder,
        SparseTransformerEncoderConfig,
    },
    prelude::*,
};

use crate::{
    common::{Sizes, assert_close, channels, hash, host, inputs},
    layers::support::{AB, B, D_MODEL, HEADS, SINK_LOCAL, assert_same, configs, method, padding, parameters, sequence},
};

/// A method in which every kind of part is nested.
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
    let device = Default::default();
    let config = SparseTransformerEncoderConfig::new(D_MODEL, 64, HEADS, 2).with_maskers(nested()).with_dropout(0.0);
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
        "Channels {layers: [0], group_factor: 2, label_bits: 4}",
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

/// A chain keeps what the registry's chain keeps from the same file, draw for draw, and can be studied as research
/// attention.
#[test]
fn chains_are_the_registrys() {
    let device = Default::default();
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let sizes = Sizes::new(1, 6, 2, 40, 512, 64);
    let inputs = inputs::<B>(sizes, 3).causal().unwrap();
    let mut compared = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let Ok(registered) = MaskerRegistry::<B>::new().research_attention_from_file(&path, &device) else {
            continue;
        };
        let chain: MaskerChain<B> = MaskerChainConfig::from_file(&path).unwrap().init(&device).unwrap();
        let wanted = match registered.mask(&inputs, &mut LayerState::new(5)) {
            Ok(mask) => host(&mask.to_dense()).into_iter().map(f64::from).collect::<Vec<_>>(),
            // Weights for the heads of another model.
            Err(AttentionError::Shape { .. } | AttentionError::NoWeights { .. }) => continue,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        let found = chain.mask(&inputs, &mut LayerState::new(5)).unwrap();
        assert_close(&host(&found.to_dense()), &wanted, 0.0, &path.display().to_string());
        let research = ResearchAttention::from(chain.clone());
        let found = research.mask(&inputs, &mut LayerState::new(5)).unwrap();
        assert_close(&host(&found.to_dense()), &wanted, 0.0, &path.display().to_string());
        // As one masker among others.
        let research = ResearchAttention::new(vec![Box::new(chain)]).unwrap();
        assert_eq!(research.maskers().len(), 1);
        research.forward(&inputs, &mut LayerState::new(5), Requested::default()).unwrap();
        compared += 1;
    }
    assert!(compared >= 12, "{compared} configurations");
}

/// Keeps each query's own key: a masker of one's own.
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
