//! Invalid masks must give an error.

use burn::tensor::DType;
use sparse_attention_hub::mask::{Csr, Mask, MaskShape};

use super::draw::{List, csr_of, from_slots, lists, slots};
use crate::generators::{Checked, Source, device, fault::hold, numbers::tensor};

/// A mask with one thing wrong.
///
/// # Errors
/// If it is accepted.
pub fn check(source: &mut Source, shape: MaskShape) -> Checked {
    if shape.pairs() == 0 {
        return Ok(());
    }
    match source.below(3) {
        0 => check_rows(source, shape),
        1 => check_csr(source, shape),
        _ => check_dense(source, shape),
    }
}

/// Numbers that are not probabilities.
const NO_PROBABILITY: [f64; 6] = [0.0, -0.25, 1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

/// Lists in which one key of one row has this weight.
fn lists_with(source: &mut Source, shape: MaskShape, weight: f64) -> (Vec<List>, usize, usize) {
    let mut lists = lists(source, shape);
    let row = source.below(lists.len());
    if lists[row].is_empty() {
        lists[row].push((source.below(shape.keys), 1.0));
    }
    let place = source.below(lists[row].len());
    lists[row][place].1 = weight;
    (lists, row, place)
}

fn check_rows(source: &mut Source, shape: MaskShape) -> Checked {
    let no_probability = source.once_in(3);
    let weight = if no_probability { *source.pick(&NO_PROBABILITY) } else { 1.0 };
    let (mut lists, row, place) = lists_with(source, shape, weight);
    let twice = !no_probability && source.once_in(2);
    if twice {
        let kept = lists[row][place];
        lists[row].push(kept);
    }
    let width = lists.iter().map(Vec::len).max().unwrap_or(0) + 1;
    let (mut indices, probability) = slots(source, &lists, width);
    let mut what = format!("weight {weight}, a key twice: {twice}");
    if !no_probability && !twice {
        let wrong = [-2, shape.keys as i64, (1 << 32) + 1, -(1 << 32), (1 << 31) - 1, 1 << 31, i64::MAX, i64::MIN];
        let wrong = *source.pick(&wrong);
        let slot = source.below(indices.len());
        indices[slot] = wrong;
        what = format!("index {wrong}");
    }
    let accepted = from_slots(shape, width, (indices, probability)).is_ok();
    hold!(!accepted, "a wrong mask of rows is refused", "{:?}: {what}", shape.dims());
    Ok(())
}

fn check_csr(source: &mut Source, shape: MaskShape) -> Checked {
    let weight = *source.pick(&NO_PROBABILITY);
    let (lists, row, place) = lists_with(source, shape, 1.0);
    let mut csr = csr_of(&lists);
    let at = csr.ptr[row] + place;
    let what = source.below(7);
    match what {
        0 => csr.data[at] = weight as f32,
        1 => csr.indices[at] = *source.pick(&[shape.keys, (1 << 32) + 1, usize::MAX]),
        2 => {
            let twice = csr.indices[at];
            csr.indices.insert(at, twice);
            csr.data.insert(at, 1.0);
            csr.ptr[row + 1..].iter_mut().for_each(|end| *end += 1);
        }
        3 => csr.ptr[0] = 1,
        4 => csr.ptr[row + 1] = *source.pick(&[usize::MAX, csr.indices.len() + 1]),
        5 => csr.ptr.push(csr.indices.len()),
        _ => csr.data.push(1.0),
    }
    let accepted = Mask::<crate::generators::B>::from_csr(shape, &csr, &device()).is_ok();
    let Csr { indices, ptr, data } = csr;
    let dims = shape.dims();
    hold!(!accepted, "a wrong csr mask is refused", "{dims:?}, change {what}: {indices:?} {ptr:?} {data:?}");
    Ok(())
}

fn check_dense(source: &mut Source, shape: MaskShape) -> Checked {
    let wrong = *source.pick(&[-0.25, 1.0 + f64::from(f32::EPSILON), f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
    let mut weights = vec![0.5; shape.pairs()];
    weights[source.below(shape.pairs())] = wrong;
    let accepted = Mask::from_dense(tensor(&weights, shape.dims(), DType::F32)).is_ok();
    hold!(!accepted, "a wrong dense mask is refused", "{:?}: {wrong}", shape.dims());
    Ok(())
}
