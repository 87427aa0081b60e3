use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{
        Tensor,
        activation::{gelu, gelu_approximate, silu},
        backend::Backend,
    },
};

use super::GateActivation;

/// The feed-forward network of a layer: one projection gates another ([SwiGLU, GeGLU](https://arxiv.org/abs/2002.05202)).
///
/// # Params
///
/// - gate, up: [Linear] from the hidden to the intermediate size.
/// - down: [Linear] from the intermediate to the hidden size.
#[derive(Module, Debug)]
pub struct GatedFeedForward<B: Backend> {
    /// The projection that goes through the activation function.
    pub gate: Linear<B>,
    /// The projection that the gate multiplies.
    pub up: Linear<B>,
    /// The projection to the hidden size.
    pub down: Linear<B>,
    #[module(skip)]
    activation: GateActivation,
}

impl<B: Backend> GatedFeedForward<B> {
    /// A network with random weights.
    pub(super) fn new(sizes: [usize; 2], bias: bool, activation: GateActivation, device: &B::Device) -> Self {
        let [hidden, intermediate] = sizes;
        let linear = |from, to| LinearConfig::new(from, to).with_bias(bias).init(device);
        Self {
            gate: linear(hidden, intermediate),
            up: linear(hidden, intermediate),
            down: linear(intermediate, hidden),
            activation,
        }
    }

    /// The output.
    ///
    /// # Shapes
    /// - input: `[batch, tokens, hidden]`
    /// - output: the same
    pub fn forward(&self, input: Tensor<B, 3>) -> Tensor<B, 3> {
        let gate = self.gate.forward(input.clone());
        let gate = match self.activation {
            GateActivation::Silu => silu(gate),
            GateActivation::Gelu => gelu(gate),
            GateActivation::GeluTanh => gelu_approximate(gate),
        };
        self.down.forward(gate * self.up.forward(input))
    }
}
