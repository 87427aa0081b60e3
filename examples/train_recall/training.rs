//! Training runs with burn's learner, and what its logs say of them.

use std::{error::Error, path::Path};

use burn::{
    backend::Autodiff,
    optim::AdamWConfig,
    tensor::{ElementConversion, backend::Backend},
    train::{
        Learner, SupervisedTraining,
        logger::{FileMetricLogger, MetricLogger},
        metric::{AccuracyMetric, LossMetric, store::Split},
    },
};
use sparse_attention_hub::{
    backend::Selected,
    masker::MaskerChainConfig,
    train::{DensityMetric, OutputErrorMetric},
};

use crate::{
    Arguments,
    data::{Sequence, Task, loader},
    model::RecallModel,
    progress::Progress,
};

type Training = Autodiff<Selected>;

const BATCH: usize = 32;
const LEARNING_RATE: f64 = 2e-3;

/// The sequences of all runs.
pub struct Sequences {
    pub train: Vec<Sequence>,
    pub held_out: Vec<Sequence>,
}

/// A trained model and its course.
pub struct Run {
    pub model: RecallModel<Selected>,
    /// Mean loss of each pass over the training data.
    pub losses: Vec<f64>,
    /// Accuracy, density and output error on held-out sequences after each pass.
    pub accuracies: Vec<f64>,
    pub densities: Vec<f64>,
    pub errors: Vec<f64>,
    pub seconds: f64,
}

/// Trains a model with a method in its attention; the logs of burn's learner go to a folder.
pub fn train(
    arguments: &Arguments,
    task: &Task,
    sequences: &Sequences,
    name: &str,
    method: &MaskerChainConfig,
) -> Result<Run, Box<dyn Error>> {
    let device = Default::default();
    // The same first weights and the same order of the data for every method.
    Training::seed(&device, arguments.seed);
    let model = RecallModel::<Training>::new(task, method, arguments.seed, &device)?;
    let folder = arguments.out.join(name);
    // What an earlier run logged there would be appended to.
    for logs in ["train", "valid"].map(|split| folder.join(split)).iter().filter(|logs| logs.exists()) {
        std::fs::remove_dir_all(logs)?;
    }
    let start = std::time::Instant::now();
    let training = SupervisedTraining::new(
        &folder,
        loader::<Training>(sequences.train.clone(), BATCH, Some(arguments.seed)),
        loader::<Selected>(sequences.held_out.clone(), BATCH, None),
    )
    .metrics((LossMetric::new(), AccuracyMetric::new()))
    .metric_valid_numeric(DensityMetric::new())
    .metric_valid_numeric(OutputErrorMetric::new())
    .num_epochs(arguments.passes)
    .with_application_logger(None);
    let training = match arguments.dashboard {
        true => training,
        // The progress bar has the terminal to itself.
        false => training.renderer(Progress::new(name)?),
    };
    let learner = Learner::new(model, AdamWConfig::new().with_weight_decay(0.01).init(), LEARNING_RATE);
    let model = training.launch(learner).model;
    let logs = |metric: &str, split: Split| logged(&folder, metric, split, arguments.passes);
    Ok(Run {
        model,
        losses: logs("Loss", Split::Train)?,
        accuracies: logs("Accuracy", Split::Valid)?,
        densities: logs("Attention density", Split::Valid)?,
        errors: logs("Attention output error", Split::Valid)?,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// The mean of a metric in each pass, from the learner's logs.
fn logged(folder: &Path, metric: &str, split: Split, passes: usize) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut logs = FileMetricLogger::new(folder);
    let pass = |pass: usize| -> Result<f64, Box<dyn Error>> {
        let entries = logs.read_numeric(metric, pass, &split)?;
        match entries.len() {
            0 => Err(format!("{} has no \"{metric}\" of pass {pass}", folder.display()).into()),
            count => Ok(entries.iter().map(|entry| entry.current()).sum::<f64>() / count as f64),
        }
    };
    (1..=passes).map(pass).collect()
}

/// The accuracy of a model under a method, in percent.
pub fn accuracy(
    model: &RecallModel<Selected>,
    method: &MaskerChainConfig,
    sequences: &[Sequence],
) -> Result<f64, Box<dyn Error>> {
    let model = model.clone().with_method(method, &Default::default())?;
    let (mut right, mut all) = (0.0, 0);
    for batch in loader::<Selected>(sequences.to_vec(), BATCH, None).iter() {
        let output = model.classify(batch);
        let [places, _] = output.output.dims();
        let named = output.output.argmax(1).reshape([places]);
        right += named.equal(output.targets).int().sum().into_scalar().elem::<f64>();
        all += places;
    }
    Ok(100.0 * right / all as f64)
}
