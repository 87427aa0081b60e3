use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use burn::tensor::{Tensor, backend::Backend};

use crate::{
    attention::masked_attention,
    mask::{Mask, MaskForm, MaskShape},
    masker::Masker,
    nn::AttentionHook,
    problem::{AttentionError, AttentionInputs, Requested},
    state::LayerState,
};

/// An [AttentionHook] that runs the methods of the layers and measures which keys they keep.
///
/// Measuring takes time and can be limited to some of the steps. [overhead](Self::overhead) returns the time it took.
#[derive(Debug, Clone, Default)]
pub struct AttentionMeter {
    every: usize,
    /// The number of steps seen so far, by layer.
    steps: BTreeMap<usize, usize>,
    counted: u64,
    density: f64,
    read: f64,
    overhead: Duration,
}

impl AttentionMeter {
    /// Measures the first step of each layer and then every `every`-th step. 0 and 1 measure all steps.
    pub fn every(every: usize) -> Self {
        Self { every, ..Self::default() }
    }

    /// The density: kept pairs divided by visible pairs, averaged over layers and measured steps. 1 if nothing was
    /// measured.
    pub fn density(&self) -> f64 {
        if self.counted == 0 { 1.0 } else { self.density / self.counted as f64 }
    }

    /// The share of the visible keys and values that attention reads, averaged over layers and measured steps. A key
    /// that several heads of a GQA group keep counts once. Reads that a method makes to select keys are not included. 1
    /// if nothing was measured.
    pub fn read(&self) -> f64 {
        if self.counted == 0 { 1.0 } else { self.read / self.counted as f64 }
    }

    /// The time that measuring took.
    pub fn overhead(&self) -> Duration {
        self.overhead
    }

    fn count<B: Backend>(&mut self, inputs: &AttentionInputs<B>, mask: &Mask<B>) {
        let start = Instant::now();
        self.counted += 1;
        self.density += mask.density(inputs.visibility()).visible;
        self.read += share_read(inputs, mask);
        self.overhead += start.elapsed();
    }
}

/// The share of the visible keys that at least one head of a GQA group keeps for at least one query.
fn share_read<B: Backend>(inputs: &AttentionInputs<B>, mask: &Mask<B>) -> f64 {
    if mask.is_full() {
        return 1.0;
    }
    let MaskShape { batch, heads, queries, keys } = mask.shape();
    let kv_heads = inputs.kv_heads();
    let rows = heads / kv_heads * queries;
    let mut read = vec![false; batch * kv_heads * keys];
    let span = inputs.visibility().closed_form();
    let visible = |query: usize, key: usize| span.as_ref().is_none_or(|span| span(query, keys).contains(&key));
    match mask.form() {
        MaskForm::Pattern(pattern) => {
            for query in 0..queries {
                for range in pattern.columns(query..query + 1, keys) {
                    for key in range.filter(|key| visible(query, *key)) {
                        (0..batch * kv_heads).for_each(|head| read[head * keys + key] = true);
                    }
                }
            }
        }
        _ => {
            let weights = mask.to_dense().into_data().convert::<f32>();
            for (at, weight) in weights.iter::<f32>().enumerate() {
                let (row, key) = (at / keys, at % keys);
                if weight > 0.0 && visible(row % queries, key) {
                    read[row / rows * keys + key] = true;
                }
            }
        }
    }
    let seen = (0..keys).filter(|&key| (0..queries).any(|query| visible(query, key))).count();
    let read = read.into_iter().filter(|read| *read).count();
    read as f64 / (batch * kv_heads * seen).max(1) as f64
}

impl<B: Backend> AttentionHook<B> for AttentionMeter {
    fn attend(
        &mut self,
        maskers: &dyn Masker<B>,
        inputs: &AttentionInputs<B>,
        state: &mut LayerState,
    ) -> Result<Tensor<B, 4>, AttentionError> {
        let mask = maskers.mask(inputs, state)?;
        let output = masked_attention(inputs, &mask, Requested::default())?.output;
        let step = self.steps.entry(inputs.layer()).or_default();
        let counted = step.is_multiple_of(self.every.max(1));
        *step += 1;
        if counted {
            self.count(inputs, &mask);
        }
        Ok(output)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Distribution, TensorData};
    use burn_flex::Flex;

    use super::*;
    use crate::method::{MaskerChain, MaskerChainConfig};

    fn inputs(queries: usize, keys: usize) -> AttentionInputs<Flex> {
        let device = Default::default();
        let random = |heads, length| Tensor::random([1, heads, length, 8], Distribution::Default, &device);
        AttentionInputs::new(random(4, queries), random(2, keys), random(2, keys)).unwrap().causal().unwrap()
    }

    #[test]
    fn a_key_that_heads_of_a_group_share_is_read_once() {
        let inputs = inputs(1, 10);
        // Heads 0 and 1 form a group that keeps 3 keys. Heads 2 and 3 form a group that keeps 1 key. So 4 of 20 keys
        // are read, and 5 of 40 pairs are kept.
        let mut kept = vec![0f32; 40];
        for (head, key) in [(0, 1), (0, 2), (1, 2), (1, 7), (2, 9)] {
            kept[head * 10 + key] = 1.0;
        }
        let mask = Mask::from_dense(Tensor::from_data(TensorData::new(kept, [1, 4, 1, 10]), &inputs.device())).unwrap();
        assert_eq!(share_read(&inputs, &mask), 0.2);
        let mut meter = AttentionMeter::default();
        meter.count(&inputs, &mask);
        assert!((meter.density() - 0.125).abs() < 1e-9 && (meter.read() - 0.2).abs() < 1e-9);
    }

    #[test]
    fn only_some_steps_are_counted() {
        let method = r#"[{"type": "sink", "sink_size": 1}, {"type": "local", "window_size": 2}]"#;
        let chain: MaskerChain<Flex> = MaskerChainConfig::from_json(method).unwrap().init(&Default::default()).unwrap();
        let (mut meter, mut state) = (AttentionMeter::every(2), LayerState::new(0));
        for keys in [6, 10, 12] {
            for layer in [0, 1] {
                meter.attend(&chain, &inputs(1, keys).with_layer(layer), &mut state).unwrap();
            }
        }
        // 3 of 6 keys, then 3 of 12 keys, in both layers.
        assert_eq!((meter.density(), meter.read()), (0.375, 0.375));
        assert_eq!(AttentionMeter::default().density(), 1.0);
    }
}
