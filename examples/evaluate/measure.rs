//! Measures one case with one method.

use std::{error::Error, time::Instant};

use burn::tensor::backend::Backend;
use sparse_attention_hub::{
    eval::{AttentionMeter, Perplexity, PerplexityConfig, tasks::Sample},
    models::{PREFILL_CHUNK, Pretrained},
    nn::AttentionMode,
};

use super::{cases::Case, results::Outcome};

/// A model with a method.
pub struct Measure<'a, B: Backend> {
    pub pretrained: &'a Pretrained<B>,
    /// The name of the method.
    pub name: &'a str,
    pub seed: u64,
}

impl<B: Backend> Measure<'_, B> {
    /// Measures a case.
    pub fn case(&self, case: &Case) -> Result<Outcome, Box<dyn Error>> {
        let start = Instant::now();
        let (task, length) = case.column();
        let mut meter = AttentionMeter::default();
        let (value, answer) = match case {
            Case::Sample(sample) => self.sample(sample, &mut meter)?,
            Case::Perplexity(config, text) => (self.perplexity(*config, text, &mut meter)?, String::new()),
        };
        Ok(Outcome {
            method: self.name.to_owned(),
            id: case.id(),
            task,
            length,
            seed: self.seed,
            value,
            density: meter.density(),
            read: meter.read(),
            answer,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// The score of an answer. The context uses dense attention; question and answer use the method.
    fn sample(&self, sample: &Sample, meter: &mut AttentionMeter) -> Result<(f64, String), Box<dyn Error>> {
        let Pretrained { model, tokenizer, generation } = self.pretrained;
        let mut cache = model.cache(self.seed);
        let context = tokenizer.encode(&sample.context, true)?;
        let question = tokenizer.encode(&sample.question, false)?;
        model.prefill(&context, &mut cache, PREFILL_CHUNK, &mut AttentionMode::Dense)?;
        let config = generation.clone().with_sampling(None)?.with_max_new_tokens(sample.max_new_tokens);
        let mut mode = AttentionMode::Sparse;
        let written = self.pretrained.write(&question, &mut cache, &config, [&mut mode, meter], &mut |_| {})?;
        Ok((sample.score.of(&written.text, &sample.answers), written.text))
    }

    fn perplexity(
        &self,
        config: PerplexityConfig,
        text: &[u32],
        meter: &mut AttentionMeter,
    ) -> Result<f64, Box<dyn Error>> {
        let model = &self.pretrained.model;
        let begin = model.config().begin_token;
        let mut dense = AttentionMode::Dense;
        Ok(Perplexity::measure(model, begin, text, config, [&mut dense, meter], || {})?.value())
    }
}
