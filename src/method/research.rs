use burn::tensor::backend::Backend;

use super::{
    MaskerChain,
    choice::{Choice, at_most_one_sampler},
    step_log::StepLog,
};
use crate::{
    attention::{AttentionReport, masked_attention},
    config::ConfigError,
    mask::Mask,
    masker::Masker,
    metrics::{
        MetricLogger,
        built_in::{MILLISECONDS_ATTEND, MILLISECONDS_SELECT},
    },
    problem::{AttentionError, AttentionInputs, AttentionOutput, Requested},
    state::LayerState,
};

/// Attention through any chain of [maskers](Masker), to study a method.
///
/// The maskers add keys one after the other, and attention runs over the kept keys. Without maskers it is dense
/// attention. If a method has phases or layers, the maskers of the [phase](AttentionInputs::phase) and the
/// [layer](AttentionInputs::layer) of the inputs run. Samplers compute the scores of all pairs of queries and keys.
/// Selectors compute the scores row by row, if the scorer can.
///
/// Usually made by [MaskerRegistry::research_attention](crate::method::MaskerRegistry::research_attention).
#[derive(Debug)]
pub struct ResearchAttention<B: Backend> {
    maskers: Vec<Box<dyn Masker<B>>>,
    choice: Choice,
    logger: MetricLogger,
}

/// The result of research attention.
#[derive(Debug, Clone)]
pub struct ResearchOutput<B: Backend> {
    /// The output of attention, with the requested parts.
    pub attention: AttentionOutput<B>,
    /// The keys that were kept.
    pub mask: Mask<B>,
}

impl<B: Backend> ResearchAttention<B> {
    /// Attention through a chain of maskers.
    ///
    /// # Errors
    /// If more than one of them [samples](Masker::samples): a sampler estimates all keys that the other maskers left
    /// out.
    pub fn new(maskers: Vec<Box<dyn Masker<B>>>) -> Result<Self, ConfigError> {
        at_most_one_sampler(maskers.iter().map(AsRef::as_ref))?;
        let choice = Choice::all(maskers.len());
        Ok(Self::of(maskers, choice))
    }

    /// Attention through the maskers that a choice selects for each call. At most one masker of each chain samples.
    pub(crate) fn of(maskers: Vec<Box<dyn Masker<B>>>, choice: Choice) -> Self {
        Self { maskers, choice, logger: MetricLogger::off() }
    }

    /// The same with a logger, which takes [metrics](crate::metrics::built_in) of every call of
    /// [forward](Self::forward) and [report](Self::report).
    ///
    /// For each head and query, it takes the density, the bytes of keys and values, and the number of sampled keys. If
    /// the sampler reports them ([VerifiedSampling](crate::masker::VerifiedSampling)), it also takes the standard error
    /// and the bound. For the layer, it takes the milliseconds of the selection and of attention, and waits for the
    /// device to measure them. These metrics cost little. The [errors](crate::metrics::built_in::AGAINST_DENSE) cost a
    /// pass of dense attention in every step that the logger samples. The step is the number of earlier calls with the
    /// same state.
    pub fn with_logger(self, logger: MetricLogger) -> Self {
        Self { logger, ..self }
    }

    /// The maskers in their order. For a method with phases or layers, these are the maskers of all chains: `prefill`,
    /// then `decode`, then `layers`.
    pub fn maskers(&self) -> &[Box<dyn Masker<B>>] {
        &self.maskers
    }

    /// Whether some of the maskers run in one [phase](crate::attention::Phase) only.
    pub fn has_phases(&self) -> bool {
        self.choice.has_phases()
    }

    /// The keys that the chain keeps. Without maskers, all keys.
    ///
    /// # Errors
    /// If a masker cannot work with the inputs.
    pub fn mask(&self, inputs: &AttentionInputs<B>, state: &mut LayerState) -> Result<Mask<B>, AttentionError> {
        self.choice.mask(&self.maskers, AsRef::as_ref, inputs, state)
    }

    /// Attention over the keys that the chain keeps.
    ///
    /// # Errors
    /// If a masker cannot work with the inputs, or something cannot be logged.
    pub fn forward(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
        requested: Requested,
    ) -> Result<ResearchOutput<B>, AttentionError> {
        let Some(log) = StepLog::begin(&self.logger, inputs, state) else {
            let mask = self.mask(inputs, state)?;
            let attention = masked_attention(inputs, &mask, requested)?;
            return Ok(ResearchOutput { attention, mask });
        };
        let device = inputs.device();
        let mask = log.timed::<B, _>(MILLISECONDS_SELECT, &device, || self.mask(inputs, state))?;
        let statistics = requested.statistics || log.compares();
        let mut attention = log.timed::<B, _>(MILLISECONDS_ATTEND, &device, || {
            masked_attention(inputs, &mask, Requested { statistics, ..requested })
        })?;
        log.kept(inputs, &mask, state.sampling_report())?;
        log.compared(inputs, &mask, &attention)?;
        if !requested.statistics {
            attention.statistics = None;
        }
        Ok(ResearchOutput { attention, mask })
    }

    /// The density of the chain and the error of its output against dense attention, for each head.
    ///
    /// # Errors
    /// If a masker cannot work with the inputs, or something cannot be logged.
    pub fn report(
        &self,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
    ) -> Result<AttentionReport, AttentionError> {
        let Some(log) = StepLog::begin(&self.logger, inputs, state) else {
            return AttentionReport::of(inputs, &self.mask(inputs, state)?);
        };
        let mask = log.timed::<B, _>(MILLISECONDS_SELECT, &inputs.device(), || self.mask(inputs, state))?;
        log.kept(inputs, &mask, state.sampling_report())?;
        let report = AttentionReport::of(inputs, &mask)?;
        log.report(&report)?;
        Ok(report)
    }
}

/// The method of a layer, to study it.
impl<B: Backend> From<MaskerChain<B>> for ResearchAttention<B> {
    fn from(chain: MaskerChain<B>) -> Self {
        let (maskers, choice) = chain.into_parts();
        let boxed = |masker| Box::new(masker) as Box<dyn Masker<B>>;
        // The samplers of a chain were checked when it was built.
        Self::of(maskers.into_iter().map(boxed).collect(), choice)
    }
}
