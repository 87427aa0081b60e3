use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use burn::tensor::{Tensor, backend::Backend};

use crate::{
    attention::{AttentionError, AttentionInputs, Requested, masked_attention},
    mask::{Mask, MaskForm, MaskShape},
    masker::{LayerState, Masker},
    nn::AttentionHook,
};

/// A hook that attends through the methods of the layers, and counts what they keep.
///
/// Counting takes time, so that it can be restricted to some steps; [overhead](Self::overhead) says how much it took.
#[derive(Debug, Clone, Default)]
pub struct AttentionMeter {
    every: usize,
    /// How often each layer has been met.
    steps: BTreeMap<usize, usize>,
    counted: u64,
    density: f64,
    read: f64,
    overhead: Duration,
}

impl AttentionMeter {
    /// A meter of the first step of each layer and of every so many after it; 0 and 1: all.
    pub fn every(every: usize) -> Self {
        Self { every, ..Self::default() }
    }

    /// The mean density over layers and counted steps: pairs kept over pairs visible. 1 if nothing was counted.
    pub fn density(&self) -> f64 {
        if self.counted == 0 { 1.0 } else { self.density / self.counted as f64 }
    }

    /// The mean share of the keys and values that attention reads, over layers and counted steps: what the heads of a
    /// group keep, each key once. What a method reads in order to choose is not in it. 1 if nothing was counted.
    pub fn read(&self) -> f64 {
        if self.counted == 0 { 1.0 } else { self.read / self.counted as f64 }
    }

    /// The time that counting took.
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

/// The share of the visible keys that at least one head of a group keeps for at least one query.
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
    use crate::masker::{MaskerChain, MaskerChainConfig};

    fn inputs(queries: usize, keys: usize) -> AttentionInputs<Flex> {
        let device = Default::default();
        let random = |heads, length| Tensor::random([1, heads, length, 8], Distribution::Default, &device);
        AttentionInputs::new(random(4, queries), random(2, keys), random(2, keys)).unwrap().causal().unwrap()
    }

    #[test]
    fn a_key_that_heads_of_a_group_share_is_read_once() {
        let inputs = inputs(1, 10);
        // Heads 0 and 1 are a group and keep 3 keys together, heads 2 and 3 keep 1: 4 of 20; pairs are 5 of 40.
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
        // Three of 6 and of 12 keys, in both layers.
        assert_eq!((meter.density(), meter.read()), (0.375, 0.375));
        assert_eq!(AttentionMeter::default().density(), 1.0);
    }
}
