use std::sync::Arc;

use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry, SerializedEntry,
    state::{FormatOptions, NumericMetricState},
};

use crate::attention::AttentionReport;

/// The share of the visible query-key pairs that attention kept, in percent. This is a metric for burn's training loop,
/// which shows it on its dashboard and in its logs.
///
/// The output of the model's step must adapt to [DensityInput].
#[derive(Clone)]
pub struct DensityMetric {
    name: MetricName,
    state: NumericMetricState,
}

/// The input of [DensityMetric] from one step.
///
/// # Example
/// ```
/// use burn::train::metric::Adaptor;
/// use sparse_attention_hub::{attention::AttentionReport, train::DensityInput};
///
/// struct StepOutput {
///     /// One a layer.
///     reports: Vec<AttentionReport>,
/// }
///
/// impl Adaptor<DensityInput> for StepOutput {
///     fn adapt(&self) -> DensityInput {
///         DensityInput::of(&self.reports)
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DensityInput {
    /// The mean density over visible keys, in `[0, 1]`.
    density: f64,
    /// The weight in the mean over an epoch.
    heads: usize,
}

impl DensityInput {
    /// A mean density over some heads. `heads` counts the heads of all sequences and layers.
    pub fn new(density: f64, heads: usize) -> Self {
        Self { density, heads }
    }

    /// The mean over all heads of some reports, such as one for each layer.
    pub fn of(reports: &[AttentionReport]) -> Self {
        let (density, heads) = mean(reports.iter().flat_map(|report| &report.heads).map(|head| head.density.visible));
        Self { density, heads }
    }
}

/// The distance between the output of attention and the output of dense attention, relative to the norm of the latter.
/// This is a metric for burn's training loop, which shows it on its dashboard and in its logs.
///
/// The output of the model's step must adapt to [OutputErrorInput].
#[derive(Clone)]
pub struct OutputErrorMetric {
    name: MetricName,
    state: NumericMetricState,
}

/// The input of [OutputErrorMetric] from one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutputErrorInput {
    /// The mean relative error.
    error: f64,
    /// The weight in the mean over an epoch.
    heads: usize,
}

impl OutputErrorInput {
    /// A mean relative error over some heads. `heads` counts the heads of all sequences and layers.
    pub fn new(error: f64, heads: usize) -> Self {
        Self { error, heads }
    }

    /// The mean over all heads of some reports, such as one for each layer.
    pub fn of(reports: &[AttentionReport]) -> Self {
        let (error, heads) = mean(reports.iter().flat_map(|report| &report.heads).map(|head| head.output_error));
        Self { error, heads }
    }
}

/// The mean and the count of some numbers. The mean is 0 if there are none.
fn mean(numbers: impl Iterator<Item = f64>) -> (f64, usize) {
    let (sum, count) = numbers.fold((0.0, 0), |(sum, count), number| (sum + number, count + 1));
    (sum / f64::from(count.max(1)), count as usize)
}

impl Default for DensityMetric {
    fn default() -> Self {
        Self { name: Arc::new("Attention density".to_owned()), state: NumericMetricState::default() }
    }
}

impl Default for OutputErrorMetric {
    fn default() -> Self {
        Self { name: Arc::new("Attention output error".to_owned()), state: NumericMetricState::default() }
    }
}

impl DensityMetric {
    /// A metric without data.
    pub fn new() -> Self {
        Self::default()
    }
}

impl OutputErrorMetric {
    /// A metric without data.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Metric for DensityMetric {
    type Input = DensityInput;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn description(&self) -> Option<String> {
        Some("Query-key pairs that attention keeps, of those that are visible".to_owned())
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: Some("%".to_owned()), higher_is_better: false }.into()
    }

    fn update(&mut self, step: &DensityInput, _metadata: &MetricMetadata) -> SerializedEntry {
        let format = FormatOptions::new(self.name()).unit("%").precision(2);
        self.state.update(100.0 * step.density, step.heads, format)
    }

    fn clear(&mut self) {
        self.state.reset();
    }
}

impl Metric for OutputErrorMetric {
    type Input = OutputErrorInput;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn description(&self) -> Option<String> {
        Some("Distance of attention's output from dense attention's, relative to its norm".to_owned())
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: None, higher_is_better: false }.into()
    }

    fn update(&mut self, step: &OutputErrorInput, _metadata: &MetricMetadata) -> SerializedEntry {
        self.state.update(step.error, step.heads, FormatOptions::new(self.name()).precision(4))
    }

    fn clear(&mut self) {
        self.state.reset();
    }
}

impl Numeric for DensityMetric {
    fn value(&self) -> NumericEntry {
        self.state.current_value()
    }

    fn running_value(&self) -> NumericEntry {
        self.state.running_value()
    }
}

impl Numeric for OutputErrorMetric {
    fn value(&self) -> NumericEntry {
        self.state.current_value()
    }

    fn running_value(&self) -> NumericEntry {
        self.state.running_value()
    }
}
