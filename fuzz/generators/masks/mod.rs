//! Operations on masks, each compared with the same operation on one weight per pair in f64.

mod draw;
mod refused;
mod views;

use sparse_attention_hub::mask::{Mask, MaskError, MaskShape};

pub use draw::{Drawn, draw};

use super::{
    B, Checked, Fault, Source, about,
    fault::hold,
    numbers::{first_far, numbers},
};

/// The largest number of operations of a case.
const OPERATIONS: usize = 8;

/// One case: some masks of one shape, and some operations on them.
///
/// # Errors
/// If a property does not hold.
pub fn check(source: &mut Source) -> Checked {
    let shape = shape(source);
    if source.once_in(8) {
        return refused::check(source, shape);
    }
    about(format!("masks of {:?}", shape.dims()));
    let mut masks = vec![drawn(source, shape)?, drawn(source, shape)?];
    for _ in 0..source.between(1, OPERATIONS) {
        let mask = source.pick(&masks).clone();
        let next = match source.below(8) {
            0 => drawn(source, shape)?,
            1..4 => merged(&mask, source.pick(&masks))?,
            4 => converted(source, &mask)?,
            5 => support(&mask)?,
            6 => {
                views::check(source, &mask)?;
                continue;
            }
            _ => {
                views::check_density(source, &mask)?;
                continue;
            }
        };
        masks.push(next);
    }
    Ok(())
}

/// A shape with few rows and keys, sometimes with a dimension of 0.
fn shape(source: &mut Source) -> MaskShape {
    let mut dims = [source.between(1, 2), source.between(1, 3), source.between(1, 4), source.between(1, 9)];
    match source.below(100) {
        0 => dims[source.below(4)] = 0,
        1 => dims = [1, 2, 7, 63],
        _ => {}
    }
    MaskShape::new(dims)
}

/// A random mask, checked against the weights it was made from.
fn drawn(source: &mut Source, shape: MaskShape) -> Result<Drawn, Fault> {
    let drawn = draw(source, shape)
        .map_err(|error| Fault::new("a valid mask is accepted", format!("{:?}: {error}", shape.dims())))?;
    matches(drawn, "a mask is what it was made of", 0.0)
}

/// Checks that a mask has the expected weights. Returns it with the weights that it has.
fn matches(drawn: Drawn, property: &'static str, share: f64) -> Result<Drawn, Fault> {
    let Drawn { mask, weights: wanted, made } = drawn;
    about(format!("{made} of {:?}", mask.shape().dims()));
    let found = numbers(&mask.to_dense());
    let keys = mask.shape().keys.max(1);
    let far = first_far(&found, &wanted, share).or_else(|| {
        // A key with weight 0 must not be kept, and a kept key must have a weight above 0, however small.
        found.iter().zip(&wanted).position(|(found, wanted)| (*found > 0.0) != (*wanted > 0.0))
    });
    if let Some(at) = far {
        let (row, key, dims) = (at / keys, at % keys, mask.shape().dims());
        let (found, wanted) = (found[at], wanted[at]);
        let what = format!("{made} of {dims:?}: row {row} keeps key {key} with {found:e}, not {wanted:e}");
        return Err(Fault::new(property, what));
    }
    hold!(found.len() == wanted.len(), property, "{made}: {} weights, not {}", found.len(), wanted.len());
    Ok(Drawn { mask, weights: found, made })
}

/// The expected weight of a pair after a merge.
fn union(a: f64, b: f64) -> f64 {
    match a > 0.0 && a < 1.0 && b > 0.0 && b < 1.0 {
        true => a + b - a * b,
        false => a.max(b),
    }
}

fn merged(a: &Drawn, b: &Drawn) -> Result<Drawn, Fault> {
    let made = format!("({}) + ({})", a.made, b.made);
    let made = if made.len() > 400 { "a longer sum".to_owned() } else { made };
    about(format!("{made} of {:?}", a.mask.shape().dims()));
    let merge = |a: &Mask<B>, b: &Mask<B>| {
        a.merge(b).map_err(|error: MaskError| Fault::new("masks of a shape merge", format!("{made}: {error}")))
    };
    let mask = merge(&a.mask, &b.mask)?;
    let weights = a.weights.iter().zip(&b.weights).map(|(a, b)| union(*a, *b)).collect();
    let drawn = matches(Drawn { mask, weights, made: made.clone() }, "merge", 4.0 * f64::from(f32::EPSILON))?;
    let swapped = numbers(&merge(&b.mask, &a.mask)?.to_dense());
    hold!(swapped == drawn.weights, "merge is commutative", "{made}");
    for (at, weight) in drawn.weights.iter().enumerate() {
        let (a, b) = (a.weights[at], b.weights[at]);
        hold!(*weight >= a.max(b), "a merge never lowers a weight", "{made}: {a:e} and {b:e} to {weight:e}");
        hold!(*weight <= 1.0, "a weight is a probability", "{made}: {a:e} and {b:e} to {weight:e}");
    }
    Ok(drawn)
}

/// The same mask, converted to a dense tensor or to CSR and back.
fn converted(source: &mut Source, drawn: &Drawn) -> Result<Drawn, Fault> {
    let refused = |error: MaskError| Fault::new("what a mask gives is accepted", format!("{}: {error}", drawn.made));
    let shape = drawn.mask.shape();
    let (mask, made) = match source.once_in(2) {
        true => (Mask::from_dense(drawn.mask.to_dense()).map_err(refused)?, "dense"),
        false => {
            let csr = views::checked_csr(drawn)?;
            (Mask::from_csr(shape, &csr, &drawn.mask.device()).map_err(refused)?, "csr")
        }
    };
    let made = format!("{made} of {}", drawn.made);
    matches(Drawn { mask, weights: drawn.weights.clone(), made }, "a conversion keeps weights", 0.0)
}

fn support(drawn: &Drawn) -> Result<Drawn, Fault> {
    let weights = drawn.weights.iter().map(|weight| f64::from(u8::from(*weight > 0.0))).collect();
    let made = format!("support of {}", drawn.made);
    matches(Drawn { mask: drawn.mask.support(), weights, made }, "support", 0.0)
}
