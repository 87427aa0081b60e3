//! Layers whose weights are drawn from the case, instead of from the backend's random numbers.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Tensor},
};

use super::{B, Source, numbers::tensor};

/// The module with weights drawn from the case.
pub fn with_drawn_weights<M: Module<B>>(source: &mut Source, module: M) -> M {
    module.map(&mut Draw(source))
}

struct Draw<'a>(&'a mut Source);

impl ModuleMapper<B> for Draw<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        param.map(|old| {
            let dims = old.dims();
            let values = (0..dims.iter().product()).map(|_| 0.7 * self.0.normal()).collect::<Vec<_>>();
            tensor(&values, dims, DType::F32)
        })
    }
}
