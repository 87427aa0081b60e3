//! Sequences of different lengths in one batch.

use std::ops::Range;

use burn::tensor::{Bool, DType, Tensor, TensorData};

use crate::generators::{B, Source, device, numbers::tensor};

/// A batch in which some positions are padding.
#[derive(Debug, Clone)]
pub struct Padded {
    width: usize,
    /// For each sequence and position, the numbers and whether it is padding.
    positions: Vec<Vec<(Vec<f64>, bool)>>,
    left: bool,
}

impl Padded {
    /// A batch of prompts, padded on the left or on the right. Padded positions hold arbitrary numbers.
    pub fn draw(source: &mut Source, width: usize) -> Self {
        let sequences = source.between(1, 3);
        let lengths = (0..sequences).map(|_| source.between(1, 7)).collect::<Vec<_>>();
        let length = lengths.iter().copied().max().unwrap_or(1);
        let left = source.once_in(2);
        let filling = *source.pick(&[0.0, 1.0, 1e6, f64::NAN]);
        let positions = lengths.iter().map(|&own| {
            let mut positions = (0..own).map(|_| (vector(source, width), false)).collect::<Vec<_>>();
            let padding = vec![(vec![filling; width], true); length - own];
            let at = if left { 0 } else { own };
            positions.splice(at..at, padding);
            positions
        });
        Self { width, positions: positions.collect(), left }
    }

    /// Appends one or two positions to every sequence.
    pub fn extend(&mut self, source: &mut Source) {
        for _ in 0..source.between(1, 2) {
            for sequence in &mut self.positions {
                sequence.push((vector(source, self.width), false));
            }
        }
    }

    /// The first `end` positions.
    pub fn up_to(&self, end: usize) -> Self {
        let mut cut = self.clone();
        cut.positions.iter_mut().for_each(|sequence| sequence.truncate(end));
        cut
    }

    /// The number of sequences.
    pub fn sequences(&self) -> usize {
        self.positions.len()
    }

    /// The number of positions of each sequence, including padding.
    pub fn length(&self) -> usize {
        self.positions[0].len()
    }

    /// A range of positions of all sequences.
    pub fn tokens(&self, range: Range<usize>) -> Tensor<B, 3> {
        let positions = self.positions.iter().flat_map(|sequence| &sequence[range.clone()]);
        let values = positions.flat_map(|(values, _)| values.iter().copied()).collect::<Vec<_>>();
        tensor(&values, [self.sequences(), range.len(), self.width], DType::F32)
    }

    /// For each position, whether it is padding.
    pub fn padding(&self) -> Tensor<B, 2, Bool> {
        let hidden = self.positions.iter().flatten().map(|(_, padding)| *padding).collect::<Vec<_>>();
        Tensor::from_data(TensorData::new(hidden, [self.sequences(), self.length()]), &device())
    }

    /// The positions of a sequence that are not padding.
    pub fn places(&self, sequence: usize) -> Vec<usize> {
        let places = self.positions[sequence].iter().enumerate().filter(|(_, (_, padding))| !padding);
        places.map(|(place, _)| place).collect()
    }

    /// A sequence without padding.
    pub fn alone(&self, sequence: usize) -> Tensor<B, 3> {
        let positions = self.positions[sequence].iter().filter(|(_, padding)| !padding);
        let values = positions.flat_map(|(values, _)| values.iter().copied()).collect::<Vec<_>>();
        tensor(&values, [1, values.len() / self.width, self.width], DType::F32)
    }

    /// The lengths and the side of the padding.
    pub fn summary(&self) -> String {
        let lengths = (0..self.sequences()).map(|sequence| self.places(sequence).len()).collect::<Vec<_>>();
        format!("sequences of {lengths:?} of {} padded {}", self.length(), if self.left { "left" } else { "right" })
    }
}

fn vector(source: &mut Source, width: usize) -> Vec<f64> {
    (0..width).map(|_| f64::from(source.normal() as f32)).collect()
}
