use burn::tensor::{Tensor, backend::Backend};

use super::{Mask, MaskError, MaskForm};

impl<B: Backend> Mask<B> {
    /// Multiplies `x` by the weights.
    ///
    /// # Shapes
    /// - x, output: `[batch, heads, queries, keys]`.
    ///
    /// # Errors
    /// If `x` has another shape.
    pub fn apply(&self, x: Tensor<B, 4>) -> Result<Tensor<B, 4>, MaskError> {
        self.check_shape(&x)?;
        Ok(match self.form() {
            MaskForm::Empty => x.zeros_like(),
            MaskForm::Full => x,
            _ => x.clone() * self.to_dense().cast(x.dtype()),
        })
    }

    /// Divides `x` by the weights of kept keys, and sets it to 0 elsewhere. A key with the weight `p` then stands for
    /// `1 / p` keys.
    ///
    /// # Shapes
    /// - x, output: `[batch, heads, queries, keys]`.
    ///
    /// # Errors
    /// If `x` has another shape.
    pub fn apply_inverse(&self, x: Tensor<B, 4>) -> Result<Tensor<B, 4>, MaskError> {
        self.check_shape(&x)?;
        Ok(match self.form() {
            MaskForm::Empty => x.zeros_like(),
            MaskForm::Full => x,
            _ => {
                let weights = self.to_dense().cast(x.dtype());
                let dropped = weights.clone().equal_elem(0.0);
                (x / weights.mask_fill(dropped.clone(), 1.0)).mask_fill(dropped, 0.0)
            }
        })
    }

    fn check_shape(&self, x: &Tensor<B, 4>) -> Result<(), MaskError> {
        match x.dims() == self.shape().dims() {
            true => Ok(()),
            false => {
                Err(MaskError::Shape { what: "the tensor to weight", found: x.dims().to_vec(), expected: self.shape() })
            }
        }
    }
}
