//! The cases that are measured with each method.

use std::{error::Error, path::Path};

use burn::tensor::backend::Backend;
use sparse_attention_hub::{
    eval::{
        PerplexityConfig,
        tasks::{Sample, SampleMaker, Task, read_samples},
    },
    models::Pretrained,
};

use super::Arguments;

/// A question or a perplexity.
pub enum Case {
    /// A question about a context.
    Sample(Sample),
    /// The perplexity of the tokens of a text.
    Perplexity(PerplexityConfig, Vec<u32>),
}

impl Case {
    /// The identifier of the case, which is the same in every run.
    pub fn id(&self) -> String {
        match self {
            Self::Sample(sample) => sample.id.clone(),
            Self::Perplexity(PerplexityConfig { length, dense_prefix, windows }, _) => {
                format!("perplexity-{length}-{dense_prefix}-{windows}")
            }
        }
    }

    /// The task and length, by which cases are grouped.
    pub fn column(&self) -> (String, usize) {
        match self {
            Self::Sample(sample) => (sample.task.clone(), sample.length),
            Self::Perplexity(config, _) => ("perplexity".to_owned(), config.length),
        }
    }
}

/// All cases of the command.
pub fn cases<B: Backend>(
    arguments: &Arguments,
    pretrained: &Pretrained<B>,
    text: &str,
) -> Result<Vec<Case>, Box<dyn Error>> {
    let tokenizer = &pretrained.tokenizer;
    let mut cases = Vec::new();
    for name in &arguments.tasks {
        if name == "perplexity" {
            let tokens = tokenizer.encode(text, false)?;
            for &length in &arguments.lengths {
                let dense_prefix = (length as f64 * arguments.dense_prefix) as usize;
                let config = PerplexityConfig { length, dense_prefix, windows: arguments.samples };
                cases.push(Case::Perplexity(config, tokens.clone()));
            }
        } else if let Some(task) = Task::named(name) {
            let depths = match &arguments.depths[..] {
                [] => vec![None],
                depths => depths.iter().map(|depth| Some(*depth)).collect(),
            };
            for (&length, &depth) in
                arguments.lengths.iter().flat_map(|length| depths.iter().map(move |depth| (length, depth)))
            {
                let maker = SampleMaker { tokenizer, text, length, depth, seed: arguments.seed };
                for number in 0..arguments.samples {
                    let mut sample = maker.sample(task, number)?;
                    if let Some(depth) = depth {
                        sample.id = format!("{}-{depth}", sample.id);
                    }
                    cases.push(Case::Sample(sample));
                }
            }
        } else if Path::new(name).exists() {
            let samples = read_samples(name, None, pretrained.generation.max_new_tokens)?;
            let wanted = |sample: &Sample| arguments.lengths.contains(&sample.length) || sample.length == 0;
            cases.extend(samples.into_iter().filter(wanted).map(Case::Sample));
        } else {
            let known = Task::ALL.map(|(name, _)| name).join(", ");
            return Err(format!("{name} is neither a task file nor one of {known}, perplexity").into());
        }
    }
    Ok(cases)
}
