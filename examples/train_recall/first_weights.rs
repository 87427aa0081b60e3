//! Initial weights that are the same on every backend. Backends have their own random generators; this one runs on the
//! host.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;

/// The model with weights drawn from a seed. Embeddings are normal. Weights of linear layers are uniform within the
/// inverse square root of the number of inputs, and their biases are 0. Norms keep their initial values.
pub fn first_weights<B: Backend, M: Module<B>>(model: M, seed: u64) -> M {
    model.map(&mut FirstWeights { rng: Xoshiro256PlusPlus::seed_from_u64(seed), within: Vec::new() })
}

struct FirstWeights {
    rng: Xoshiro256PlusPlus,
    /// The types of the modules that contain the parameter.
    within: Vec<String>,
}

impl<B: Backend> ModuleMapper<B> for FirstWeights {
    fn enter_module(&mut self, _: &str, container_type: &str) {
        self.within.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.within.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let shape = param.lazy_shape();
        let count = shape.num_elements();
        let rng = &mut self.rng;
        let drawn: Vec<f32> = match (self.within.last().map(String::as_str), D) {
            (Some("Struct:Embedding"), _) => (0..count).map(|_| StandardNormal.sample(rng)).collect(),
            (Some("Struct:Linear"), 1) => vec![0.0; count],
            (Some("Struct:Linear"), _) => {
                let bound = 1.0 / (shape[0] as f32).sqrt();
                (0..count).map(|_| rng.random_range(-bound..bound)).collect()
            }
            _ => return param,
        };
        let device = param.lazy_device();
        Param::initialized(param.id, Tensor::from_data(TensorData::new(drawn, shape), &device).require_grad())
    }
}
