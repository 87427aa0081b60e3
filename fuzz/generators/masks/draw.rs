//! Masks in every form, with their weights.

use burn::tensor::{DType, Int, Tensor, TensorData};
use sparse_attention_hub::mask::{Csr, KeyIndices, Mask, MaskError, MaskShape, Pattern};

use crate::generators::{B, Source, device, numbers::tensor};

/// A mask, and the expected weight of every pair.
#[derive(Debug, Clone)]
pub struct Drawn {
    pub mask: Mask<B>,
    pub weights: Vec<f64>,
    /// A description of how it was made.
    pub made: String,
}

/// A mask in any form.
///
/// # Errors
/// If a valid mask is refused.
pub fn draw(source: &mut Source, shape: MaskShape) -> Result<Drawn, MaskError> {
    let device = device();
    let pairs = shape.pairs();
    Ok(match source.below(8) {
        0 => Drawn { mask: Mask::empty(shape, &device), weights: vec![0.0; pairs], made: "empty".into() },
        1 => Drawn { mask: Mask::full(shape, &device), weights: vec![1.0; pairs], made: "full".into() },
        2 | 3 => {
            let pattern = pattern(source, shape);
            let kept = |at: usize| keeps(&pattern, at / shape.keys % shape.queries, at % shape.keys);
            let weights = (0..pairs).map(|at| f64::from(u8::from(kept(at)))).collect();
            Drawn { mask: Mask::pattern(shape, pattern, &device), weights, made: format!("{pattern:?}") }
        }
        4 | 5 => {
            let lists = lists(source, shape);
            let width = lists.iter().map(Vec::len).max().unwrap_or(0) + source.below(3);
            let mask = from_lists(source, shape, &lists, width)?;
            Drawn { mask, weights: weights_of(shape, &lists), made: format!("rows of width {width}") }
        }
        6 => {
            let lists = lists(source, shape);
            let mask = Mask::from_csr(shape, &csr_of(&lists), &device)?;
            Drawn { mask, weights: weights_of(shape, &lists), made: "csr".into() }
        }
        _ => {
            let weights = weights_of(shape, &lists(source, shape));
            let mask = Mask::from_dense(tensor(&weights, shape.dims(), DType::F32))?;
            Drawn { mask, weights, made: "dense".into() }
        }
    })
}

/// A pattern with random sizes, which may be larger than the number of keys.
fn pattern(source: &mut Source, shape: MaskShape) -> Pattern {
    let size = |source: &mut Source| match source.below(8) {
        0 => usize::MAX,
        1 => shape.keys + 3,
        2 | 3 => 0,
        _ => source.below(shape.keys + 1),
    };
    let offset = match source.below(40) {
        0 => *source.pick(&[isize::MIN, isize::MIN + 1, isize::MAX - 1, isize::MAX]),
        1..8 => -(source.below(4) as isize),
        8..16 => source.below(2 * shape.keys + 2) as isize,
        _ => shape.keys as isize - shape.queries as isize,
    };
    Pattern { sink: size(source), window: size(source), offset }
}

/// Whether a pattern keeps a key, according to its documentation.
fn keeps(pattern: &Pattern, row: usize, key: usize) -> bool {
    let distance = pattern.offset as i128 + row as i128 - key as i128;
    key < pattern.sink || (distance >= 0 && distance < pattern.window as i128)
}

/// Keys of a row with their probabilities.
pub type List = Vec<(usize, f64)>;

/// Lists of kept keys in random order. Each key is kept for certain or sampled.
pub fn lists(source: &mut Source, shape: MaskShape) -> Vec<List> {
    let sampled = source.once_in(2);
    let most = source.below(shape.keys + 1);
    let list = |source: &mut Source| {
        let count = source.below(most + 1);
        let keys = source.some_below(shape.keys, count);
        let probability = |source: &mut Source| match sampled && source.once_in(2) {
            true => f64::from(*source.pick(&[0.5f32, 0.1, 1e-3, 1e-30, 1.0 - f32::EPSILON, f32::MIN_POSITIVE])),
            false => 1.0,
        };
        keys.into_iter().map(|key| (key, probability(source))).collect()
    };
    (0..shape.rows()).map(|_| list(source)).collect()
}

/// The weight of every pair.
pub fn weights_of(shape: MaskShape, lists: &[List]) -> Vec<f64> {
    let mut weights = vec![0.0; shape.pairs()];
    for (row, list) in lists.iter().enumerate() {
        list.iter().for_each(|(key, weight)| weights[row * shape.keys + key] = *weight);
    }
    weights
}

/// The lists as CSR.
pub fn csr_of(lists: &[List]) -> Csr {
    let mut csr = Csr { indices: Vec::new(), ptr: vec![0], data: Vec::new() };
    for list in lists {
        csr.indices.extend(list.iter().map(|(key, _)| *key));
        csr.data.extend(list.iter().map(|(_, weight)| *weight as f32));
        csr.ptr.push(csr.indices.len());
    }
    csr
}

/// Slots `[rows, width]` that contain the lists. Unused slots are at random places.
pub fn slots(source: &mut Source, lists: &[List], width: usize) -> (Vec<i64>, Vec<f64>) {
    let (mut indices, mut probability) = (vec![-1; lists.len() * width], vec![0.0; lists.len() * width]);
    // The probabilities of unused slots have no effect.
    probability.iter_mut().for_each(|p| *p = *source.pick(&[0.0, 0.5, 7.0, -1.0]));
    for (row, list) in lists.iter().enumerate() {
        for (slot, (key, weight)) in source.some_below(width, list.len()).into_iter().zip(list) {
            (indices[row * width + slot], probability[row * width + slot]) = (*key as i64, *weight);
        }
    }
    (indices, probability)
}

/// A mask from tensors of slots.
///
/// # Errors
/// If it is refused.
pub fn from_slots(
    shape: MaskShape,
    width: usize,
    (indices, probability): (Vec<i64>, Vec<f64>),
) -> Result<Mask<B>, MaskError> {
    let dims = [shape.batch, shape.heads, shape.queries, width];
    let indices = Tensor::<B, 4, Int>::from_data(TensorData::new(indices, dims), (&device(), DType::I64));
    Mask::from_indices(shape, KeyIndices::new(indices, tensor(&probability, dims, DType::F32))?)
}

fn from_lists(source: &mut Source, shape: MaskShape, lists: &[List], width: usize) -> Result<Mask<B>, MaskError> {
    from_slots(shape, width, slots(source, lists, width))
}
