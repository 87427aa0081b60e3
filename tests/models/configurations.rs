//! Reading configuration files.

use serde_json::{Value, json};
use sparse_attention_hub::{
    models::{Architecture, GateActivation, LanguageModelConfig, ModelError},
    nn::{RotaryEncodingConfig, RotaryScaling},
};

/// The configuration of an architecture, with some additional fields.
fn config(architecture: &str, fields: Value) -> Result<LanguageModelConfig, ModelError> {
    let mut config = json!({
        "architectures": [architecture], "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "use_cache": true, "_name_or_path": "x",
    });
    for (field, value) in fields.as_object().into_iter().flatten() {
        config[field] = value.clone();
    }
    LanguageModelConfig::from_json("config.json", &config.to_string())
}

fn good(architecture: &str, fields: Value) -> LanguageModelConfig {
    config(architecture, fields).unwrap_or_else(|error| panic!("{architecture}: {error}"))
}

#[test]
fn both_spellings_of_rotary_positions_are_one() {
    let llama3 =
        json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let with = |extra: Value| {
        let mut all = llama3.clone();
        for (field, value) in extra.as_object().into_iter().flatten() {
            all[field] = value.clone();
        }
        all
    };
    let older =
        good("LlamaForCausalLM", json!({"rope_theta": 5e5, "rope_scaling": with(json!({"rope_type": "llama3"}))}));
    let oldest = good("LlamaForCausalLM", json!({"rope_theta": 5e5, "rope_scaling": with(json!({"type": "llama3"}))}));
    let newer = json!({"rope_parameters": with(json!({"rope_type": "llama3", "rope_theta": 5e5}))});
    let newer = good("LlamaForCausalLM", newer);
    assert_eq!((&older, &oldest), (&newer, &newer));
    assert!(matches!(newer.rotary.scaling, Some(RotaryScaling::Llama3 { factor: 8.0, .. })));
    assert_eq!(newer.rotary.theta, 5e5);

    let plain = RotaryEncodingConfig::new().with_theta(2e4).with_max_position_embeddings(Some(512));
    for fields in [
        json!({"rope_theta": 2e4, "rope_scaling": null}),
        json!({"rope_theta": 2e4}),
        json!({"rope_parameters": {"rope_theta": 2e4, "rope_type": "default"}}),
    ] {
        let rotary = good("LlamaForCausalLM", fields).rotary;
        let stretched = rotary.scaling.as_ref().filter(|scaling| **scaling != RotaryScaling::Default);
        assert_eq!((rotary.theta, stretched), (plain.theta, None));
    }
    // If the file does not give the longest sequence in training, it is the longest sequence of the model.
    let dynamic = good("LlamaForCausalLM", json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}));
    let wanted = RotaryScaling::Dynamic { factor: 2.0, original_max_position_embeddings: None };
    assert_eq!(dynamic.rotary.max_position_embeddings, Some(512));
    assert_eq!(dynamic.rotary.scaling, Some(wanted));
}

#[test]
fn each_architecture_has_its_options() {
    let llama = good("LlamaForCausalLM", json!({"attention_bias": true, "mlp_bias": true}));
    assert!(llama.attention_bias && llama.attention_output_bias && llama.feed_forward_bias);
    assert_eq!((llama.head_dim, llama.windows.as_slice()), (16, &[None; 4][..]));

    let mistral = good("MistralForCausalLM", json!({"sliding_window": 7}));
    assert_eq!(mistral.windows, [Some(7); 4]);
    assert_eq!(good("MistralForCausalLM", json!({"sliding_window": null})).windows, [None; 4]);

    let qwen2 = json!({"use_sliding_window": true, "sliding_window": 9, "max_window_layers": 3});
    let qwen2 = good("Qwen2ForCausalLM", qwen2);
    assert_eq!(qwen2.windows, [None, None, None, Some(9)]);
    assert!(qwen2.attention_bias && !qwen2.attention_output_bias);
    let off = json!({"use_sliding_window": false, "sliding_window": 9, "max_window_layers": 0});
    assert_eq!(good("Qwen2ForCausalLM", off).windows, [None; 4]);

    let qwen3 = good("Qwen3ForCausalLM", json!({}));
    assert!(qwen3.query_key_norm && !qwen3.attention_bias);
    assert_eq!(qwen3.head_dim, 128);

    let gemma = json!({"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 64,
                       "sliding_window": 5, "attn_logit_softcapping": 20.0, "final_logit_softcapping": null});
    let gemma = good("Gemma2ForCausalLM", gemma);
    assert_eq!(gemma.architecture, Architecture::Gemma2);
    assert_eq!(gemma.windows, [Some(5), None, Some(5), None]);
    assert_eq!((gemma.attention_softcap, gemma.final_softcap), (Some(20.0), None));
    assert_eq!((gemma.attention_scale, gemma.activation), (Some(0.125), GateActivation::GeluTanh));
    assert!(gemma.tied_embeddings);
    let types = json!({"sliding_window": 5, "layer_types": ["full_attention", "full_attention", "sliding_attention", "full_attention"]});
    assert_eq!(good("Gemma2ForCausalLM", types).windows, [None, None, Some(5), None]);
}

#[test]
fn end_tokens_are_one_or_several() {
    assert_eq!(good("LlamaForCausalLM", json!({"eos_token_id": 7})).end_tokens, [7]);
    assert_eq!(good("LlamaForCausalLM", json!({"eos_token_id": [7, 9]})).end_tokens, [7, 9]);
    assert!(good("LlamaForCausalLM", json!({"eos_token_id": null})).end_tokens.is_empty());
}

#[test]
fn unsupported_fields_are_refused_by_name() {
    for name in ["GptOssForCausalLM", "MixtralForCausalLM"] {
        let error = config(name, json!({})).unwrap_err();
        assert!(matches!(&error, ModelError::Architecture { found, .. } if found == name), "{error}");
        assert!(error.to_string().contains("LlamaForCausalLM"), "{error}");
    }
    for (architecture, field, value) in [
        ("LlamaForCausalLM", "quantization_config", json!({"bits": 4})),
        ("LlamaForCausalLM", "hidden_act", json!("relu")),
        ("LlamaForCausalLM", "sliding_window", json!(7)),
        ("LlamaForCausalLM", "rms_norm_eps", json!(-1.0)),
        ("LlamaForCausalLM", "tie_word_embeddings", json!("yes")),
        ("LlamaForCausalLM", "layer_types", json!(["full_attention"])),
        ("LlamaForCausalLM", "layer_types", json!(vec!["sliding_attention"; 4])),
        ("Qwen2ForCausalLM", "attention_bias", json!(true)),
        ("LlamaForCausalLM", "eos_token_id", json!([1, -2])),
    ] {
        let error = config(architecture, json!({field: value})).unwrap_err();
        assert!(matches!(&error, ModelError::Field { field: found, .. } if found == field), "{field}: {error}");
    }
    let error = config("LlamaForCausalLM", json!({"logit_scale": 0.5, "num_experts": 4, "other": null})).unwrap_err();
    assert!(matches!(error, ModelError::UnknownFields { .. }));
    let text = error.to_string();
    assert!(
        text.contains("`logit_scale`: 0.5") && text.contains("`num_experts`: 4") && !text.contains("other"),
        "{text}"
    );
    for scaling in [
        json!({"rope_type": "unheard_of", "factor": 2.0}),
        json!({"rope_type": "linear"}),
        json!({"rope_type": "linear", "factor": 2.0, "surprise": 3}),
    ] {
        let error = config("LlamaForCausalLM", json!({"rope_scaling": scaling})).unwrap_err().to_string();
        assert!(error.contains("rope_scaling.rope_type"), "{error}");
    }
}
