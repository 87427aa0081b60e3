//! Operations that read a mask: products, lists, pictures and densities.

use burn::tensor::DType;
use sparse_attention_hub::mask::{Csr, MaskForm};

use super::Drawn;
use crate::generators::{
    Checked, Fault, Source,
    fault::hold,
    numbers::{first_far, numbers, tensor},
    problem::{Sizes, VisibilityCase},
};

/// Products, lists and pictures.
///
/// # Errors
/// If one of them is wrong.
pub fn check(source: &mut Source, drawn: &Drawn) -> Checked {
    let (shape, made) = (drawn.mask.shape(), &drawn.made);
    let x = (0..shape.pairs()).map(|_| f64::from(source.normal() as f32)).collect::<Vec<_>>();
    let x_tensor = tensor(&x, shape.dims(), DType::F32);
    let refused = |error| Fault::new("a tensor of the mask's shape is weighted", format!("{made}: {error}"));
    let rounding = f64::from(f32::EPSILON);
    let applied = numbers(&drawn.mask.apply(x_tensor.clone()).map_err(refused)?);
    let wanted = x.iter().zip(&drawn.weights).map(|(x, weight)| x * weight).collect::<Vec<_>>();
    hold!(first_far(&applied, &wanted, rounding).is_none(), "apply", "{made} of {:?}", shape.dims());
    let inverse = numbers(&drawn.mask.apply_inverse(x_tensor).map_err(refused)?);
    for (at, (x, weight)) in x.iter().zip(&drawn.weights).enumerate() {
        let wanted = if *weight > 0.0 { x / weight } else { 0.0 };
        let found = inverse[at];
        let overflows = wanted.abs() > f64::from(f32::MAX) && found.is_infinite();
        let close = (found - wanted).abs() <= 2.0 * rounding * wanted.abs();
        hold!(close || overflows, "apply_inverse", "{made}: {x:e} over {weight:e} is {found:e}, not {wanted:e}");
    }
    checked_csr(drawn)?;
    check_picture(source, drawn)
}

/// The mask as CSR, checked against the mask.
///
/// # Errors
/// If they differ.
pub fn checked_csr(drawn: &Drawn) -> Result<Csr, Fault> {
    let (shape, made) = (drawn.mask.shape(), format!("{} of {:?}", drawn.made, drawn.mask.shape().dims()));
    let csr = drawn.mask.to_csr();
    let wanted = shape.rows() + 1;
    hold!(csr.ptr.len() == wanted, "csr", "{made}: `ptr` of {} entries, not {wanted}", csr.ptr.len());
    hold!(csr.ptr.first() == Some(&0), "csr", "{made}: `ptr` begins with {:?}", csr.ptr.first());
    hold!(csr.indices.len() == csr.data.len(), "csr", "{made}: indices and data differ in length");
    hold!(csr.ptr.last() == Some(&csr.indices.len()), "csr", "{made}: `ptr` does not end at the indices");
    let mut weights = vec![0.0; shape.pairs()];
    for (row, bounds) in csr.ptr.windows(2).enumerate() {
        hold!(bounds[0] <= bounds[1], "csr", "{made}: `ptr` falls at row {row}");
        let indices = &csr.indices[bounds[0]..bounds[1]];
        let ascending = indices.is_sorted() || matches!(drawn.mask.form(), MaskForm::Indices(_));
        hold!(ascending, "csr", "{made}: row {row} does not ascend: {indices:?}");
        for (key, weight) in indices.iter().zip(&csr.data[bounds[0]..bounds[1]]) {
            hold!(*key < shape.keys, "csr", "{made}: row {row} has key {key}");
            hold!(weights[row * shape.keys + key] == 0.0, "csr", "{made}: row {row} has key {key} twice");
            weights[row * shape.keys + key] = f64::from(*weight);
        }
    }
    hold!(weights == drawn.weights, "csr", "{made}: other weights than the dense form");
    Ok(csr)
}

fn check_picture(source: &mut Source, drawn: &Drawn) -> Checked {
    let shape = drawn.mask.shape();
    let size = source.between(1, 12);
    let (batch, head) = (source.below(shape.batch + 1), source.below(shape.heads + 1));
    let picture = drawn.mask.picture(batch, head, size);
    let exists = batch < shape.batch && head < shape.heads;
    hold!(picture.is_some() == exists, "picture", "{}: head {head} of {:?}", drawn.made, shape.dims());
    let Some(picture) = picture else { return Ok(()) };
    let lines = picture.lines().map(|line| line.chars().collect::<Vec<_>>()).collect::<Vec<_>>();
    hold!(lines.len() == shape.queries.min(size), "picture", "{}: {} lines", drawn.made, lines.len());
    for (query, line) in lines.iter().enumerate() {
        hold!(line.len() == shape.keys.min(size), "picture", "{}: {} characters", drawn.made, line.len());
        if shape.queries > size || shape.keys > size {
            continue;
        }
        for (key, shade) in line.iter().enumerate() {
            let at = ((batch * shape.heads + head) * shape.queries + query) * shape.keys + key;
            let wanted = if drawn.weights[at] > 0.0 { '█' } else { '.' };
            hold!(*shade == wanted, "picture", "{}: {shade} and not {wanted}", drawn.made);
        }
    }
    Ok(())
}

/// Checks the share of visible pairs that is kept, for a random visibility.
///
/// # Errors
/// If it is wrong.
pub fn check_density(source: &mut Source, drawn: &Drawn) -> Checked {
    let shape = drawn.mask.shape();
    if shape.pairs() == 0 {
        return Ok(());
    }
    let [batch, heads, queries, keys] = shape.dims();
    let sizes = Sizes { batch, heads, kv_heads: 1, queries, keys, head_dim: 1, value_dim: 1 };
    let seen = VisibilityCase::draw(source, &sizes, DType::F32);
    let visibility = seen.visibility(DType::F32);
    let per_head = drawn.mask.density_per_head(&visibility);
    hold!(per_head.len() == batch * heads, "density", "{}: {} heads", drawn.made, per_head.len());
    let mut totals = [0.0; 4];
    for (at, found) in per_head.iter().enumerate() {
        let mut pairs = [0.0; 4];
        for pair in 0..queries * keys {
            let visible = seen.bias([at / heads, at % heads, pair / keys, pair % keys], DType::F32).is_some();
            let kept = drawn.weights[at * queries * keys + pair] > 0.0;
            for (count, counts) in pairs.iter_mut().zip([visible && kept, visible, kept, true]) {
                *count += f64::from(u8::from(counts));
            }
        }
        totals.iter_mut().zip(pairs).for_each(|(total, count)| *total += count);
        compare(drawn, &seen, found.visible, pairs[0], pairs[1])?;
        compare(drawn, &seen, found.all, pairs[2], pairs[3])?;
    }
    let found = drawn.mask.density(&visibility);
    compare(drawn, &seen, found.visible, totals[0], totals[1])?;
    compare(drawn, &seen, found.all, totals[2], totals[3])
}

fn compare(drawn: &Drawn, seen: &VisibilityCase, found: f64, part: f64, whole: f64) -> Checked {
    let wanted = if whole > 0.0 { part / whole } else { 0.0 };
    hold!(
        (found - wanted).abs() < 1e-12,
        "density",
        "{} of {:?}, {seen:?}: {found}, not {part} of {whole}",
        drawn.made,
        drawn.mask.shape().dims()
    );
    Ok(())
}
