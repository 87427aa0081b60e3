//! Native kernels against the reference, which uses generic tensor operations.

mod common;

use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use rand::{RngExt, seq::SliceRandom};
use sparse_attention_hub::{
    attention::{AttentionOutput, reference_attention},
    kernels::native_path,
    mask::{Csr, KeyIndices, Pattern},
    prelude::*,
};

use common::{METHODS, SIZES, Sizes, computes_in, generator, has_kernels, host, inputs, on_each_backend, tensor};

on_each_backend!(
    bands_equal_the_reference,
    lists_equal_the_reference,
    long_rows_in_parts_equal_the_reference,
    rows_shared_by_a_group_equal_the_reference,
    dropped_keys_have_no_influence,
    keys_and_values_may_be_parts_of_a_longer_cache,
    nan_in_a_kept_key_shows,
    weights_and_tensor_visibility_use_the_reference,
    other_number_types;
    host: threads_do_not_matter,
);

/// The tolerance: a few rounding errors, relative to the largest value.
const F32: f32 = 2e-6;

const ALL: Requested = Requested { weights: false, statistics: true };

fn close<B: Backend>(what: &str, found: &Tensor<B, 4>, wanted: &Tensor<B, 4>, tolerance: f32) {
    assert_eq!((found.dims(), found.dtype()), (wanted.dims(), wanted.dtype()), "{what}");
    let (found, wanted) = (host(found), host(wanted));
    let largest = wanted.iter().filter(|x| x.is_finite()).fold(1f32, |most, x| most.max(x.abs()));
    for (at, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        let same = found == wanted || (found.is_nan() && wanted.is_nan());
        assert!(same || (found - wanted).abs() <= tolerance * largest, "{what} at {at}: {found}, not {wanted}");
    }
}

/// Compares the output, and the statistics that do not depend on the choice of the maximum.
fn compare<B: Backend>(what: &str, found: &AttentionOutput<B>, wanted: &AttentionOutput<B>, tolerance: f32) {
    close(&format!("output of {what}"), &found.output, &wanted.output, tolerance);
    let (found, wanted) = (found.statistics.as_ref().unwrap(), wanted.statistics.as_ref().unwrap());
    close(&format!("log-sum-exp of {what}"), &found.log_sum_exp, &wanted.log_sum_exp, tolerance);
    let output = |numerator: &Tensor<B, 4>, denominator: &Tensor<B, 4>| {
        numerator.clone() / denominator.clone().clamp_min(f32::MIN_POSITIVE)
    };
    let quotient = output(&found.numerator, &found.denominator);
    close(&format!("numerator of {what}"), &quotient, &output(&wanted.numerator, &wanted.denominator), tolerance);
}

fn check<B: Backend>(what: &str, inputs: &AttentionInputs<B>, mask: &Mask<B>, tolerance: f32) {
    assert_eq!(native_path::<B>(), has_kernels::<B>());
    let found = masked_attention(inputs, mask, ALL).unwrap();
    let wanted = reference_attention(inputs, mask, ALL).unwrap();
    compare(what, &found, &wanted, tolerance);
}

fn closed_forms<B: Backend>(inputs: &AttentionInputs<B>) -> Vec<AttentionInputs<B>> {
    let Sizes { queries, keys, .. } = sizes_of(inputs);
    let mut offsets = vec![keys - queries.min(keys), 0, 2];
    offsets.dedup();
    let causal = offsets.into_iter().map(|offset| Visibility::Causal { offset });
    [Visibility::Full].into_iter().chain(causal).map(|seen| inputs.clone().with_visibility(seen).unwrap()).collect()
}

fn sizes_of<B: Backend>(inputs: &AttentionInputs<B>) -> Sizes {
    let MaskShape { batch, heads, queries, keys } = inputs.mask_shape();
    Sizes::new(batch, heads, inputs.kv_heads(), queries, keys, inputs.queries().dims()[3])
}

fn bands_equal_the_reference<B: Backend>() {
    let more = [Sizes::new(1, 8, 2, 70, 201, 20), Sizes::new(1, 6, 2, 37, 95, 32), Sizes::new(1, 1, 1, 90, 40, 3)];
    for (seed, sizes) in SIZES.into_iter().chain(more).enumerate() {
        for inputs in closed_forms(&inputs::<B>(sizes, seed as u64)) {
            let (shape, device, keys) = (sizes.mask_shape(), B::Device::default(), sizes.keys);
            let offset = keys as isize - sizes.queries as isize;
            let patterns =
                [(0, 0), (1, 0), (0, 1), (3, 5), (keys / 2, keys / 3), (0, usize::MAX), (33, 40), (keys + 1, 0)];
            for (sink, window) in patterns {
                for offset in [offset, 0, -3] {
                    let mask = Mask::pattern(shape, Pattern { sink, window, offset }, &device);
                    let what = format!("{sizes:?} {:?} sink {sink} window {window} at {offset}", inputs.visibility());
                    check(&what, &inputs, &mask, F32);
                }
            }
            check(&format!("all of {sizes:?}"), &inputs, &Mask::full(shape, &device), F32);
        }
    }
}

/// Rows of keys in any order. Some slots are unused, and some rows have no keys.
fn random_rows<B: Backend>(sizes: Sizes, seed: u64, share: f64, sampled: bool) -> Mask<B> {
    let mut rng = generator(seed);
    let shape = sizes.mask_shape();
    let width = (sizes.keys as f64 * share).ceil() as usize;
    let (mut indices, mut probability) = (Vec::new(), Vec::new());
    for row in 0..shape.rows() {
        let mut keys = (0..sizes.keys as i32).collect::<Vec<_>>();
        keys.shuffle(&mut rng);
        for &key in &keys[..width] {
            let unused = row % 5 == 3 || rng.random::<f32>() < 0.2;
            indices.push(if unused { -1 } else { key });
            let p = if sampled && rng.random::<f32>() < 0.5 { 0.05 + 0.9 * rng.random::<f32>() } else { 1.0 };
            probability.push(if unused { 0.0 } else { p });
        }
    }
    let dims = [shape.batch, shape.heads, shape.queries, width];
    let indices = Tensor::from_data(TensorData::new(indices, dims), &B::Device::default());
    Mask::from_indices(shape, KeyIndices::new(indices, tensor(&probability, dims)).unwrap()).unwrap()
}

fn lists_equal_the_reference<B: Backend>() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        for inputs in closed_forms(&inputs::<B>(sizes, seed as u64)) {
            for (share, sampled) in [(0.1, false), (0.6, true), (1.0, true)] {
                let mask = random_rows::<B>(sizes, seed as u64, share, sampled);
                let what = format!("{sizes:?} {:?} share {share} sampled {sampled}", inputs.visibility());
                check(&what, &inputs, &mask, F32);
            }
        }
    }
}

fn long_rows_in_parts_equal_the_reference<B: Backend>() {
    for (seed, sizes) in [Sizes::new(1, 4, 1, 1, 5003, 60), Sizes::new(1, 3, 3, 2, 4099, 17)].into_iter().enumerate() {
        let inputs = inputs::<B>(sizes, seed as u64);
        let mask = random_rows::<B>(sizes, seed as u64, 0.7, true);
        check(&format!("lists of {sizes:?}"), &inputs, &mask, F32);
        let device = B::Device::default();
        check(&format!("all of {sizes:?}"), &inputs, &Mask::full(sizes.mask_shape(), &device), F32);
        let pattern = Pattern { sink: 700, window: 3001, offset: sizes.keys as isize - 2 };
        check(&format!("a band of {sizes:?}"), &inputs, &Mask::pattern(sizes.mask_shape(), pattern, &device), F32);
    }
}

/// All heads of a GQA group have the rows of the first head, so the kernel reads them once.
fn rows_shared_by_a_group_equal_the_reference<B: Backend>() {
    for group in 1..=8 {
        let sizes = Sizes::new(2, 2 * group, 2, 3, 111, 60);
        let inputs = inputs::<B>(sizes, 5);
        let kv = random_rows::<B>(Sizes { heads: 2, ..sizes }, 5, 0.4, true);
        let Csr { indices, ptr, data } = kv.to_csr();
        let mut shared = Csr { indices: Vec::new(), ptr: vec![0], data: Vec::new() };
        for row in 0..sizes.mask_shape().rows() {
            let (head, query) = (row / sizes.queries, row % sizes.queries);
            let from = head / group * sizes.queries + query;
            shared.indices.extend(&indices[ptr[from]..ptr[from + 1]]);
            shared.data.extend(&data[ptr[from]..ptr[from + 1]]);
            shared.ptr.push(shared.indices.len());
        }
        let mask = Mask::from_csr(sizes.mask_shape(), &shared, &B::Device::default()).unwrap();
        check(&format!("a group of {group}"), &inputs, &mask, F32);
    }
}

/// Keys and values that no row keeps may hold any number.
fn dropped_keys_have_no_influence<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 3, 63, 12);
    let good = inputs::<B>(sizes, 3);
    let mask = random_rows::<B>(sizes, 9, 0.3, true);
    let kept = mask.to_csr().indices;
    let spoil = |tensor_of: &Tensor<B, 4>| {
        let dims = tensor_of.dims();
        let mut values = host(tensor_of);
        for (at, value) in values.iter_mut().enumerate() {
            let key = at / dims[3] % dims[2];
            if !kept.contains(&key) {
                *value = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][at % 3];
            }
        }
        tensor::<B>(&values, dims)
    };
    assert!((0..sizes.keys).any(|key| !kept.contains(&key)), "every key is kept somewhere");
    let bad = AttentionInputs::new(good.queries().clone(), spoil(good.keys()), spoil(good.values())).unwrap();
    let found = masked_attention(&bad, &mask, ALL).unwrap();
    let wanted = masked_attention(&good, &mask, ALL).unwrap();
    assert_eq!(host(&found.output), host(&wanted.output));
}

fn keys_and_values_may_be_parts_of_a_longer_cache<B: Backend>() {
    let sizes = Sizes::new(2, 6, 3, 2, 90, 20);
    let long = inputs::<B>(sizes, 4);
    let part = |tensor: &Tensor<B, 4>| tensor.clone().slice_dim(2, 11..74);
    let copied = |tensor: Tensor<B, 4>| Tensor::<B, 4>::from_data(tensor.into_data(), &B::Device::default());
    let swapped = |tensor: Tensor<B, 4>| copied(tensor.swap_dims(1, 2)).swap_dims(1, 2);
    let (queries, keys, values) = (long.queries().clone(), part(long.keys()), part(long.values()));
    let wanted = AttentionInputs::new(queries.clone(), copied(keys.clone()), copied(values.clone())).unwrap();
    let wanted = dense_attention(&wanted, ALL);
    let views = AttentionInputs::new(queries.clone(), keys.clone(), values.clone()).unwrap();
    compare("views", &dense_attention(&views, ALL), &wanted, 0.0);
    let strided = AttentionInputs::new(swapped(queries), swapped(keys), swapped(values)).unwrap();
    compare("swapped dimensions", &dense_attention(&strided, ALL), &wanted, 0.0);
}

/// NaN in a kept key shows in the output.
fn nan_in_a_kept_key_shows<B: Backend>() {
    let sizes = Sizes::new(1, 2, 1, 2, 40, 8);
    let good = inputs::<B>(sizes, 3);
    let full = Mask::full(sizes.mask_shape(), &B::Device::default());
    for bad in [f32::NAN, f32::INFINITY] {
        let mut keys = host(good.keys());
        keys[37 * 8] = bad;
        let keys = tensor::<B>(&keys, good.keys().dims());
        let inputs = AttentionInputs::new(good.queries().clone(), keys, good.values().clone()).unwrap();
        let native = host(&masked_attention(&inputs, &full, ALL).unwrap().output);
        let reference = host(&reference_attention(&inputs, &full, ALL).unwrap().output);
        for (native, reference) in native.iter().zip(reference) {
            assert!(native.is_nan() == reference.is_nan(), "with {bad}: {native}, not {reference}");
        }
    }
}

fn weights_and_tensor_visibility_use_the_reference<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 3, 33, 8);
    let inputs = inputs::<B>(sizes, 3);
    let mask = random_rows::<B>(sizes, 9, 0.3, true);
    let weights = masked_attention(&inputs, &mask, Requested { weights: true, statistics: false }).unwrap();
    assert_eq!(weights.weights.map(|weights| weights.dims()), Some(sizes.mask_shape().dims()));
    for (name, visibility) in common::visibilities::<B>(sizes, 8) {
        let inputs = inputs.clone().with_visibility(visibility).unwrap();
        check(name, &inputs, &mask, F32);
    }
}

/// Other number types. Sums are f32 or f64.
fn of_type<B: Backend>(dtype: DType, tolerance: f64) {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        let inputs = inputs::<B>(sizes, seed as u64);
        let [queries, keys, values] =
            [inputs.queries(), inputs.keys(), inputs.values()].map(|tensor| tensor.clone().cast(dtype));
        let inputs = AttentionInputs::new(queries, keys, values).unwrap();
        let full = Mask::full(sizes.mask_shape(), &inputs.device());
        for (what, mask) in [("all", full), ("lists", random_rows(sizes, 3, 0.5, false))] {
            let found = masked_attention(&inputs, &mask, Requested::default()).unwrap().output;
            let wanted = reference_attention(&inputs, &mask, Requested::default()).unwrap().output;
            assert_eq!(found.dtype(), dtype);
            let host = |tensor: Tensor<B, 4>| tensor.into_data().convert::<f64>().iter::<f64>().collect::<Vec<_>>();
            for (found, wanted) in host(found).into_iter().zip(host(wanted)) {
                assert!((found - wanted).abs() <= tolerance * wanted.abs().max(1.0), "{dtype:?} {what}");
            }
        }
    }
}

fn other_number_types<B: Backend>() {
    for (dtype, tolerance) in [(DType::F16, 1.5e-3), (DType::BF16, 1.2e-2), (DType::F64, 1e-12)] {
        if computes_in::<B>(dtype) {
            of_type::<B>(dtype, tolerance);
        }
    }
}

/// Dense attention and every method give the same bits for every number of threads.
fn threads_do_not_matter<B: Backend>() {
    let sizes = Sizes::new(1, 4, 2, 3, 2053, 60);
    let inputs = inputs::<B>(sizes, 1).causal().unwrap();
    let registry = MaskerRegistry::<B>::new();
    let methods = METHODS.iter().map(|method| (method.config)(&sizes)).collect::<Vec<_>>();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let sparse = methods.iter().map(|method| {
                let method = serde_json::json!([{"type": "sink", "sink_size": 4}, method]).to_string();
                let attention = registry.research_attention(&method, &Default::default()).unwrap();
                host(&attention.forward(&inputs, &mut LayerState::new(3), ALL).unwrap().attention.output)
            });
            let dense = host(&dense_attention(&inputs, ALL).output);
            sparse.chain([dense]).collect::<Vec<_>>()
        })
    };
    let one = run(1);
    for threads in [2, 5] {
        for (at, (found, wanted)) in run(threads).into_iter().zip(&one).enumerate() {
            let what = methods.get(at).map_or("dense".to_owned(), |method| method.to_string());
            assert_eq!(&found, wanted, "{what} on {threads} threads");
        }
    }
}
