//! Cases of attention, dense and through a given mask.

use burn::tensor::{Tensor, backend::Backend};
use sparse_attention_hub::{
    attention::SoftmaxStatistics,
    prelude::{AttentionInputs, AttentionOutput, Mask, Pattern, Requested, dense_attention, masked_attention},
};

use super::{
    fixtures::{EVERYTHING, attention_weights, dense_mask, host, inputs, output, tensor},
    own::Problem,
    report::{Outcome, judge},
    vectors::{Case, Check, Result, Tolerance, all, close, equal},
};
use crate::common::{attention_rounding, product_rounding, weights_rounding};

/// Kind `repeat_kv`. This library never repeats keys and values. The case checks that each query head reads the right
/// key-value head: attention over grouped heads must equal attention over repeated heads.
pub fn repeat_kv<B: Backend>(case: &Case) -> Result<Outcome> {
    let (grouped, repeated) = (tensor::<B>(case.tensor("x")?), tensor::<B>(case.tensor("y")?));
    let [_, kv_heads, keys, _] = grouped.dims();
    equal("the number of heads", repeated.dims()[1], kv_heads * case.entry.number("n_rep")? as usize)?;
    let attend = |shared: &Tensor<B, 4>| AttentionInputs::new(repeated.clone(), shared.clone(), shared.clone());
    let (of_grouped, of_repeated) = (attend(&grouped)?, attend(&repeated)?);
    // With a window of one key, the output of each query is exactly the value at its own position.
    let window = Mask::pattern(of_grouped.mask_shape(), Pattern::local(1, 0), &of_grouped.device());
    let own_values = masked_attention(&of_grouped, &window, Requested::default())?;
    equal("the number of keys", keys, of_grouped.mask_shape().queries)?;
    let dense = |inputs| host(dense_attention(inputs, Requested::default()).output);
    let alike = Tolerance { atol: 1e-6, rtol: 1e-5 }.widened(attention_rounding::<B>());
    all([
        // The weight is 1, so only the value can be rounded in the product of weight and value.
        case.expect_product("y", &host(own_values.output), product_rounding::<B>()),
        close("attention", &dense(&of_grouped), &dense(&of_repeated), alike),
    ])?;
    Ok(Outcome::Passed)
}

fn statistics<B: Backend>(attention: &AttentionOutput<B>) -> Result<SoftmaxStatistics<B>> {
    Ok(attention.statistics.clone().ok_or("the statistics were requested and are not there")?)
}

/// Compares output and weights with those of the case.
fn expect_attention<B: Backend>(case: &Case, attention: &AttentionOutput<B>) -> Check {
    all([
        case.expect_product("output", &output(attention), attention_rounding::<B>()),
        case.expect_product("weights", &attention_weights(attention)?, weights_rounding::<B>()),
    ])
}

/// Kind `attention_dense`.
pub fn dense<B: Backend>(case: &Case) -> Result<Outcome> {
    let attention = dense_attention(&inputs::<B>(case)?, EVERYTHING);
    let log_sum_exp = host(statistics(&attention)?.log_sum_exp);
    all([
        expect_attention(case, &attention),
        case.expect_product_if_there("lse", &log_sum_exp, attention_rounding::<B>()),
    ])?;
    Ok(Outcome::Passed)
}

/// Kind `attention_masked_flag`.
pub fn masked_flag<B: Backend>(case: &Case) -> Result<Outcome> {
    let inputs = inputs::<B>(case)?;
    let (shape, device) = (inputs.mask_shape(), inputs.device());
    let mask = match case.entry.text("flag")? {
        "full" => Mask::full(shape, &device),
        "empty" => Mask::empty(shape, &device),
        other => return Err(format!("a mask of the form {other} is unknown").into()),
    };
    let attention = masked_attention(&inputs, &mask, EVERYTHING)?;
    judge(expect_attention(case, &attention), || {
        let (output, weights) = (output(&attention), attention_weights(&attention)?);
        all([
            equal("is_empty", mask.is_empty(), true),
            close("the output of a mask that keeps nothing", &output, &vec![0.0; output.len()], Tolerance::EXACT),
            close("the weights of a mask that keeps nothing", &weights, &vec![0.0; weights.len()], Tolerance::EXACT),
        ])?;
        Ok(vec!["Q01"])
    })
}

/// The addition to the tolerance of the softmax sums for rounded operands. The sums are up to 7 times as large as
/// `1 + |output|`, and the terms of the numerators cancel. Their errors are larger by the same factor: up to 17
/// roundings in the vectors.
fn sums_rounding<B: Backend>() -> f64 {
    3.0 * attention_rounding::<B>()
}

/// The sums of the softmax, row by row.
struct Sums {
    numerator: Vec<f64>,
    denominator: Vec<f64>,
    /// The logit that the sums of each row are relative to.
    maximum: Vec<f64>,
}

impl Sums {
    /// The same sums, relative to other maxima.
    fn relative_to(&self, maximum: &[f64]) -> Self {
        let width = self.numerator.len() / maximum.len();
        let factor = |row: usize| (self.maximum[row] - maximum[row]).exp();
        let scaled = |sums: &[f64], width: usize| {
            sums.iter().enumerate().map(|(at, sum)| if *sum == 0.0 { 0.0 } else { sum * factor(at / width) }).collect()
        };
        Self {
            numerator: scaled(&self.numerator, width),
            denominator: scaled(&self.denominator, 1),
            maximum: maximum.to_vec(),
        }
    }

    fn close_to(&self, wanted: &Self, tolerance: Tolerance) -> Check {
        // Relative to the larger maximum no exponential is much above 1. The rounding error is then as small as in
        // other comparisons.
        let larger = self.maximum.iter().zip(&wanted.maximum).map(|(a, b)| a.max(*b)).collect::<Vec<_>>();
        let (found, wanted) = (self.relative_to(&larger), wanted.relative_to(&larger));
        all([
            close("the numerator, rescaled", &found.numerator, &wanted.numerator, tolerance),
            close("the denominator, rescaled", &found.denominator, &wanted.denominator, tolerance),
        ])
    }
}

/// The largest logit of each row over kept and dropped keys. The sums of the vectors are relative to it.
fn row_maxima(case: &Case, problem: &Problem) -> Vec<f64> {
    match case.find("row_max") {
        Some(maxima) => maxima.values.clone(),
        None => (0..problem.rows()).map(|row| problem.maximum(row)).collect(),
    }
}

/// Kind `attention_masked`.
pub fn masked<B: Backend>(case: &Case) -> Result<Outcome> {
    let mask = dense_mask::<B>(case.tensor("mask")?)?;
    let attention = masked_attention(&inputs::<B>(case)?, &mask, EVERYTHING)?;
    let statistics = statistics(&attention)?;
    let sums = Sums {
        numerator: host(statistics.numerator),
        denominator: host(statistics.denominator),
        maximum: host(statistics.maximum),
    };
    let attention_as_expected = expect_attention(case, &attention);
    let sums_as_expected = all([("numerator", &sums.numerator), ("denominator", &sums.denominator)]
        .map(|(name, sums)| case.expect_product(name, sums, sums_rounding::<B>())));
    let (is_off, sums_are_off) = (attention_as_expected.is_err(), sums_as_expected.is_err());
    judge(all([attention_as_expected, sums_as_expected]), || {
        let problem = Problem::of::<B>(case)?;
        let own = problem.attend(&case.tensor("mask")?.values);
        let exact = case.entry.tolerance();
        let (tolerance, of_weights) =
            (exact.widened(attention_rounding::<B>()), exact.widened(weights_rounding::<B>()));
        let of_sums = exact.widened(sums_rounding::<B>());
        // Without the 1e-6 of the Python project, everything must equal the tensors `*_noeps` of the case, or the f64
        // result if the case lacks them.
        let without = |name: &str, own: Vec<f64>| case.find(name).map_or(own, |data| data.values.clone());
        all([
            close(
                "the sums' logarithm",
                &host(statistics.log_sum_exp),
                &without("lse_noeps", own.log_sum_exp),
                tolerance,
            ),
            close("the output", &output(&attention), &without("output_noeps", own.output), tolerance),
            close("the weights", &attention_weights(&attention)?, &without("weights_noeps", own.weights), of_weights),
            sums.close_to(
                &Sums { numerator: own.numerator, denominator: own.denominator, maximum: own.maximum },
                of_sums,
            ),
        ])?;
        let expected = Sums {
            numerator: case.tensor("numerator")?.values.clone(),
            denominator: case.tensor("denominator")?.values.clone(),
            maximum: row_maxima(case, &problem),
        };
        let rests_on_epsilon = is_off || sums.close_to(&expected, of_sums).is_err();
        let quirks = [("Q03", rests_on_epsilon), ("Q10", sums_are_off)];
        Ok(quirks.into_iter().filter(|(_, at_work)| *at_work).map(|(quirk, _)| quirk).collect())
    })
}
