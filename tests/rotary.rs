//! Rotary encoding against numbers that were computed independently.

mod common;

use burn::tensor::backend::Backend;
use common::*;
use sparse_attention_hub::{
    masker::ConfigError,
    nn::{RopeParameters, RotaryEncoding, RotaryEncodingConfig, RotaryScaling},
};

on_each_backend!(
    halves_rotate_together,
    chunks_continue_the_positions,
    a_partial_factor_leaves_channels_unrotated,
    products_depend_on_the_distance,
    llama_3_stretches_long_wavelengths,
    yarn_stretches_by_channel,
    linear_and_dynamic_scaling,
    yarn_lengthens_by_the_ratio_of_two_scales,
    long_rope_has_two_lists,
);

fn config(theta: f64) -> RotaryEncodingConfig {
    RotaryEncodingConfig::new().with_theta(theta)
}

fn halves_rotate_together<B: Backend>() {
    let rotary = config(10_000.0).init(4).unwrap();
    let found = rotary.forward(tensor::<B>(&[1.0, 2.0, 3.0, 4.0], [1, 1, 1, 4]), 3);
    let ((sin, cos), (slow_sin, slow_cos)) = (3f64.sin_cos(), 0.03f64.sin_cos());
    let wanted = [cos - 3.0 * sin, 2.0 * slow_cos - 4.0 * slow_sin, 3.0 * cos + sin, 4.0 * slow_cos + 2.0 * slow_sin];
    assert_close(&host(&found), &wanted, 1e-7, "rotated");
}

fn chunks_continue_the_positions<B: Backend>() {
    let rotary = config(500.0).init(6).unwrap();
    let heads = tensor::<B>(&normal(&mut generator(1), 2 * 3 * 9 * 6), [2, 3, 9, 6]);
    let whole = rotary.forward(heads.clone(), 7);
    for (start, end) in [(0, 1), (1, 6), (8, 9)] {
        let part = rotary.forward(heads.clone().slice_dim(2, start..end), 7 + start);
        assert_eq!(host(&part), host(&whole.clone().slice_dim(2, start..end)));
    }
    assert_eq!(host(&rotary.forward(heads.clone().slice_dim(2, 0..1), 0)), host(&heads.slice_dim(2, 0..1)));
}

fn a_partial_factor_leaves_channels_unrotated<B: Backend>() {
    let heads = tensor::<B>(&normal(&mut generator(1), 20), [1, 1, 2, 10]);
    let partial = config(10_000.0).with_partial_factor(0.6).init(10).unwrap().forward(heads.clone(), 5);
    assert_eq!(host(&partial.clone().slice_dim(3, 6..10)), host(&heads.clone().slice_dim(3, 6..10)));
    let alone = config(10_000.0).init(6).unwrap().forward(heads.slice_dim(3, 0..6), 5);
    assert_eq!(host(&partial.slice_dim(3, 0..6)), host(&alone));
}

fn products_depend_on_the_distance<B: Backend>() {
    let rotary = config(10_000.0).init(60).unwrap();
    let vector = |seed| tensor::<B>(&normal(&mut generator(seed), 60), [1, 1, 1, 60]);
    let product = |query, key| {
        let (query, key) = (rotary.forward(vector(1), query), rotary.forward(vector(2), key));
        host(&(query * key).sum_dim(3))[0]
    };
    assert_close(&[product(1000, 990)], &[f64::from(product(10, 0))], 1e-4, "distance 10");
    assert!((product(10, 0) - product(11, 0)).abs() > 0.1);
}

/// The frequencies and the length of an encoding, measured on vectors (1, 0) that are rotated to a position.
fn frequencies<B: Backend>(rotary: &RotaryEncoding, pairs: usize, position: usize) -> (Vec<f64>, f64) {
    let unit = [vec![1.0; pairs], vec![0.0; pairs]].concat();
    let turned = host(&rotary.forward(tensor::<B>(&unit, [1, 1, 1, 2 * pairs]), position));
    let (cosines, sines) = turned.split_at(pairs);
    let angle = |(&cosine, &sine): (&f32, &f32)| f64::from(sine).atan2(f64::from(cosine)) / position as f64;
    let length = f64::from(cosines[0]).hypot(f64::from(sines[0]));
    (cosines.iter().zip(sines).map(angle).collect(), length)
}

#[track_caller]
fn check(found: &[f64], wanted: &[(usize, f64)]) {
    for &(pair, wanted) in wanted {
        assert!((found[pair] / wanted - 1.0).abs() < 4e-7, "pair {pair}: {}, not {wanted}", found[pair]);
    }
}

/// The frequencies of Llama 3.2 1B, from the formula with its three cases.
fn llama_3_stretches_long_wavelengths<B: Backend>() {
    let scaling = r#"{"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                      "original_max_position_embeddings": 8192, "rope_type": "llama3"}"#;
    let scaling = serde_json::from_str::<RotaryScaling>(scaling).unwrap();
    let rotary = config(500_000.0).with_scaling(Some(scaling)).init(64).unwrap();
    let (found, length) = frequencies::<B>(&rotary, 32, 1);
    let wanted = [
        (0, 1.0),
        (5, 0.12868737343265052),
        (14, 0.0032114459947525913),
        (15, 0.001290547928209264),
        (16, 0.0004295567965593582),
        (17, 9.70828780262767e-05),
        (18, 1.9461638184831125e-05),
        (19, 1.291476718704739e-05),
        (20, 8.570255489881478e-06),
        (31, 9.418306725434909e-08),
    ];
    check(&found, &wanted);
    assert!((length - 1.0).abs() < 1e-6);
}

/// The frequencies of GPT-OSS, and of Qwen with its factor of 4.
fn yarn_stretches_by_channel<B: Backend>() {
    let scaling = r#"{"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
                      "rope_type": "yarn", "truncate": false}"#;
    let scaling = serde_json::from_str::<RotaryScaling>(scaling).unwrap();
    let rotary = config(150_000.0).with_scaling(Some(scaling)).init(64).unwrap();
    let (found, length) = frequencies::<B>(&rotary, 32, 1);
    let wanted = [
        (0, 1.0),
        (7, 0.07374456821026082),
        (8, 0.050813274815461475),
        (10, 0.019335001126540362),
        (14, 0.0020937923789696887),
        (17, 0.00012931870124506317),
        (18, 3.8308812373753384e-05),
        (31, 3.0235114281192144e-07),
    ];
    check(&found, &wanted);
    assert!((length - 1.3465735902799727).abs() < 1e-6, "{length}");
    let scaling = r#"{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}"#;
    let scaling = serde_json::from_str::<RotaryScaling>(scaling).unwrap();
    let rotary = config(1_000_000.0).with_scaling(Some(scaling)).init(128).unwrap();
    let (found, length) = frequencies::<B>(&rotary, 64, 1);
    let wanted = [
        (22, 0.008659643233600653),
        (23, 0.006978305848598663),
        (30, 0.0010643609812470017),
        (40, 4.445698525097307e-05),
        (41, 3.582531425592407e-05),
        (63, 3.102344401879299e-07),
    ];
    check(&found, &wanted);
    assert!((length - 1.138629436111989).abs() < 1e-6, "{length}");
}

fn linear_and_dynamic_scaling<B: Backend>() {
    let linear = config(10_000.0).with_scaling(Some(RotaryScaling::Linear { factor: 4.0 })).init(8).unwrap();
    let plain = config(10_000.0).init(8).unwrap();
    let heads = tensor::<B>(&normal(&mut generator(1), 8), [1, 1, 1, 8]);
    assert_eq!(host(&linear.forward(heads.clone(), 12)), host(&plain.forward(heads.clone(), 3)));
    let scaling = RotaryScaling::Dynamic { factor: 2.0, original_max_position_embeddings: Some(16) };
    let dynamic = config(10_000.0).with_scaling(Some(scaling)).init(8).unwrap();
    assert_eq!(host(&dynamic.forward(heads.clone(), 15)), host(&plain.forward(heads, 15)));
    // The second position in a sequence of 40.
    let unit = [[1.0; 4], [0.0; 4]].concat().repeat(39);
    let turned = dynamic.forward(tensor::<B>(&unit, [1, 1, 39, 8]), 1).slice_dim(2, 0..1);
    let angles = host(&turned)[4..].iter().map(|&sine| f64::from(sine).asin()).collect::<Vec<_>>();
    check(&angles, &[(1, 0.06299605249474366), (2, 0.003968502629920499), (3, 0.00025)]);
}

fn read(table: &str) -> RotaryEncodingConfig {
    RotaryEncodingConfig::new().with_rope_parameters(RopeParameters::from_json(table).unwrap()).unwrap()
}

/// The factor of cosines and sines. The first case is that of DeepSeek-V2.
fn yarn_lengthens_by_the_ratio_of_two_scales<B: Backend>() {
    let scale = |mscale: f64, factor: f64| 0.1 * mscale * factor.ln() + 1.0;
    let cases = [
        (r#""factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707"#, 1.0),
        (r#""factor": 8.0, "mscale": 1.0, "mscale_all_dim": 0.5"#, 1.207_944_2 / 1.103_972_1),
        (r#""factor": 8.0, "mscale": 0.5"#, scale(0.5, 8.0)),
        (r#""factor": 8.0, "mscale_all_dim": 0.5"#, scale(1.0, 8.0) / scale(0.5, 8.0)),
        (r#""factor": 8.0, "mscale": null"#, scale(1.0, 8.0)),
        (r#""factor": 8.0, "attention_factor": 0.9"#, 0.9),
        (r#""factor": 1.0, "mscale": 0.7"#, 1.0),
    ];
    for (fields, wanted) in cases {
        let table = format!(r#"{{"rope_type": "yarn", "original_max_position_embeddings": 4096, {fields}}}"#);
        let (_, length) = frequencies::<B>(&read(&table).init(64).unwrap(), 32, 1);
        assert!((length - wanted).abs() < 1e-6, "{table}: {length}, not {wanted}");
    }
}

/// One list of factors is for short sequences and the other for long ones. The lengths are those of Phi-3.
fn long_rope_has_two_lists<B: Backend>() {
    let table = r#"{"type": "longrope", "short_factor": [1.0, 1.25], "long_factor": [2.0, 64.0]}"#;
    let mut config = read(table);
    (config.max_position_embeddings, config.original_max_position_embeddings) = (Some(131_072), Some(4096));
    let rotary = config.init(4).unwrap();
    let (found, length) = frequencies::<B>(&rotary, 2, 1);
    check(&found, &[(0, 1.0), (1, 0.01 / 1.25)]);
    assert!((length - 1.190_238_1).abs() < 1e-6, "{length}");
    let unit = [1.0, 1.0, 0.0, 0.0];
    let angles = |position: usize| {
        let turned = host(&rotary.forward(tensor::<B>(&unit, [1, 1, 1, 4]), position));
        [0, 1].map(|pair| f64::from(turned[pair + 2]).atan2(f64::from(turned[pair])))
    };
    let turn = |angle: f64| angle.sin().atan2(angle.cos());
    // The last position of a sequence of 4096, and the first position beyond it.
    for (position, factors) in [(4095, [1.0, 1.25]), (4096, [2.0, 64.0])] {
        for (found, wanted) in angles(position).iter().zip([1.0 / factors[0], 0.01 / factors[1]]) {
            let wanted = turn(f64::from(position as f32 * wanted as f32));
            assert!((found - wanted).abs() < 1e-6, "position {position}: {found}, not {wanted}");
        }
    }
}

#[cfg(feature = "flex")]
#[test]
fn halves_of_other_types_are_rotated_in_f32() {
    let rotary = config(10_000.0).init(4).unwrap();
    let heads = tensor::<burn_flex::Flex>(&[1.0, 2.0, 3.0, 4.0], [1, 1, 1, 4]);
    let half = rotary.forward(heads.clone().cast(burn::tensor::DType::F16), 3);
    assert_eq!(half.dtype(), burn::tensor::DType::F16);
    let wanted = host(&rotary.forward(heads, 3)).into_iter().map(f64::from).collect::<Vec<_>>();
    assert_close(&host(&half), &wanted, 5e-4, "f16");
}

#[test]
fn invalid_values_name_the_field() {
    let field = |config: RotaryEncodingConfig, head_dim| match config.init(head_dim) {
        Err(ConfigError::Value { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(config(1.0), 4), "theta");
    assert_eq!(field(config(f64::NAN), 4), "theta");
    assert_eq!(field(config(2.0).with_partial_factor(0.0), 4), "partial_factor");
    assert_eq!(field(config(2.0).with_partial_factor(1.5), 4), "partial_factor");
    assert_eq!(field(config(2.0), 0), "head_dim");
    assert_eq!(field(config(2.0), 5), "head_dim");
    assert_eq!(field(config(2.0).with_partial_factor(0.25), 4), "head_dim");
    let scaled = |text: &str| field(config(2.0).with_scaling(Some(serde_json::from_str(text).unwrap())), 4);
    assert_eq!(scaled(r#"{"rope_type": "linear", "factor": 0.5}"#), "factor");
    let llama = |factors: &str| {
        scaled(&format!(
            r#"{{"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 8, {factors}}}"#
        ))
    };
    assert_eq!(llama(r#""low_freq_factor": 0.0, "high_freq_factor": 4.0"#), "low_freq_factor");
    assert_eq!(llama(r#""low_freq_factor": 4.0, "high_freq_factor": 4.0"#), "high_freq_factor");
    let yarn = |rest: &str| scaled(&format!(r#"{{"rope_type": "yarn", "factor": 2.0, {rest}}}"#));
    assert_eq!(yarn(r#""original_max_position_embeddings": 8, "beta_slow": 0.0"#), "beta_slow");
    assert_eq!(yarn(r#""original_max_position_embeddings": 8, "beta_slow": 64.0"#), "beta_fast");
    assert_eq!(yarn(r#""original_max_position_embeddings": 8, "attention_factor": 0.0"#), "attention_factor");
}

#[test]
fn tables_are_read_as_models_write_them() {
    let scaling = |table: &str| serde_json::from_str::<RotaryScaling>(table).unwrap();
    assert_eq!(scaling(r#"{"type": "linear", "factor": 2.0}"#), RotaryScaling::Linear { factor: 2.0 });
    assert_eq!(
        scaling(r#"{"type": "linear", "rope_type": "linear", "factor": 2}"#),
        RotaryScaling::Linear { factor: 2.0 }
    );
    assert_eq!(scaling(r#"{"rope_type": "default"}"#), RotaryScaling::Default);
    let dynamic = scaling(r#"{"rope_type": "dynamic", "factor": 2.0}"#);
    assert_eq!(dynamic, RotaryScaling::Dynamic { factor: 2.0, original_max_position_embeddings: None });
    let table = r#"{"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 32768.0}"#;
    let with_length = RotaryScaling::Dynamic { factor: 2.0, original_max_position_embeddings: Some(32_768) };
    assert_eq!(scaling(table), with_length);
    // The length of the model is used if the table has none.
    let config = config(10_000.0).with_scaling(Some(dynamic)).with_max_position_embeddings(Some(32_768));
    let of_table = RotaryEncodingConfig::new().with_scaling(Some(with_length));
    let turned = |config: &RotaryEncodingConfig| {
        let heads = tensor::<OnHost>(&normal(&mut generator(1), 8), [1, 1, 1, 8]);
        host(&config.init(8).unwrap().forward(heads, 40_000))
    };
    assert_eq!(turned(&config), turned(&of_table));
    let su = scaling(
        r#"{"type": "su", "short_factor": [1.0], "long_factor": [2.0], "original_max_position_embeddings": 9}"#,
    );
    assert!(matches!(su, RotaryScaling::LongRope { .. }));
    let whole = read(r#"{"rope_type": "default", "rope_theta": 1000000, "partial_rotary_factor": 0.5}"#);
    assert_eq!((whole.theta, whole.partial_factor), (1_000_000.0, 0.5));
    // A written table can be read again.
    for scaling in [
        RotaryScaling::Default,
        RotaryScaling::Linear { factor: 2.5 },
        scaling(r#"{"rope_type": "yarn", "factor": 2.0, "mscale": 0.5, "truncate": false}"#),
        su,
    ] {
        assert_eq!(serde_json::from_str::<RotaryScaling>(&serde_json::to_string(&scaling).unwrap()).unwrap(), scaling);
    }
    let saved = serde_json::to_string(&whole).unwrap();
    assert_eq!(serde_json::from_str::<RotaryEncodingConfig>(&saved).unwrap(), whole);
}

/// Unknown, missing and contradictory fields are errors.
#[test]
fn unsupported_tables_are_refused() {
    let error = |table: &str| RopeParameters::from_json(table).unwrap_err().to_string();
    let cases = [
        (r#"{"rope_type": "yarn", "factor": 2.0, "attn_factor": 1.0}"#, "attn_factor"),
        (
            r#"{"rope_type": "linear", "factor": 2.0, "beta_fast": 32.0}"#,
            "`beta_fast` is unknown to the `rope_type` \"linear\"",
        ),
        (r#"{"rope_type": "llama3", "factor": 2.0, "high_freq_factor": 4.0}"#, "`low_freq_factor` is missing"),
        (r#"{"rope_type": "linear"}"#, "`factor` is missing"),
        (r#"{"factor": 2.0}"#, "`rope_type` is missing"),
        (r#"{"rope_type": "yarrn", "factor": 2.0}"#, "known are default, linear, dynamic, llama3, yarn, longrope"),
        (r#"{"rope_type": "yarn", "type": "linear", "factor": 2.0}"#, "both must be the same"),
        (r#"{"rope_type": "linear", "rope_type": "linear", "factor": 2.0}"#, "duplicate field"),
        (r#"{"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4096.5}"#, "whole number"),
        (r#"{"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0}"#, "at least 1"),
        (r#"{"rope_type": "yarn", "factor": "2"}"#, "factor"),
        (r#"{"rope_type": "linear", "factor": 2.0} x"#, "trailing"),
        (r#"["linear"]"#, "\"rope_parameters\": "),
    ];
    for (table, part) in cases {
        assert!(error(table).contains(part), "{table}: {}", error(table));
    }
    let elsewhere = serde_json::from_str::<RotaryScaling>(r#"{"rope_type": "default", "rope_theta": 5.0}"#);
    assert!(elsewhere.unwrap_err().to_string().contains("`rope_theta`"));
    let table = RopeParameters::from_json(r#"{"rope_type": "default", "rope_theta": 5.0}"#).unwrap();
    assert!(config(6.0).with_rope_parameters(table.clone()).unwrap_err().to_string().contains("`rope_theta` is 6"));
    assert!(config(5.0).with_rope_parameters(table).is_ok());
    let message = |config: RotaryEncodingConfig| config.init(4).unwrap_err().to_string();
    let yarn = |fields: &str| read(&format!(r#"{{"rope_type": "yarn", "factor": 8.0, {fields}}}"#));
    let missing = message(yarn(r#""beta_fast": 32.0"#));
    assert!(missing.contains("`original_max_position_embeddings` is missing"), "{missing}");
    let mut two = yarn(r#""original_max_position_embeddings": 8"#);
    two.original_max_position_embeddings = Some(16);
    assert!(message(two).contains("8 in the scaling and 16 in the model"));
    let both =
        r#""original_max_position_embeddings": 8, "attention_factor": 1.3, "mscale": 1.0, "mscale_all_dim": 1.0"#;
    assert!(message(yarn(both)).contains("`attention_factor` is 1.3"));
    let lists = r#"{"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 2.0], "original_max_position_embeddings": 8}"#;
    assert!(message(read(lists)).contains("`short_factor` is a list of 1 factors"));
}
