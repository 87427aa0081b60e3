use burn::tensor::{Tensor, backend::Backend};

use super::masked_attention;
use crate::{
    mask::{Mask, MaskForm},
    problem::{AttentionError, AttentionInputs, AttentionOutput, Requested, SoftmaxStatistics},
};

/// The dense attention over some inputs with which attention through masks is compared.
///
/// Reports, logs and studies all take their errors from here. It costs one pass of dense attention, or two passes with
/// [sinks](AttentionInputs::with_sink_logits).
#[derive(Debug, Clone)]
pub struct DenseReference {
    of_all: RowStatistics,
    /// The same without the sinks, if there are any.
    of_keys: Option<RowStatistics>,
}

/// The errors of the output of a row, compared with dense attention.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RowError {
    /// Norm of the difference of the outputs.
    pub difference: f64,
    /// Norm of the dense output.
    pub norm: f64,
    /// The log-sum-exp minus the dense log-sum-exp. Minus infinity in a row that sees keys but keeps none of them.
    pub log_sum_exp: f64,
    /// Relative error of the numerator of the softmax, in the Euclidean norm.
    pub numerator: f64,
    /// Relative error of the numerator in the direction of the dense numerator, with its sign.
    pub numerator_along: f64,
}

impl RowError {
    /// Relative error of the output. 0 if both outputs are 0.
    pub fn output(&self) -> f64 {
        relative(self.difference, self.norm)
    }

    /// Relative error of the denominator of the softmax, with its sign.
    pub fn denominator(&self) -> f64 {
        self.log_sum_exp.exp_m1()
    }
}

/// A difference over a norm. 0 if the difference is 0.
pub(super) fn relative(difference: f64, norm: f64) -> f64 {
    if difference == 0.0 { 0.0 } else { difference / norm }
}

/// The output and the softmax statistics of rows, on the host.
#[derive(Debug, Clone)]
struct RowStatistics {
    width: usize,
    output: Vec<f64>,
    maximum: Vec<f64>,
    denominator: Vec<f64>,
}

impl RowStatistics {
    fn of<B: Backend>(output: &AttentionOutput<B>, statistics: &SoftmaxStatistics<B>) -> Self {
        Self {
            width: output.output.dims()[3],
            output: host(&output.output),
            maximum: host(&statistics.maximum),
            denominator: host(&statistics.denominator),
        }
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.output[row * self.width..(row + 1) * self.width]
    }

    /// The log-sum-exp of a row minus the log-sum-exp of the same row in `other`. It is computed from the maxima and
    /// the denominators, because the log-sum-exp itself loses the digits of the difference if the logits are large.
    fn shift(&self, other: &Self, row: usize) -> f64 {
        match (self.denominator[row] == 0.0, other.denominator[row] == 0.0) {
            (true, true) => 0.0,
            (true, false) => f64::NEG_INFINITY,
            (false, true) => f64::INFINITY,
            (false, false) => {
                self.maximum[row] - other.maximum[row] + (self.denominator[row] / other.denominator[row]).ln()
            }
        }
    }
}

impl DenseReference {
    /// Dense attention over the inputs.
    ///
    /// # Errors
    /// If a required tensor is larger than the device can hold.
    pub fn of<B: Backend>(inputs: &AttentionInputs<B>) -> Result<Self, AttentionError> {
        let full = Mask::full(inputs.mask_shape(), &inputs.device());
        let of_all = statistics_of(inputs, &full)?;
        let of_keys = inputs.sink_logits().map(|_| statistics_of(&inputs.without_sink_logits(), &full)).transpose()?;
        Ok(Self { of_all, of_keys })
    }

    fn of_keys(&self) -> &RowStatistics {
        self.of_keys.as_ref().unwrap_or(&self.of_all)
    }

    /// For each row, whether it sees any key.
    pub fn sees(&self) -> impl Iterator<Item = bool> {
        self.of_keys().denominator.iter().map(|denominator| *denominator != 0.0)
    }

    /// The errors of each row of `found`, which is attention over the same inputs. Rows are counted over batch, heads
    /// and queries. Empty if the statistics of `found` were not requested.
    pub fn errors<B: Backend>(&self, found: &AttentionOutput<B>) -> Vec<RowError> {
        let Some(statistics) = &found.statistics else { return Vec::new() };
        let found = RowStatistics::of(found, statistics);
        (0..self.of_all.denominator.len()).map(|row| self.error(&found, row)).collect()
    }

    fn error(&self, found: &RowStatistics, row: usize) -> RowError {
        let (wanted, output) = (self.of_all.row(row), found.row(row));
        let log_sum_exp = found.shift(&self.of_all, row);
        let norm = self::norm(wanted.iter().copied());
        // The numerator is the output times the denominator. Relative to the dense denominator, it is the output times
        // this factor.
        let factor = log_sum_exp.exp();
        let numerator = || output.iter().zip(wanted).map(|(a, b)| (a * factor - b, *b));
        let along = numerator().map(|(difference, wanted)| difference * wanted).sum::<f64>();
        RowError {
            difference: self::norm(output.iter().zip(wanted).map(|(a, b)| a - b)),
            norm,
            log_sum_exp,
            numerator: relative(self::norm(numerator().map(|(difference, _)| difference)), norm),
            numerator_along: relative(along, norm.powi(2)),
        }
    }

    /// The share of the dense weights of each row that lies on kept keys. 1 in a row that sees no key.
    ///
    /// A sampled key counts once, with its own weight. Sinks do not count. With sampled keys, with sinks or with a
    /// dense mask, this costs a pass of attention over the kept keys. Otherwise it follows from `found`, which is
    /// attention through the mask.
    ///
    /// # Errors
    /// If the mask does not have the shape of the inputs, or a required tensor is larger than the device can hold.
    pub fn mass_kept<B: Backend>(
        &self,
        inputs: &AttentionInputs<B>,
        mask: &Mask<B>,
        found: &AttentionOutput<B>,
    ) -> Result<Vec<f64>, AttentionError> {
        let support = match &found.statistics {
            Some(statistics) if self.of_keys.is_none() && keeps_for_certain(mask) => {
                RowStatistics::of(found, statistics)
            }
            _ => statistics_of(&inputs.without_sink_logits(), &mask.support())?,
        };
        let dense = self.of_keys();
        let mass = |row: usize| match dense.denominator[row] == 0.0 {
            true => 1.0,
            false => support.shift(dense, row).exp(),
        };
        Ok((0..dense.denominator.len()).map(mass).collect())
    }
}

/// Whether the form of the mask shows that no key is sampled.
fn keeps_for_certain<B: Backend>(mask: &Mask<B>) -> bool {
    match mask.form() {
        MaskForm::Empty | MaskForm::Full | MaskForm::Pattern(_) => true,
        MaskForm::Indices(rows) => rows.lists().probability.is_none(),
        MaskForm::Dense(_) => false,
    }
}

fn statistics_of<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> Result<RowStatistics, AttentionError> {
    let found = masked_attention(inputs, mask, Requested { statistics: true, weights: false })?;
    match &found.statistics {
        Some(statistics) => Ok(RowStatistics::of(&found, statistics)),
        None => unreachable!("attention gives the statistics that are requested"),
    }
}

fn norm(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.map(|x| x * x).sum::<f64>().sqrt()
}

fn host<B: Backend>(tensor: &Tensor<B, 4>) -> Vec<f64> {
    tensor.to_data().convert::<f64>().iter::<f64>().collect()
}
