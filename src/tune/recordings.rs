use std::{path::Path, time::Instant};

use burn::tensor::backend::Backend;
use serde_json::Value;

use super::{Outcome, TuneError};
use crate::{
    attention::{AttentionReport, DenseReference},
    method::MaskerRegistry,
    problem::{AttentionInputs, Phase, Requested},
    state::LayerState,
};

/// Recordings on which methods are tried. Dense attention over each recording is computed once.
#[derive(Debug)]
pub struct Recordings<B: Backend> {
    all: Vec<(AttentionInputs<B>, DenseReference)>,
    seed: u64,
}

impl<B: Backend> Recordings<B> {
    /// Recordings of any model. The seed is that of methods that sample. Methods with phases run
    /// `decode`, unless the phase of the inputs was [set](AttentionInputs::with_phase).
    ///
    /// # Errors
    /// If there are no recordings, or dense attention over one cannot be computed.
    pub fn new(inputs: impl IntoIterator<Item = AttentionInputs<B>>, seed: u64) -> Result<Self, TuneError> {
        let dense = |inputs: AttentionInputs<B>| {
            let phase = inputs.phase_if_set().unwrap_or(Phase::Decode);
            let inputs = inputs.with_phase(phase);
            let dense = DenseReference::of(&inputs)?;
            Ok((inputs, dense))
        };
        let all = inputs.into_iter().map(dense).collect::<Result<Vec<_>, TuneError>>()?;
        match all.is_empty() {
            true => {
                let (field, value) = ("recordings".to_owned(), "empty".to_owned());
                Err(TuneError::Value { field, value, allowed: "at least one" })
            }
            false => Ok(Self { all, seed }),
        }
    }

    /// The number of recordings.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are no recordings. This is always false.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The outcome of a method on the first recordings. Relative paths of files in the method start at a folder.
    ///
    /// # Errors
    /// If the method cannot be built, or cannot work with a recording.
    pub fn outcome(
        &self,
        registry: &MaskerRegistry<B>,
        method: &Value,
        folder: &Path,
        first: usize,
    ) -> Result<Outcome, TuneError> {
        let recordings = &self.all[..first.clamp(1, self.all.len())];
        if !method.is_array() && !method.is_object() {
            let (field, value) = ("method".to_owned(), method.to_string());
            return Err(TuneError::Value { field, value, allowed: "a list of maskers, or an object of them by phase" });
        }
        let attention = registry.research_attention_of(method.clone(), folder, &recordings[0].0.device())?;
        let (mut heads, mut sum) = (0.0, Outcome { error: 0.0, density: 0.0, milliseconds: 0.0 });
        for (inputs, dense) in recordings {
            let start = Instant::now();
            let requested = Requested { statistics: true, weights: false };
            let found = attention.forward(inputs, &mut LayerState::new(self.seed), requested)?;
            // Reading the output waits until the device has finished.
            let _ = found.attention.output.to_data();
            sum.milliseconds += start.elapsed().as_secs_f64() * 1e3;
            let report = AttentionReport::compare(dense, inputs, &found.mask, &found.attention)?;
            heads += report.heads.len() as f64;
            sum.error += report.heads.iter().map(|head| head.output_error).sum::<f64>();
            sum.density += report.heads.iter().map(|head| head.density.visible).sum::<f64>();
        }
        Ok(Outcome {
            error: sum.error / heads,
            density: sum.density / heads,
            milliseconds: sum.milliseconds / recordings.len() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tensor};
    use serde_json::json;

    use super::*;

    type B = crate::backend::Selected;

    #[test]
    fn methods_with_phases_decode() {
        let random = |heads, length| Tensor::random([1, heads, length, 8], Distribution::Default, &Default::default());
        let inputs = AttentionInputs::<B>::new(random(4, 5), random(2, 60), random(2, 60)).unwrap().causal().unwrap();
        let errors = |inputs: AttentionInputs<B>| {
            let recordings = Recordings::new([inputs], 1).unwrap();
            let list = json!([{"type": "sink", "sink_size": 3}]);
            let methods = [json!({"decode": list}), json!({"prefill": list}), json!({"layers": {"0": list}}), list];
            let outcome = |method| recordings.outcome(&MaskerRegistry::new(), &method, Path::new(""), 1).unwrap();
            methods.map(|method| outcome(method).error)
        };
        let [decode, prefill, both, list] = errors(inputs.clone());
        assert!(decode == list && both == list && list > 0.1 && prefill < 1e-6);
        let [decode, prefill, both, list] = errors(inputs.clone().with_phase(Phase::Prefill));
        assert!(prefill == list && both == list && list > 0.1 && decode < 1e-6);
        let recordings = Recordings::new([inputs], 1).unwrap();
        let error = recordings.outcome(&MaskerRegistry::new(), &json!(3), Path::new(""), 1).unwrap_err().to_string();
        assert!(error.contains("a list of maskers, or an object"), "{error}");
    }
}
