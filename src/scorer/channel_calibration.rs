use std::{collections::BTreeMap, path::Path};

use burn::tensor::backend::Backend;

use super::{ChannelSelection, keys::Host};
use crate::{
    io::{FileError, OutputFile},
    problem::AttentionInputs,
};

/// Finds the outlier channels of each layer and head from sample queries and keys, and writes the file that
/// [ChannelsConfig](super::ChannelsConfig) names.
///
/// The importance of a channel is the mean of `|q * k|` in this channel over all pairs of a sampled query and a sampled
/// key, which is the product of the two mean magnitudes. It can also be the mean magnitude of the queries or of the
/// keys alone.
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Distribution, Tensor};
/// use burn_flex::Flex;
/// use sparse_attention_hub::{attention::AttentionInputs, scorer::ChannelCalibration};
///
/// let device = Default::default();
/// let random = |dims| Tensor::<Flex, 4>::random(dims, Distribution::Default, &device);
/// let sample = AttentionInputs::new(random([1, 6, 32, 16]), random([1, 2, 32, 16]), random([1, 2, 32, 16]))?;
/// let mut calibration = ChannelCalibration::new();
/// calibration.add(&sample.with_layer(3));
/// assert_eq!(calibration.channels(3).map(|heads| heads.len()), Some(6));
/// # }
/// # Ok::<(), sparse_attention_hub::attention::AttentionError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct ChannelCalibration {
    layers: BTreeMap<usize, Magnitudes>,
}

/// The magnitude of each channel, summed over the samples of a layer, by query head.
#[derive(Debug, Clone, Default)]
struct Magnitudes {
    queries: Vec<Vec<f64>>,
    keys: Vec<Vec<f64>>,
}

impl ChannelCalibration {
    /// A calibration without samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the queries and keys of the inputs' layer to the samples.
    pub fn add<B: Backend>(&mut self, inputs: &AttentionInputs<B>) {
        let (queries, keys) = (Host::of(inputs.queries()), Host::of(inputs.keys()));
        let heads = queries.dims[1];
        let group = heads / keys.dims[1];
        let magnitudes = self.layers.entry(inputs.layer()).or_default();
        let zeros = || vec![vec![0.0; queries.dims[3]]; heads];
        if magnitudes.queries.len() != heads {
            *magnitudes = Magnitudes { queries: zeros(), keys: zeros() };
        }
        for head in 0..queries.heads() {
            let add = |sums: &mut [f64], vectors: &[f32]| {
                let vectors = vectors.chunks(sums.len());
                let share = 1.0 / vectors.len() as f64;
                for vector in vectors {
                    sums.iter_mut().zip(vector).for_each(|(sum, x)| *sum += f64::from(x.abs()) * share);
                }
            };
            add(&mut magnitudes.queries[head % heads], queries.head(head));
            add(&mut magnitudes.keys[head % heads], keys.head(head / group));
        }
    }

    /// The channels of each query head of a layer, by falling importance in the product. `None` for a layer without
    /// samples.
    pub fn channels(&self, layer: usize) -> Option<Vec<Vec<usize>>> {
        self.layers.get(&layer).map(|magnitudes| magnitudes.sorted(ChannelSelection::QkProj))
    }

    /// Writes the channel file, with a list for queries, for keys and for products. The file is
    /// [written whole or not at all](OutputFile).
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        let file = OutputFile::new(path.as_ref())?;
        let selections = [ChannelSelection::QProj, ChannelSelection::KProj, ChannelSelection::QkProj];
        let entries = self.layers.iter().flat_map(|(&layer, magnitudes)| {
            selections.map(|selection| (selection.entry(layer), magnitudes.sorted(selection)))
        });
        let entries = entries.collect::<BTreeMap<_, _>>();
        file.write_with(|file| {
            serde_json::to_writer(&mut *file, &entries)?;
            file.write_all(b"\n")
        })
    }
}

impl Magnitudes {
    fn sorted(&self, selection: ChannelSelection) -> Vec<Vec<usize>> {
        let heads = self.queries.iter().zip(&self.keys).map(|(queries, keys)| {
            let importance = |channel: usize| match selection {
                ChannelSelection::QProj => queries[channel],
                ChannelSelection::KProj => keys[channel],
                ChannelSelection::QkProj => queries[channel] * keys[channel],
            };
            let mut channels = (0..queries.len()).collect::<Vec<_>>();
            channels.sort_by(|&a, &b| importance(b).total_cmp(&importance(a)));
            channels
        });
        heads.collect()
    }
}
