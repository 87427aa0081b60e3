//! Cases of masks: conversion, merging, application.

use burn::tensor::{Tensor, backend::Backend};
use sparse_attention_hub::{
    mask::{Csr, KeyIndices, MaskError},
    prelude::{Mask, MaskShape, Visibility},
};

use super::{
    fixtures::{check_flags, dense_mask, host, indices, shape_of, shape_of_case, tensor, weights},
    report::{Outcome, judge},
    vectors::{Case, Check, Data, Result, Tolerance, all, close, equal, holds},
};

/// The compressed sparse rows of a case. Their indices count over the whole tensor.
fn csr(case: &Case, shape: MaskShape) -> Result<Csr> {
    let integers = |name: &str| -> Result<Vec<usize>> {
        Ok(case.tensor(name)?.integers().map(usize::try_from).collect::<std::result::Result<_, _>>()?)
    };
    let flat = integers("indices")?;
    let ptr = integers("ptr")?;
    let mut indices = Vec::with_capacity(flat.len());
    for (row, bounds) in ptr.windows(2).enumerate() {
        for &index in flat.get(bounds[0]..bounds[1]).ok_or("ptr reaches beyond the indices")? {
            indices.push(index.checked_sub(row * shape.keys).ok_or("an index lies before its row")?);
        }
    }
    let data = match case.find("data") {
        Some(data) => data.values.iter().map(|&weight| weight as f32).collect(),
        None => vec![1.0; indices.len()],
    };
    Ok(Csr { indices, ptr, data })
}

/// The same rows with each key once and with its last weight, as in a Python dictionary.
fn without_duplicates(csr: &Csr) -> Csr {
    let mut unique = Csr { indices: Vec::new(), ptr: vec![0], data: Vec::new() };
    for bounds in csr.ptr.windows(2) {
        let start = unique.indices.len();
        for at in bounds[0]..bounds[1] {
            match unique.indices[start..].iter().position(|&key| key == csr.indices[at]) {
                Some(place) => unique.data[start + place] = csr.data[at],
                None => {
                    unique.indices.push(csr.indices[at]);
                    unique.data.push(csr.data[at]);
                }
            }
        }
        unique.ptr.push(unique.indices.len());
    }
    unique
}

/// Checks that rows that name a key twice give the error for duplicates.
fn check_refusal<B: Backend>(shape: MaskShape, csr: &Csr) -> Check {
    let error = Mask::<B>::from_csr(shape, csr, &B::Device::default()).err();
    holds(matches!(error, Some(MaskError::Duplicate { .. })), || {
        format!("rows that name a key twice give {error:?} and not the error for it")
    })
}

/// Compares with the expected rows. `data_name` is the tensor of their weights. The order within a row is compared only
/// if `ordered`.
fn expect_csr<B: Backend>(case: &Case, mask: &Mask<B>, data_name: &str, ordered: bool) -> Check {
    let Csr { indices, ptr, data } = mask.to_csr();
    let keys = mask.shape().keys;
    let mut entries = Vec::new();
    for (row, bounds) in ptr.windows(2).enumerate() {
        let mut of_row = (bounds[0]..bounds[1]).map(|at| (row * keys + indices[at], data[at])).collect::<Vec<_>>();
        if !ordered {
            of_row.sort_by_key(|(index, _)| *index);
        }
        entries.extend(of_row);
    }
    let (indices, data): (Vec<f64>, Vec<f64>) =
        entries.into_iter().map(|(index, weight)| (index as f64, f64::from(weight))).unzip();
    let ptr = ptr.into_iter().map(|start| start as f64).collect::<Vec<_>>();
    all([
        close("indices", &indices, &case.tensor("indices")?.values, Tolerance::EXACT),
        close("ptr", &ptr, &case.tensor("ptr")?.values, Tolerance::EXACT),
        case.expect(data_name, &data),
    ])
}

/// The share of all pairs that is kept, as the Python project counts it.
fn share_kept<B: Backend>(mask: &Mask<B>) -> [f64; 1] {
    [mask.density(&Visibility::Full).all]
}

/// Kind `mask_convert`.
pub fn convert<B: Backend>(case: &Case) -> Result<Outcome> {
    let shape = shape_of_case(case)?;
    let device = B::Device::default();
    match case.entry.text("op")? {
        "dense_to_index" => {
            let mask = dense_mask::<B>(case.tensor("dense")?)?;
            all([
                equal("the shape", mask.shape(), shape),
                expect_csr(case, &mask, "data", true),
                check_flags(case, &mask),
            ])?;
            Ok(Outcome::Passed)
        }
        "index_to_dense" => {
            let csr = csr(case, shape)?;
            let as_expected = Mask::<B>::from_csr(shape, &csr, &device).map_err(Into::into).and_then(|mask| {
                all([
                    case.expect("dense", &weights(&mask)),
                    case.expect_if_there("density", &share_kept(&mask)),
                    check_flags(case, &mask),
                ])
            });
            judge(as_expected, || {
                let mask = Mask::<B>::from_csr(shape, &without_duplicates(&csr), &device)?;
                let kept = mask.to_csr().indices.len() as f64 / shape.pairs() as f64;
                all([
                    check_refusal::<B>(shape, &csr),
                    case.expect("dense", &weights(&mask)),
                    close("the share kept", &share_kept(&mask), &[kept], Tolerance::ROUNDING),
                ])?;
                Ok(vec!["Q05"])
            })
        }
        flag => {
            let mask = by_flag::<B>(flag, shape)?;
            all([
                case.expect("dense", &weights(&mask)),
                expect_csr(case, &mask, "data", true),
                case.expect("density", &share_kept(&mask)),
                check_flags(case, &mask),
            ])?;
            Ok(Outcome::Passed)
        }
    }
}

/// The full or the empty mask.
fn by_flag<B: Backend>(flag: &str, shape: MaskShape) -> Result<Mask<B>> {
    match flag {
        "full" => Ok(Mask::full(shape, &B::Device::default())),
        "empty" => Ok(Mask::empty(shape, &B::Device::default())),
        other => Err(format!("a mask of the form {other} is unknown").into()),
    }
}

/// One of the masks to merge, in the form that the case asks for.
fn operand<B: Backend>(case: &Case, name: &str, shape: MaskShape) -> Result<Mask<B>> {
    match case.entry.text(name)? {
        "dense" => dense_mask(case.tensor(name)?),
        "index" => {
            let rows = dense_mask::<B>(case.tensor(name)?)?.to_csr();
            Ok(Mask::from_csr(shape, &rows, &B::Device::default())?)
        }
        flag => by_flag(flag, shape),
    }
}

/// The documented union: `a + b - ab` for two sampled weights, as for independent draws, and otherwise the larger
/// weight.
fn union(a: &[f64], b: &[f64]) -> Vec<f64> {
    let sampled = |weight: f64| weight > 0.0 && weight < 1.0;
    let one = |(&a, &b): (&f64, &f64)| if sampled(a) && sampled(b) { a + b - a * b } else { a.max(b) };
    a.iter().zip(b).map(one).collect()
}

/// Kind `mask_merge`.
pub fn merge<B: Backend>(case: &Case) -> Result<Outcome> {
    let shape = shape_of_case(case)?;
    let (a, b) = (operand::<B>(case, "a", shape)?, operand::<B>(case, "b", shape)?);
    let merged = a.merge(&b)?;
    // The density and the flags do not depend on the weights of keys that both masks sampled. They must always be as
    // expected.
    all([case.expect("density", &share_kept(&merged)), check_flags(case, &merged)])?;
    let found = weights(&merged);
    let rows = match case.find("indices") {
        Some(_) => expect_csr(case, &merged, "data", false),
        None => Ok(()),
    };
    judge(all([case.expect("dense", &found), rows]), || {
        let kept =
            |weights: &[f64]| weights.iter().map(|&weight| f64::from(u8::from(weight > 0.0))).collect::<Vec<_>>();
        all([
            close("the union", &found, &union(&weights(&a), &weights(&b)), Tolerance::ROUNDING),
            close("what is kept", &kept(&found), &kept(&case.tensor("dense")?.values), Tolerance::EXACT),
        ])?;
        Ok(vec!["Q04"])
    })
}

/// Kind `mask_merge_duplicates`. The Python project has two ways to merge rows that name a key twice. This library has
/// neither, because such rows are not a valid mask.
pub fn merge_duplicates<B: Backend>(case: &Case) -> Result<Outcome> {
    let shape = shape_of_case(case)?;
    let csr = csr(case, shape)?;
    let rows = Mask::<B>::from_csr(shape, &without_duplicates(&csr), &B::Device::default())?;
    let other = dense_mask::<B>(case.tensor("b")?)?;
    let merged = weights(&other.merge(&rows)?);
    judge(Err("rows that name a key twice are no mask".into()), || {
        let sum = weights(&other).iter().zip(weights(&rows)).map(|(a, b)| (a + b).min(1.0)).collect::<Vec<_>>();
        all([
            check_refusal::<B>(shape, &csr),
            // Without the duplicates, these are the rows that the Python project merges in its dense mode.
            case.expect("merged_dense_mode", &sum),
            close("the union", &merged, &union(&weights(&other), &weights(&rows)), Tolerance::ROUNDING),
        ])?;
        Ok(vec!["Q05"])
    })
}

/// Kind `mask_density`.
pub fn density<B: Backend>(case: &Case) -> Result<Outcome> {
    case.expect("density", &share_kept(&dense_mask::<B>(case.tensor("dense")?)?))?;
    Ok(Outcome::Passed)
}

fn apply_op<B: Backend>(op: &str, mask: &Mask<B>, x: Tensor<B, 4>) -> Result<Vec<f64>> {
    Ok(host(match op {
        "apply" => mask.apply(x)?,
        "apply_inv" => mask.apply_inverse(x)?,
        "apply_inv_sum" => mask.apply_inverse(x)?.sum_dim(3),
        other => return Err(format!("the operation {other} is unknown").into()),
    }))
}

/// Kind `mask_apply`.
pub fn apply<B: Backend>(case: &Case) -> Result<Outcome> {
    let mask = dense_mask::<B>(case.tensor("mask")?)?;
    let op = case.entry.text("op")?;
    let x = case.tensor("x")?;
    let found = apply_op(op, &mask, tensor(x))?;
    judge(case.expect("y", &found), || {
        let inverse = |(x, &weight): (&f64, &f64)| if weight > 0.0 { x / weight } else { 0.0 };
        let wanted = match case.find("y_noeps") {
            Some(wanted) => wanted.values.clone(),
            None => x.values.iter().zip(&case.tensor("mask")?.values).map(inverse).collect(),
        };
        equal("the operation", op, "apply_inv")?;
        close("y without the 1e-6", &found, &wanted, case.entry.tolerance())?;
        Ok(vec!["Q03"])
    })
}

/// Kind `mask_apply_flag`.
pub fn apply_flag<B: Backend>(case: &Case) -> Result<Outcome> {
    let x = case.tensor("x")?;
    let flag = case.entry.text("flag")?;
    let mask = by_flag::<B>(flag, shape_of(x))?;
    let found = apply_op(case.entry.text("op")?, &mask, tensor(x))?;
    judge(case.expect("y", &found), || {
        equal("the flag", flag, "empty")?;
        close("y of a mask that keeps nothing", &found, &vec![0.0; found.len()], Tolerance::EXACT)?;
        Ok(vec!["Q01"])
    })
}

/// Kind `mask_row_wise`.
pub fn row_wise<B: Backend>(case: &Case) -> Result<Outcome> {
    let shape = shape_of_case(case)?;
    let keys = case.tensor("row_wise_idx")?;
    let given = case.tensor("data")?;
    // In the vectors an unused slot may hold any weight. Here its probability is 0.
    let used = given.values.iter().zip(keys.integers()).map(|(&weight, key)| if key < 0 { 0.0 } else { weight });
    let probability = Data { dims: given.dims.clone(), values: used.collect() };
    let mask = Mask::<B>::from_indices(shape, KeyIndices::new(indices(keys), tensor(&probability))?)?;
    all([case.expect("dense", &weights(&mask)), expect_csr(case, &mask, "data_out", true)])?;
    Ok(Outcome::Passed)
}
