//! A progress bar that replaces burn's dashboard. It also works in log files.

use burn::train::{
    metric::{MetricDefinition, MetricId},
    renderer::{
        EvaluationName, EvaluationProgress, MetricState, MetricsRenderer, MetricsRendererEvaluation,
        MetricsRendererTraining, ProgressType, TrainingProgress,
    },
};
use indicatif::{ProgressBar, ProgressStyle, style::TemplateError};

pub struct Progress {
    bar: ProgressBar,
    loss: Option<MetricId>,
}

impl Progress {
    pub fn new(name: &str) -> Result<Self, TemplateError> {
        let bar = ProgressBar::new(1);
        bar.set_style(ProgressStyle::with_template("{prefix:10} {bar:30} {msg}  {eta} left")?);
        bar.set_prefix(name.to_owned());
        Ok(Self { bar, loss: None })
    }
}

impl MetricsRendererTraining for Progress {
    fn update_train(&mut self, state: MetricState) {
        if let MetricState::Numeric(entry, _) = state
            && self.loss.as_ref() == Some(&entry.metric_id)
        {
            self.bar.set_message(format!("loss: {}", entry.serialized_entry.formatted));
        }
    }

    fn update_valid(&mut self, _: MetricState) {}

    fn render_train(&mut self, progress: TrainingProgress, _: Vec<ProgressType>) {
        let (passes, pass) = (progress.global_progress.items_total, progress.global_progress.items_processed);
        if let Some(within) = progress.progress {
            self.bar.set_length((passes * within.items_total) as u64);
            self.bar.set_position((pass.saturating_sub(1) * within.items_total + within.items_processed) as u64);
        }
    }

    fn render_valid(&mut self, _: TrainingProgress, _: Vec<ProgressType>) {}
}

impl MetricsRendererEvaluation for Progress {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}

    fn render_test(&mut self, _: EvaluationProgress, _: Vec<ProgressType>) {}
}

impl MetricsRenderer for Progress {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, metric: MetricDefinition) {
        if metric.name == "Loss" {
            self.loss = Some(metric.metric_id);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
