//! Invalid inputs must give an error and no panic.

use burn::tensor::DType;
use sparse_attention_hub::attention::{AttentionInputs, Requested, Visibility, dense_attention};

use super::runs::inputs;
use crate::generators::{
    B, Checked, Fault, Source,
    fault::hold,
    numbers::tensor,
    problem::{Problem, VisibilityCase},
};

/// Inputs with one thing wrong.
///
/// # Errors
/// If they are accepted.
pub fn check(source: &mut Source) -> Checked {
    match source.below(4) {
        0 => types(source),
        1 => shapes(source),
        2 => numbers(source),
        _ => offsets(source),
    }
}

/// Queries, keys and values must have the same type.
fn types(source: &mut Source) -> Checked {
    let types = [DType::F32, DType::F64, DType::F16, DType::BF16];
    let [a, b, c] = [0; 3].map(|_| *source.pick(&types));
    let of = |dtype| tensor(&[0.5, 0.25], [1, 1, 2, 1], dtype);
    let accepted = AttentionInputs::<B>::new(of(a), of(b), of(c)).is_ok();
    let alike = a == b && b == c;
    hold!(accepted == alike, "inputs are of one type", "{a:?}, {b:?}, {c:?}: accepted {accepted}");
    Ok(())
}

/// The shapes must fit each other, without a dimension of 0.
fn shapes(source: &mut Source) -> Checked {
    let lengths = [0, 1, 2, 3, 4];
    let [queries, keys, values] = [0; 3].map(|_| [0; 4].map(|_| *source.pick(&lengths)));
    let mut dims = [queries, keys, values];
    if source.once_in(2) {
        // Shapes that are nearly right.
        dims = [[2, 4, 3, 2], [2, 2, 4, 2], [2, 2, 4, 3]];
        dims[source.below(3)][source.below(4)] = *source.pick(&lengths);
    }
    let [queries, keys, values] = dims;
    let fits = !dims.concat().contains(&0)
        && [queries[0], queries[3]] == [keys[0], keys[3]]
        && keys[..3] == values[..3]
        && queries[1] % keys[1] == 0;
    let of = |dims: [usize; 4]| tensor(&vec![0.5; dims.iter().product()], dims, DType::F32);
    let inputs = AttentionInputs::<B>::new(of(queries), of(keys), of(values));
    hold!(inputs.is_ok() == fits, "inputs of shapes that fit", "{dims:?}: accepted {}", inputs.is_ok());
    let Ok(inputs) = inputs else { return Ok(()) };
    let hidden = [0; 4].map(|_| *source.pick(&lengths[1..]));
    let fits = [queries[0], 1].contains(&hidden[0])
        && [queries[1], 1].contains(&hidden[1])
        && hidden[2..] == [queries[2], keys[2]];
    let accepted = inputs.clone().with_visibility(Visibility::Biased(of(hidden))).is_ok();
    hold!(accepted == fits, "a visibility of a shape that fits", "{hidden:?} of {dims:?}: accepted {accepted}");
    let sink_logits = source.below(6);
    let accepted = inputs.with_sink_logits(tensor(&vec![0.5; sink_logits], [sink_logits], DType::F32)).is_ok();
    hold!(
        accepted == (sink_logits == queries[1]),
        "sinks for each head",
        "{sink_logits} of {dims:?}: accepted {accepted}"
    );
    Ok(())
}

/// Scale and softcap must be in their range.
fn numbers(source: &mut Source) -> Checked {
    let inputs = inputs(&Problem::draw(source))?;
    let number = *source.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0, 1e300, 5e-324, 3.0]);
    let accepted = inputs.clone().with_scale(number).is_ok();
    hold!(accepted == (number as f32).is_finite(), "a scale that is finite in f32", "{number}: accepted {accepted}");
    let accepted = inputs.clone().with_softcap(number).is_ok();
    let positive = (number as f32).is_finite() && number as f32 > 0.0;
    hold!(accepted == positive, "a softcap that is finite and above 0 in f32", "{number}: accepted {accepted}");
    let (first, end) = (source.below(8), source.below(8));
    let some = first < end && end <= inputs.mask_shape().queries;
    let accepted = inputs.narrow_queries(first..end).is_ok();
    hold!(accepted == some, "some of the queries there are", "{first}..{end}: accepted {accepted}");
    Ok(())
}

/// Positions beyond all keys, up to the largest number. They are refused, or they work: every key is visible, or none.
fn offsets(source: &mut Source) -> Checked {
    let mut problem = Problem::draw(source);
    let offset = match source.below(3) {
        0 => usize::MAX - source.below(4),
        1 => isize::MAX as usize - source.below(4),
        _ => (1 << 32) + source.below(4),
    };
    let window = *source.pick(&[1, 2, usize::MAX, usize::MAX - 1, isize::MAX as usize, offset]);
    problem.seen = VisibilityCase::Full;
    let inputs = inputs(&problem)?;
    let seen = match source.once_in(2) {
        true => Visibility::Causal { offset },
        false => Visibility::Window { offset, window },
    };
    let subject = format!("{} {seen:?}", problem.summary());
    let Ok(inputs) = inputs.with_visibility(seen) else { return Ok(()) };
    let output = crate::generators::numbers::numbers(&dense_attention(&inputs, Requested::default()).output);
    let finite = output.iter().all(|x| x.is_finite());
    hold!(finite, "positions far beyond the keys", "{subject}: {output:?}");
    let position = inputs.offset();
    inputs
        .narrow_queries(0..1)
        .map(|_| ())
        .map_err(|error| Fault::new("positions far beyond the keys", format!("{subject} at {position}: {error}")))
}
