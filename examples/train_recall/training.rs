//! Training with burn's learner, and the numbers from its logs.

use std::{
    error::Error,
    io::{self, Write},
    panic,
    path::Path,
    process,
};

use burn::{
    backend::Autodiff,
    module::Module,
    optim::{AdamW, AdamWConfig, adaptor::OptimizerAdaptor},
    record::{FullPrecisionSettings, NamedMpkFileRecorder, Recorder, RecorderError},
    tensor::{ElementConversion, backend::Backend},
    train::{
        Learner, SupervisedTraining,
        checkpoint::KeepLastNCheckpoints,
        logger::{FileMetricLogger, MetricLogger},
        metric::{AccuracyMetric, LossMetric, store::Split},
    },
};
use sparse_attention_hub::{
    method::MaskerChainConfig,
    train::{DensityMetric, OutputErrorMetric},
};

use crate::{
    Arguments,
    data::{Sequence, Task, loader},
    model::RecallModel,
    progress::Progress,
};

/// The format of checkpoints.
type Checkpoints = NamedMpkFileRecorder<FullPrecisionSettings>;

const BATCH: usize = 32;
const LEARNING_RATE: f64 = 2e-3;

/// The sequences, which are the same for all runs.
pub struct Sequences {
    pub train: Vec<Sequence>,
    pub held_out: Vec<Sequence>,
}

/// A trained model and the course of its training.
pub struct Run<B: Backend> {
    pub model: RecallModel<B>,
    /// Mean loss of each pass over the training data.
    pub losses: Vec<f64>,
    /// Accuracy on held-out sequences after each pass.
    pub accuracies: Vec<f64>,
    pub densities: Vec<f64>,
    pub errors: Vec<f64>,
    pub seconds: f64,
}

/// Trains a model with an attention method. The logs and checkpoints of burn's learner are written to a folder.
pub fn train<B: Backend>(
    arguments: &Arguments,
    task: &Task,
    sequences: &Sequences,
    name: &str,
    method: &MaskerChainConfig,
    device: &B::Device,
) -> Result<Run<B>, Box<dyn Error>> {
    // Every method gets the same initial weights and the same order of the data.
    let model = RecallModel::<Autodiff<B>>::new(task, method, arguments.seed, device)?;
    let folder = arguments.out.join(name);
    // burn's learner can resume a training in the middle, but then numbers its passes from 1 again.
    let done = arguments.resume && check_checkpoint::<B>(&folder, arguments.passes, device).is_ok();
    if !done {
        for earlier in ["train", "valid", "checkpoint"].map(|part| folder.join(part)) {
            if earlier.exists() {
                std::fs::remove_dir_all(earlier)?;
            }
        }
    }
    let start = std::time::Instant::now();
    let training = SupervisedTraining::new(
        &folder,
        loader::<Autodiff<B>>(sequences.train.clone(), BATCH, Some(arguments.seed)),
        loader::<B>(sequences.held_out.clone(), BATCH, None),
    )
    .metrics((LossMetric::new(), AccuracyMetric::new()))
    .metric_valid_numeric(DensityMetric::new())
    .metric_valid_numeric(OutputErrorMetric::new())
    .num_epochs(arguments.passes)
    .with_file_checkpointer(Checkpoints::new())
    .with_checkpointing_strategy(KeepLastNCheckpoints::new(1))
    .with_application_logger(None);
    // After the last pass, no pass is left to train.
    let training = if done { training.checkpoint(arguments.passes) } else { training };
    let training = match arguments.dashboard {
        true => training,
        // The progress bar needs the terminal for itself.
        false => training.renderer(Progress::new(name)?),
    };
    let learner = Learner::new(model, AdamWConfig::new().with_weight_decay(0.01).init(), LEARNING_RATE);
    let model = ending_at_a_panic(name, || training.launch(learner).model);
    check_checkpoint::<B>(&folder, arguments.passes, device)
        .map_err(|error| format!("training \"{name}\" was not saved: {error}; is the disk full?"))?;
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

/// Runs the learner. If it panics, the program ends with the reason as its error. burn's log writers panic on a full
/// disk, on their own threads. They panic again while the first panic unwinds, which would abort the program.
fn ending_at_a_panic<T>(name: &str, launch: impl FnOnce() -> T) -> T {
    let usual = panic::take_hook();
    let name = name.to_owned();
    panic::set_hook(Box::new(move |info| {
        let reason = info.payload_as_str().unwrap_or("the learner panicked");
        // If standard error cannot be written, nothing is left to report to.
        let _ = writeln!(io::stderr(), "\nerror: training \"{name}\" failed: {reason}");
        process::exit(1);
    }));
    let launched = launch();
    panic::set_hook(usual);
    launched
}

/// Checks that everything was saved after the last pass and can be read. burn's recorders do not report a full disk.
fn check_checkpoint<B: Backend>(folder: &Path, passes: usize, device: &B::Device) -> Result<(), Box<dyn Error>> {
    type Model<B> = RecallModel<Autodiff<B>>;
    type Optimizer<B> = OptimizerAdaptor<AdamW, Model<B>, Autodiff<B>>;
    let recorder = Checkpoints::new();
    let path = |part: &str| folder.join("checkpoint").join(format!("{part}-{passes}"));
    let named = |part: &str, error: RecorderError| format!("{}.mpk cannot be read: {error}", path(part).display());
    let _: <Model<B> as Module<Autodiff<B>>>::Record =
        recorder.load(path("model"), device).map_err(|error| named("model", error))?;
    let _: <Optimizer<B> as burn::optim::Optimizer<Model<B>, Autodiff<B>>>::Record =
        Recorder::<Autodiff<B>>::load(&recorder, path("optim"), device).map_err(|error| named("optim", error))?;
    Ok(())
}

/// The mean of a metric for each pass, from the learner's logs.
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

/// The accuracy of a model with a method, in percent.
pub fn accuracy<B: Backend>(
    model: &RecallModel<B>,
    method: &MaskerChainConfig,
    sequences: &[Sequence],
    device: &B::Device,
) -> Result<f64, Box<dyn Error>> {
    let model = model.clone().with_method(method, device)?;
    let (mut right, mut all) = (0.0, 0);
    for batch in loader::<B>(sequences.to_vec(), BATCH, None).to_device(device).iter() {
        let output = model.classify(batch);
        let [places, _] = output.output.dims();
        let named = output.output.argmax(1).reshape([places]);
        right += named.equal(output.targets).int().sum().into_scalar().elem::<f64>();
        all += places;
    }
    Ok(100.0 * right / all as f64)
}
