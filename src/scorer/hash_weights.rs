use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use rayon::prelude::*;

use super::{Activation, HashConfig, keys::Host};
use crate::{
    io::{FileError, OutputFile, TensorFile, write_tensors},
    kernels::{
        Heads, HostTensor,
        cpu::{Matrix, add_products},
        host_tensor,
    },
    problem::AttentionError,
};

/// Up to this number of vectors of a head, reading the weights is most of the work. This was measured with one vector,
/// as in a decode step.
pub(super) const FEW: usize = 8;

/// A matrix and a bias for each query head: one layer of [HeadPerceptrons].
#[derive(Module, Debug)]
pub struct HeadLinear<B: Backend> {
    /// The matrices, `[heads, width_in, width_out]`.
    pub matrix: Param<Tensor<B, 3>>,
    /// The biases, `[heads, width_out]`.
    pub bias: Param<Tensor<B, 2>>,
}

/// A perceptron for each query head.
#[derive(Module, Debug)]
pub struct HeadPerceptrons<B: Backend> {
    /// Matrices and biases, in order.
    pub layers: Vec<HeadLinear<B>>,
}

impl<B: Backend> HeadPerceptrons<B> {
    /// Perceptrons from matrices and biases in order, as trainable parameters. [no_grad](Module::no_grad) freezes them.
    ///
    /// # Shapes
    /// - each layer: `[heads, width_in, width_out]` and `[heads, width_out]`
    pub fn new(layers: impl IntoIterator<Item = (Tensor<B, 3>, Tensor<B, 2>)>) -> Self {
        let linear = |(matrix, bias)| HeadLinear { matrix: Param::from_tensor(matrix), bias: Param::from_tensor(bias) };
        Self { layers: layers.into_iter().map(linear).collect() }
    }

    /// Applies the perceptron of each head to the head's vectors. The signs of the output are the signature.
    ///
    /// # Shapes
    /// - x: `[batch, heads, length, width_in]`
    /// - output: `[batch, heads, length, width_out]`
    pub fn forward(&self, x: Tensor<B, 4>, activation: Activation) -> Tensor<B, 4> {
        // Vectors in half precision are converted to the type of the weights, which is f32.
        let x = match self.layers.first().map(|layer| layer.matrix.val().dtype()) {
            Some(dtype) if dtype != x.dtype() => x.cast(dtype),
            _ => x,
        };
        self.layers.iter().enumerate().fold(x, |x, (index, layer)| {
            let x = if index == 0 { x } else { activation.apply(x) };
            x.matmul(layer.matrix.val().unsqueeze()) + layer.bias.val().unsqueeze_dim::<3>(1).unsqueeze::<4>()
        })
    }

    /// The matrices and biases in host memory. `None` if any of them is elsewhere.
    fn on_host(&self) -> Option<Vec<OnHost>> {
        let tensors =
            |layer: &HeadLinear<B>| Some((host_tensor(&layer.matrix.val())?, host_tensor(&layer.bias.val())?));
        self.layers.iter().map(tensors).collect()
    }
}

/// Applies perceptrons on the host to a few vectors of each head, as in a decode step, where reading the weights is
/// most of the work.
///
/// The weights are not copied. The `heads` query heads share the vectors of their key-value heads. All `parts` run in
/// one parallel loop, so that threads are woken once. The result of a part is `None` if it has no vectors or more than
/// [FEW], or if its weights are not in host memory or not f32.
pub(super) fn of_few<B: Backend, const N: usize>(
    parts: [(&HeadPerceptrons<B>, &Host); N],
    heads: usize,
    activation: Activation,
) -> [Option<Host>; N] {
    let tensors = parts.map(|(perceptrons, x)| perceptrons.on_host().filter(|_| (1..=FEW).contains(&x.dims[2])));
    let layers =
        tensors.each_ref().map(|tensors| tensors.as_ref()?.iter().map(HostLayer::of).collect::<Option<Vec<_>>>());
    let of_part = |part: usize| {
        let all = if layers[part].is_some() { parts[part].1.dims[0] * heads } else { 0 };
        (0..all).map(move |at| (part, at))
    };
    let work = (0..N).flat_map(of_part).collect::<Vec<_>>();
    let first_matrix = |&(part, at): &(usize, usize)| Some(layers[part].as_ref()?.first()?.matrix(at % heads));
    let forward = |place: usize| {
        let (part, at) = work[place];
        let (layers, x) = (layers[part].as_deref().unwrap_or(&[]), parts[part].1);
        let [_, kv_heads, length, _] = x.dims;
        let (sequence, head) = (at / heads, at % heads);
        let vectors = x.head(sequence * kv_heads + head / (heads / kv_heads)).to_vec();
        layers.iter().enumerate().fold(vectors, |mut vectors, (index, layer)| {
            if index > 0 {
                vectors.iter_mut().for_each(|x| *x = activation.of(*x));
            }
            let mut sums = layer.bias(head).repeat(length);
            let next = match layers.get(index + 1) {
                Some(layer) => Some(layer.matrix(head)),
                None => work.get(place + 1).and_then(first_matrix),
            };
            add_products(&vectors, layer.matrix(head), &mut sums, next);
            sums
        })
    };
    let mut done = (0..work.len()).into_par_iter().map(forward).collect::<Vec<_>>().into_iter();
    std::array::from_fn(|part| {
        let (perceptrons, x) = parts[part];
        layers[part].as_ref()?;
        let [batch, _, length, width] = x.dims;
        let values = done.by_ref().take(batch * heads).collect::<Vec<_>>().concat();
        let width = perceptrons.layers.last().map_or(width, |layer| layer.matrix.dims()[2]);
        Some(Host::new(values, [batch, heads, length, width]))
    })
}

type OnHost = (Box<dyn HostTensor>, Box<dyn HostTensor>);

/// A layer of perceptrons in host memory, by head.
struct HostLayer<'a> {
    matrices: Vec<&'a [f32]>,
    biases: Vec<f32>,
}

impl<'a> HostLayer<'a> {
    /// `None` if the numbers are not f32.
    fn of((matrix, bias): &'a OnHost) -> Option<Self> {
        match (matrix.heads(), bias.heads()) {
            (Heads::F32(matrices), Heads::F32(bias)) => Some(Self { matrices, biases: bias.concat() }),
            _ => None,
        }
    }

    fn width(&self) -> usize {
        self.biases.len() / self.matrices.len()
    }

    fn matrix(&self, head: usize) -> Matrix<'a> {
        Matrix { numbers: self.matrices[head], width_out: self.width() }
    }

    fn bias(&self, head: usize) -> &[f32] {
        &self.biases[head * self.width()..][..self.width()]
    }
}

/// The weights for one layer of the model, with perceptrons for its queries and for its keys.
#[derive(Module, Debug)]
pub struct LayerPerceptrons<B: Backend> {
    /// For the queries.
    pub query: HeadPerceptrons<B>,
    /// For the keys.
    pub key: HeadPerceptrons<B>,
}

impl<B: Backend> LayerPerceptrons<B> {
    /// Checks that the perceptrons fit queries and keys of these shapes, and that matrices and biases fit each other.
    pub(crate) fn check(&self, queries: [usize; 4], keys: [usize; 4]) -> Result<(), AttentionError> {
        let heads = queries[1];
        let mut bits = None;
        for (tensor, perceptrons, head_dim) in
            [("hash query weights", &self.query, queries[3]), ("hash key weights", &self.key, keys[3])]
        {
            let error =
                |found: &[usize], expected| Err(AttentionError::Shape { tensor, found: found.to_vec(), expected });
            if perceptrons.layers.is_empty() {
                return error(&[], format!("[{heads}, {head_dim}, _] (heads, head_dim, width)"));
            }
            let mut width = head_dim;
            for linear in &perceptrons.layers {
                let (matrix, bias) = (linear.matrix.dims(), linear.bias.dims());
                if matrix[..2] != [heads, width] {
                    return error(&matrix, format!("[{heads}, {width}, _] (heads, width before, width)"));
                }
                width = matrix[2];
                if bias != [heads, width] {
                    return error(&bias, format!("[{heads}, {width}] (heads, width)"));
                }
            }
            match bits {
                Some(bits) if bits != width => {
                    return error(
                        &[heads, width],
                        format!("[{heads}, {bits}] (heads, bits), as the query weights end"),
                    );
                }
                _ => bits = Some(width),
            }
        }
        Ok(())
    }

    /// Untrained perceptrons with the widths of a configuration. The numbers are uniform in ±1 / √width_in, which is
    /// how PyTorch initialises a linear layer. They come from a separate generator with this seed, so every backend
    /// gets the same numbers.
    pub fn random(config: &HashConfig, heads: usize, head_dim: usize, seed: u64, device: &B::Device) -> Self {
        let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut part = || {
            HeadPerceptrons::new((0..config.hat_mlp_layers).map(|index| {
                let last = index + 1 == config.hat_mlp_layers;
                let width_in = if index == 0 { head_dim } else { config.hat_mlp_hidden_size };
                let width_out = if last { config.hat_bits } else { config.hat_mlp_hidden_size };
                let bound = 1.0 / (width_in as f32).sqrt();
                let mut uniform =
                    |count: usize| -> Vec<f32> { (0..count).map(|_| generator.random_range(-bound..=bound)).collect() };
                let matrix = TensorData::new(uniform(heads * width_in * width_out), [heads, width_in, width_out]);
                let bias = TensorData::new(uniform(heads * width_out), [heads, width_out]);
                (Tensor::from_data(matrix, device), Tensor::from_data(bias, device))
            }))
        };
        Self { query: part(), key: part() }
    }
}

/// The weights of [Hash](super::Hash), for each layer of the model.
///
/// They are parameters: an optimizer updates them, a record stores them, and [no_grad](Module::no_grad) freezes them. A
/// record has the layers in order but not their numbers, so it must be loaded into weights for the same layers of the
/// model.
#[derive(Module, Debug)]
pub struct HashWeights<B: Backend> {
    #[module(skip)]
    numbers: Numbers,
    layers: Vec<LayerPerceptrons<B>>,
}

/// The layers of the model that have weights.
#[derive(Debug, Clone)]
struct Numbers {
    /// The layers that have weights here, in ascending order.
    here: Vec<usize>,
    /// The file of the weights, and all layers in the file.
    file: Option<(PathBuf, Vec<usize>)>,
}

impl<B: Backend> HashWeights<B> {
    /// Weights for some layers of the model. If a layer is given twice, the last weights are used.
    pub fn new(layers: impl IntoIterator<Item = (usize, LayerPerceptrons<B>)>) -> Self {
        let (here, layers) = layers.into_iter().collect::<BTreeMap<_, _>>().into_iter().unzip();
        Self { numbers: Numbers { here, file: None }, layers }
    }

    /// The weights of a layer of the model.
    pub fn layer(&self, layer: usize) -> Option<&LayerPerceptrons<B>> {
        self.numbers.here.binary_search(&layer).ok().map(|at| &self.layers[at])
    }

    /// The layers of the model and their weights, in ascending order.
    pub fn layers(&self) -> impl Iterator<Item = (usize, &LayerPerceptrons<B>)> {
        self.numbers.here.iter().copied().zip(&self.layers)
    }

    /// Keeps the weights of a single layer of the model, from the weights of a file.
    ///
    /// # Errors
    /// If the file has no weights for this layer.
    pub(super) fn only(mut self, layer: usize, path: PathBuf) -> Result<Self, FileError> {
        match self.numbers.here.binary_search(&layer) {
            Ok(at) => {
                let numbers = Numbers { here: vec![layer], file: Some((path, self.numbers.here)) };
                Ok(Self { numbers, layers: vec![self.layers.swap_remove(at)] })
            }
            Err(_) => Err(FileError::Missing {
                path,
                missing: format!("layer {layer}"),
                found: format!("the layers {:?}", self.numbers.here),
            }),
        }
    }

    /// The source of the weights, for error messages.
    pub(super) fn origin(&self) -> String {
        match &self.numbers.file {
            Some((path, _)) => path.display().to_string(),
            None => "it".to_owned(),
        }
    }

    /// The layers for which the source has weights.
    pub(super) fn known(&self) -> &[usize] {
        self.numbers.file.as_ref().map_or(&self.numbers.here, |(_, layers)| layers)
    }
}

impl<B: Backend> HashWeights<B> {
    /// Weights from a file.
    ///
    /// With the feature `hf`, the file may be a PyTorch checkpoint (`.pt`, `.pth`, `.pkl`) in the layout of the paper's
    /// authors. Without this feature, a checkpoint is an error. Any other file is a safetensors file with these
    /// tensors, for `i` from 0:
    /// - `hat.<layer>.query_matrix.<i>` and `hat.<layer>.key_matrix.<i>`, `[heads, width_in, width_out]`
    /// - `hat.<layer>.query_bias.<i>` and `hat.<layer>.key_bias.<i>`, `[heads, width_out]`
    ///
    /// # Errors
    /// If the file cannot be read, a tensor is missing, or a shape differs from the configuration.
    pub fn from_file(path: PathBuf, config: &HashConfig, device: &B::Device) -> Result<Self, FileError> {
        if let Err(error) = config.validate() {
            let format = "a file of weights for this configuration";
            return Err(FileError::Format { path, format, reason: error.to_string() });
        }
        let origin = path.clone();
        let mut weights = match is_checkpoint(&path) {
            true => Self::from_checkpoint(path, config, device),
            false => Self::from_safetensors(path, config, device),
        }?;
        weights.numbers.file = Some((origin, weights.numbers.here.clone()));
        Ok(weights)
    }

    /// Writes the weights to a safetensors file, which [from_file](Self::from_file) reads. The file is first written
    /// under another name, so that it is never incomplete.
    ///
    /// # Errors
    /// If the file cannot be written, or if it is named like a PyTorch checkpoint.
    pub fn save(&self, path: PathBuf) -> Result<(), FileError> {
        if is_checkpoint(&path) {
            let reason = "weights are written as safetensors, not as a PyTorch checkpoint".to_owned();
            return Err(FileError::Format { path, format: "a safetensors file", reason });
        }
        let mut tensors = Vec::new();
        for (number, layer) in self.layers() {
            for (part, perceptrons) in [("query", &layer.query), ("key", &layer.key)] {
                for (index, linear) in perceptrons.layers.iter().enumerate() {
                    let name = |kind: &str| format!("hat.{number}.{part}_{kind}.{index}");
                    tensors.push((name("matrix"), linear.matrix.val().into_data()));
                    tensors.push((name("bias"), linear.bias.val().into_data()));
                }
            }
        }
        write_tensors(&OutputFile::new(path)?, tensors)
    }

    #[cfg(not(feature = "hf"))]
    fn from_checkpoint(path: PathBuf, _: &HashConfig, _: &B::Device) -> Result<Self, FileError> {
        let reason = "PyTorch checkpoints are read by builds with `--features hf` only".to_owned();
        Err(FileError::Format { path, format: "a safetensors file", reason })
    }

    fn from_safetensors(path: PathBuf, config: &HashConfig, device: &B::Device) -> Result<Self, FileError> {
        let file = TensorFile::open(path)?;
        let layers = file.names().filter_map(|name| name.strip_prefix("hat.")?.split('.').next()?.parse().ok());
        let layers = layers.collect::<BTreeSet<usize>>();
        if layers.is_empty() {
            return Err(file.missing("hat.0.query_matrix.0"));
        }
        let layers = layers.into_iter().map(|layer| {
            let part = |part: &str| -> Result<HeadPerceptrons<B>, FileError> {
                let mut width = None;
                let layers = (0..config.hat_mlp_layers).map(|index| {
                    let last = index + 1 == config.hat_mlp_layers;
                    let out = if last { config.hat_bits } else { config.hat_mlp_hidden_size };
                    let name = format!("hat.{layer}.{part}_matrix.{index}");
                    let matrix = file.tensor::<B, 3>(&name, device)?;
                    let [heads, width_in, width_out] = matrix.dims();
                    if width_out != out || width.is_some_and(|width| width != width_in) {
                        let width_in = width.map_or("head_dim".to_owned(), |width: usize| width.to_string());
                        return Err(file.shape(&name, &matrix.dims(), format!("[heads, {width_in}, {out}]")));
                    }
                    width = Some(width_out);
                    let name = format!("hat.{layer}.{part}_bias.{index}");
                    let bias = file.tensor::<B, 2>(&name, device)?;
                    match bias.dims() == [heads, out] {
                        true => Ok((matrix, bias)),
                        false => Err(file.shape(&name, &bias.dims(), format!("[{heads}, {out}]"))),
                    }
                });
                Ok(HeadPerceptrons::new(layers.collect::<Result<Vec<_>, _>>()?))
            };
            Ok((layer, LayerPerceptrons { query: part("query")?, key: part("key")? }))
        });
        Ok(Self::new(layers.collect::<Result<Vec<_>, FileError>>()?))
    }
}

/// Whether the file is named like a PyTorch checkpoint.
fn is_checkpoint(path: &Path) -> bool {
    matches!(path.extension().and_then(|extension| extension.to_str()), Some("pt" | "pth" | "pkl"))
}
