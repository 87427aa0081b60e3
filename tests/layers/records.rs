//! Records in files: burn's layers and the sparse layers load each other's records, as named MessagePack and as
//! safetensors.

use burn::{
    module::Module,
    nn::{attention::CrossAttentionConfig, transformer::TransformerEncoderConfig},
    record::{FullPrecisionSettings, NamedMpkFileRecorder},
    tensor::Tensor,
};
use serde_json::json;
use sparse_attention_hub::nn::{
    MhaInput, SparseCrossAttentionConfig, SparseMultiHeadAttentionConfig, SparseTransformerEncoderConfig,
};

use crate::{
    common::{Sizes, hash},
    layers::support::{
        B, D_MODEL, HEADS, SINK_LOCAL, assert_same, configs, made, method, parameters, scratch, sequence,
    },
};

fn recorder() -> NamedMpkFileRecorder<FullPrecisionSettings> {
    NamedMpkFileRecorder::new()
}

/// A chain with learned signatures that fit the layer.
fn learned() -> String {
    let scorer = hash(&Sizes::new(1, HEADS, HEADS, 1, 1, D_MODEL / HEADS));
    json!([{"type": "sink", "sink_size": 1}, {"type": "top_k", "heavy_size": 3, "scorer": scorer}]).to_string()
}

/// The same signatures in both phases.
fn learned_in_phases() -> String {
    format!(r#"{{"prefill": {0}, "decode": {0}, "layers": {{"9": {0}}}}}"#, learned())
}

#[test]
fn named_records_of_attention_load_both_ways() {
    let device = Default::default();
    let (config, burn_config) = configs();
    let sparse = config.with_maskers(method(SINK_LOCAL));
    let (dense, path) = (made::<B, _>(burn_config.init::<B>(&device)), scratch("burn-mha"));
    dense.clone().save_file(path.clone(), &recorder()).unwrap();
    let loaded = sparse.init::<B>(&device).load_file(path, &recorder(), &device).unwrap();
    assert_eq!(parameters::<B, _>(&loaded), parameters::<B, _>(&dense));
    assert_eq!(loaded.maskers.0.maskers().len(), 2, "the method stays");

    let (ours, path) = (made::<B, _>(sparse.init::<B>(&device)), scratch("sparse-mha"));
    ours.clone().save_file(path.clone(), &recorder()).unwrap();
    let loaded = burn_config.init::<B>(&device).load_file(path, &recorder(), &device).unwrap();
    assert_eq!(parameters::<B, _>(&loaded), parameters::<B, _>(&ours));
}

#[test]
fn named_records_of_encoders_load_both_ways() {
    let device = Default::default();
    let burn_config = TransformerEncoderConfig::new(D_MODEL, 64, HEADS, 3).with_dropout(0.0);
    let config = SparseTransformerEncoderConfig::new(D_MODEL, 64, HEADS, 3).with_maskers(method(SINK_LOCAL));
    let (dense, path) = (made::<B, _>(burn_config.init::<B>(&device)), scratch("burn-encoder"));
    dense.clone().save_file(path.clone(), &recorder()).unwrap();
    let loaded = config.init::<B>(&device).load_file(path, &recorder(), &device).unwrap();
    assert_eq!(parameters::<B, _>(&loaded), parameters::<B, _>(&dense));

    let (ours, path) = (made::<B, _>(config.init::<B>(&device)), scratch("sparse-encoder"));
    ours.clone().save_file(path.clone(), &recorder()).unwrap();
    let loaded = burn_config.init::<B>(&device).load_file(path, &recorder(), &device).unwrap();
    assert_eq!(parameters::<B, _>(&loaded), parameters::<B, _>(&ours));
}

#[test]
fn named_records_of_cross_attention_load_both_ways() {
    let device = Default::default();
    let burn_config = CrossAttentionConfig::new(D_MODEL, 20, HEADS, 2, 5);
    let config = SparseCrossAttentionConfig::new(D_MODEL, 20, HEADS, 2, 5);
    let (dense, path) = (made::<B, _>(burn_config.init::<B>(&device)), scratch("burn-cross"));
    dense.clone().save_file(path.clone(), &recorder()).unwrap();
    let loaded = config.init::<B>(&device).load_file(path, &recorder(), &device).unwrap();
    assert_eq!(parameters::<B, _>(&loaded), parameters::<B, _>(&dense));

    let (ours, path) = (made::<B, _>(config.init::<B>(&device)), scratch("sparse-cross"));
    ours.clone().save_file(path.clone(), &recorder()).unwrap();
    let loaded = burn_config.init::<B>(&device).load_file(path, &recorder(), &device).unwrap();
    assert_eq!(parameters::<B, _>(&loaded), parameters::<B, _>(&ours));
}

/// The record of a layer contains the learned weights of its method. Loading a record without them does not change
/// them.
#[test]
fn named_records_carry_what_a_method_has_learned() {
    carry_what_a_method_has_learned(&learned());
}

/// The same for the maskers of both phases.
#[test]
fn named_records_carry_what_a_method_with_phases_has_learned() {
    carry_what_a_method_has_learned(&learned_in_phases());
}

fn carry_what_a_method_has_learned(learned: &str) {
    let device = Default::default();
    let config = configs().0.with_maskers(method(learned));
    let mut ours = made::<B, _>(config.init::<B>(&device));
    let path = scratch(&format!("learned-{}", learned.len()));
    // The weights differ from those of the method's file.
    ours.maskers = ours.maskers.map(&mut Doubled);
    ours.clone().save_file(path.clone(), &recorder()).unwrap();
    let loaded = config.init::<B>(&device).load_file(path, &recorder(), &device).unwrap();
    assert_eq!(parameters::<B, _>(&loaded), parameters::<B, _>(&ours));
    let x = sequence::<B>([2, 21, D_MODEL], 1);
    let forward = |layer: &sparse_attention_hub::nn::SparseMultiHeadAttention<B>| {
        layer.forward(MhaInput::self_attn(x.clone())).context
    };
    assert_same(&forward(&loaded), &forward(&ours), "loaded");

    let (dense, path) = (configs().1.init::<B>(&device), scratch(&format!("burn-for-learned-{}", learned.len())));
    dense.save_file(path.clone(), &recorder()).unwrap();
    let learned = parameters::<B, _>(&loaded.maskers);
    let loaded = loaded.load_file(path, &recorder(), &device).unwrap();
    assert!(!learned.is_empty());
    assert_eq!(parameters::<B, _>(&loaded.maskers), learned);
}

/// Loading a record of another chain, or of the same maskers in another order, is an error. The error names both
/// chains.
#[test]
fn records_of_other_chains_are_refused() {
    let device = Default::default();
    let scorer = hash(&Sizes::new(1, HEADS, HEADS, 1, 1, D_MODEL / HEADS));
    let sink = json!({"type": "sink", "sink_size": 1});
    let top_k = |scorer: &serde_json::Value| json!({"type": "top_k", "heavy_size": 3, "scorer": scorer});
    let chains = [
        (json!([sink, top_k(&scorer)]), "[sink, top_k over hash (layers of 2 and 2 matrices)]"),
        (json!([top_k(&scorer), sink]), "[top_k over hash (layers of 2 and 2 matrices), sink]"),
        (json!([sink, top_k(&json!({"type": "oracle"}))]), "[sink, top_k over oracle]"),
        (json!([{"type": "local", "window_size": 3}, top_k(&scorer)]), "[local, top_k over hash"),
        (json!([sink]), "[sink]"),
        (json!([]), "[]"),
        (
            json!([sink, {"type": "top_p", "top_p": 0.5, "scorer": scorer,
                          "candidates": {"heavy_size": 9, "scorer": {"type": "pages", "page_size": 4}}}]),
            "of candidates over pages",
        ),
    ];
    for (from, from_name) in &chains {
        for (to, to_name) in &chains {
            let chain = |json: &serde_json::Value| method(&json.to_string()).init_for_layer::<B>(0, &device).unwrap();
            let result = chain(to).try_load_record(chain(from).into_record());
            match from == to {
                true => assert!(result.is_ok(), "{from}"),
                false => {
                    let error = result.unwrap_err().to_string();
                    assert!(error.contains(from_name) && error.contains(to_name), "{error}");
                }
            }
        }
    }
    // The record of a layer contains the record of the method only if the method has learned weights.
    let attention = |chain: &serde_json::Value| configs().0.with_maskers(method(&chain.to_string())).init::<B>(&device);
    let learned = || attention(&chains[0].0).into_record();
    let other = || attention(&chains[1].0);
    assert!(other().try_load_record(learned()).unwrap_err().to_string().contains("[sink, top_k over hash"));
    assert!(attention(&chains[0].0).try_load_record(learned()).is_ok());
    assert!(attention(&chains[0].0).try_load_record(attention(&chains[4].0).into_record()).is_ok());
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| other().load_record(learned())));
    let message = *panic.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("and not of the chain [top_k over hash"), "{message}");
    let encoder = |layers, chain: &serde_json::Value| {
        let maskers = method(&chain.to_string());
        SparseTransformerEncoderConfig::new(D_MODEL, 64, HEADS, layers).with_maskers(maskers).init::<B>(&device)
    };
    let error = encoder(1, &chains[0].0).try_load_record(encoder(2, &chains[0].0).into_record()).unwrap_err();
    assert_eq!(error.to_string(), "the record has 2 layers, and the model has 1");
    assert!(encoder(2, &chains[1].0).try_load_record(encoder(2, &chains[0].0).into_record()).is_err());
}

struct Doubled;

impl<B: burn::tensor::backend::Backend> burn::module::ModuleMapper<B> for Doubled {
    fn map_float<const D: usize>(
        &mut self,
        param: burn::module::Param<Tensor<B, D>>,
    ) -> burn::module::Param<Tensor<B, D>> {
        param.map(|tensor| tensor * 2.0)
    }
}

/// A configuration is saved to a file together with its method.
#[test]
fn configurations_are_saved_with_their_method() {
    use burn::config::Config;
    let config = configs().0.with_maskers(method(SINK_LOCAL)).with_n_heads_kv(Some(2));
    let path = scratch("config.json");
    config.save(&path).unwrap();
    let loaded = SparseMultiHeadAttentionConfig::load(&path).unwrap();
    assert_eq!(loaded.maskers, config.maskers);
    assert_eq!(loaded.n_heads_kv, Some(2));
}

#[cfg(feature = "hf")]
mod safetensors {
    use burn::nn::attention::MultiHeadAttention;
    use burn_store::{ModuleSnapshot, SafetensorsStore};
    use sparse_attention_hub::nn::SparseMultiHeadAttention;

    use super::*;

    fn store(name: &str) -> SafetensorsStore {
        SafetensorsStore::from_file(scratch(name)).overwrite(true)
    }

    #[test]
    fn attention_loads_both_ways() {
        let device = Default::default();
        let (config, burn_config) = configs();
        let config = config.with_maskers(method(SINK_LOCAL));
        let dense: MultiHeadAttention<B> = made::<B, _>(burn_config.init(&device));
        dense.save_into(&mut store("burn-mha.safetensors")).unwrap();
        let mut ours: SparseMultiHeadAttention<B> = config.init(&device);
        let result = ours.load_from(&mut store("burn-mha.safetensors")).unwrap();
        assert!(result.missing.is_empty() && result.unused.is_empty(), "{result:?}");
        assert_eq!(parameters::<B, _>(&ours), parameters::<B, _>(&dense));

        let ours: SparseMultiHeadAttention<B> = config.init(&device);
        ours.save_into(&mut store("sparse-mha.safetensors")).unwrap();
        let mut dense: MultiHeadAttention<B> = burn_config.init(&device);
        let result = dense.load_from(&mut store("sparse-mha.safetensors")).unwrap();
        assert!(result.missing.is_empty() && result.unused.is_empty(), "{result:?}");
        assert_eq!(parameters::<B, _>(&ours), parameters::<B, _>(&dense));
    }

    #[test]
    fn encoders_load_both_ways() {
        let device = Default::default();
        let burn_config = TransformerEncoderConfig::new(D_MODEL, 64, HEADS, 2);
        let config = SparseTransformerEncoderConfig::new(D_MODEL, 64, HEADS, 2).with_maskers(method(SINK_LOCAL));
        let dense = burn_config.init::<B>(&device);
        dense.save_into(&mut store("burn-encoder.safetensors")).unwrap();
        let mut ours = config.init::<B>(&device);
        let result = ours.load_from(&mut store("burn-encoder.safetensors")).unwrap();
        assert!(result.missing.is_empty() && result.unused.is_empty(), "{result:?}");
        assert_eq!(parameters::<B, _>(&ours), parameters::<B, _>(&dense));

        let ours = config.init::<B>(&device);
        ours.save_into(&mut store("sparse-encoder.safetensors")).unwrap();
        let mut dense = burn_config.init::<B>(&device);
        let result = dense.load_from(&mut store("sparse-encoder.safetensors")).unwrap();
        assert!(result.missing.is_empty() && result.unused.is_empty(), "{result:?}");
        assert_eq!(parameters::<B, _>(&ours), parameters::<B, _>(&dense));
    }

    #[test]
    fn what_a_method_has_learned_is_in_the_file() {
        let device = Default::default();
        for (learned, file) in [(learned(), "learned.safetensors"), (learned_in_phases(), "phases.safetensors")] {
            let config = configs().0.with_maskers(method(&learned));
            let mut ours = config.init::<B>(&device);
            ours.maskers = ours.maskers.map(&mut Doubled);
            ours.save_into(&mut store(file)).unwrap();
            let mut loaded = config.init::<B>(&device);
            loaded.load_from(&mut store(file)).unwrap();
            assert_eq!(parameters::<B, _>(&loaded), parameters::<B, _>(&ours));
        }
    }
}
