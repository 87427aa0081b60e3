use super::quantize::{Rounding, pseudo_quantize};
use crate::kernels::cpu::{LABELS_AT_A_TIME, Label, Steps, add_label_products};

/// The labels of the keys of one head. A label is a few channels of a key, quantised.
///
/// Labels are stored in blocks of [LABELS_AT_A_TIME] keys, `[block, channel, key]`. The dot products of all keys in a
/// block are then computed side by side, one channel after the other. A number takes a byte if it is quantised to 8
/// bits or less.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels {
    channels: usize,
    bits: u32,
    keys: usize,
    codes: Codes,
    /// For each key, the number that code 0 stands for, and the difference between adjacent codes.
    least: Vec<f32>,
    step: Vec<f32>,
}

#[derive(Debug, Clone)]
enum Codes {
    Bytes(Vec<u8>),
    Reals(Vec<f32>),
}

impl Default for Codes {
    fn default() -> Self {
        Self::Reals(Vec::new())
    }
}

impl Labels {
    /// An empty list of labels, with this number of channels and bits for each label.
    pub fn new(channels: usize, bits: u32) -> Self {
        let codes = if bits <= 8 { Codes::Bytes(Vec::new()) } else { Codes::Reals(Vec::new()) };
        Self { channels, bits, codes, ..Self::default() }
    }

    /// Appends the label of the next key.
    pub fn push(&mut self, label: impl Iterator<Item = f32>) {
        let mut label = label.collect::<Vec<_>>();
        let least = label.iter().copied().fold(f32::INFINITY, f32::min);
        let greatest = label.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let steps = ((1u32 << self.bits.min(16)) - 1) as f32;
        let step = if greatest > least { (greatest - least) / steps } else { 0.0 };
        let slot = self.keys % LABELS_AT_A_TIME;
        let size = (self.keys / LABELS_AT_A_TIME + 1) * self.channels * LABELS_AT_A_TIME;
        let block = size - self.channels * LABELS_AT_A_TIME;
        match &mut self.codes {
            Codes::Bytes(codes) => {
                codes.resize(size, 0);
                for (channel, value) in label.iter().enumerate() {
                    let code = if step > 0.0 {
                        ((value - least) * (steps / (greatest - least))).round_ties_even()
                    } else {
                        0.0
                    };
                    codes[block + channel * LABELS_AT_A_TIME + u8::place(slot)] = code.clamp(0.0, steps) as u8;
                }
                self.least.push(least);
                self.step.push(step);
            }
            Codes::Reals(codes) => {
                codes.resize(size, 0.0);
                pseudo_quantize(&mut label, self.bits, Rounding::Nearest);
                for (channel, &value) in label.iter().enumerate() {
                    codes[block + channel * LABELS_AT_A_TIME + f32::place(slot)] = value;
                }
            }
        }
        self.keys += 1;
    }

    /// Removes all but the first `keys` labels.
    pub fn truncate(&mut self, keys: usize) {
        if keys < self.keys {
            self.keys = keys;
            let size = keys.div_ceil(LABELS_AT_A_TIME) * self.channels * LABELS_AT_A_TIME;
            match &mut self.codes {
                Codes::Bytes(codes) => codes.truncate(size),
                Codes::Reals(codes) => codes.truncate(size),
            }
            self.least.truncate(keys);
            self.step.truncate(keys);
        }
    }

    /// The dot products of a query's label with the labels of all keys.
    pub fn products(&self, query: &[f32], scores: &mut [f32]) {
        scores.fill(0.0);
        self.add_products(query, scores);
    }

    /// Adds the [products](Self::products) to scores.
    pub fn add_products(&self, query: &[f32], scores: &mut [f32]) {
        match &self.codes {
            Codes::Bytes(codes) => {
                let steps = Steps { least: &self.least, step: &self.step };
                add_label_products(query, codes, Some(steps), scores);
            }
            Codes::Reals(codes) => add_label_products(query, codes, None, scores),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_quantised_labels() {
        let value = |key: usize, channel: usize| ((key * 7 + channel * 13) % 29) as f32 / 7.0 - 2.0;
        let query = [0.3f32, -1.2, 0.7, 2.0, -0.4];
        for bits in [1, 4, 8, 9, 16] {
            let mut labels = Labels::new(5, bits);
            (0..71).for_each(|key| labels.push((0..5).map(|channel| value(key, channel))));
            let mut scores = vec![0f32; 71];
            labels.products(&query, &mut scores);
            for (key, score) in scores.into_iter().enumerate() {
                let mut label = [0, 1, 2, 3, 4].map(|channel| value(key, channel));
                pseudo_quantize(&mut label, bits, Rounding::Nearest);
                let wanted = label.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
                assert!((score - wanted).abs() < 2e-6 * 20.0, "{bits} bits, key {key}: {score}, not {wanted}");
            }
        }
    }

    #[test]
    fn labels_that_come_again_are_the_same() {
        let label = |key: usize| [key as f32, 1.0 / (1.0 + key as f32), 3.0].into_iter();
        for bits in [4, 16] {
            let (mut once, mut again) = (Labels::new(3, bits), Labels::new(3, bits));
            (0..70).for_each(|key| once.push(label(key)));
            (0..100).for_each(|key| again.push(label(if key < 33 { key } else { 7 * key })));
            again.truncate(33);
            (33..70).for_each(|key| again.push(label(key)));
            let products = |labels: &Labels| {
                let mut scores = [0f32; 70];
                labels.products(&[1.0, -2.0, 0.5], &mut scores);
                scores
            };
            assert_eq!(products(&once), products(&again), "{bits} bits");
        }
    }

    #[test]
    fn equal_channels_stay() {
        let mut labels = Labels::new(3, 2);
        labels.push([0.7, 0.7, 0.7].into_iter());
        let mut scores = [0f32];
        labels.products(&[1.0, 2.0, 3.0], &mut scores);
        assert!((scores[0] - 4.2).abs() < 1e-6);
    }
}
