//! The keys that each query keeps, and the probability with which each key is kept.

mod apply;
mod chosen;
mod convert;
mod csr;
mod error;
mod key_indices;
mod merge;
mod pattern;
mod picture;
mod shape;

use burn::tensor::{Tensor, backend::Backend};

pub(crate) use chosen::Chosen;
pub(crate) use convert::{columns_index, pattern_kept};
pub use csr::Csr;
pub use error::MaskError;
pub(crate) use key_indices::Kept;
pub use key_indices::KeyIndices;
pub use pattern::Pattern;
pub use shape::MaskShape;

/// The keys that each query keeps, and the probability with which each key is kept.
///
/// A weight of 0 means that the key is not kept. A weight of 1 means that it is kept for certain. A weight `p` in
/// between means that it was *sampled* with probability `p`. Attention divides the share of a sampled key by `p`, which
/// makes the sampled sums unbiased. A mask does not say which keys a query may *see*. This is given by
/// [Visibility](crate::attention::Visibility), and attention applies both.
///
/// A mask is a value: no operation changes the mask on which it is called. It is stored in the cheapest
/// [form](MaskForm) that can represent it, and every operation works on every form.
///
/// # Example
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn_flex::Flex;
/// use sparse_attention_hub::mask::{Mask, MaskShape, Pattern};
///
/// let shape = MaskShape::new([1, 2, 6, 6]);
/// let sink = Mask::<Flex>::pattern(shape, Pattern::sink(1), &Default::default());
/// let local = Mask::pattern(shape, Pattern::local(2, 0), &Default::default());
/// let mask = sink.merge(&local)?;
/// assert_eq!(mask.to_csr().indices[..6], [0, 0, 1, 0, 1, 2]);
/// # }
/// # Ok::<(), sparse_attention_hub::mask::MaskError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Mask<B: Backend> {
    shape: MaskShape,
    form: MaskForm<B>,
    device: B::Device,
}

/// How a [Mask] is stored.
#[derive(Debug, Clone)]
pub enum MaskForm<B: Backend> {
    /// No row keeps a key.
    Empty,
    /// Every row keeps every key, with probability 1.
    Full,
    /// Keys that are kept by position, the same in every head, in closed form.
    Pattern(Pattern),
    /// Lists of kept keys.
    Indices(KeyIndices<B>),
    /// A weight for every query-key pair, `[batch, heads, queries, keys]`, f32.
    Dense(Tensor<B, 4>),
}

impl<B: Backend> Mask<B> {
    /// A mask that keeps no key. Attention through it is 0, so it differs from having no mask.
    pub fn empty(shape: MaskShape, device: &B::Device) -> Self {
        Self::with_form(shape, MaskForm::Empty, device)
    }

    /// A mask that keeps every key: dense attention.
    pub fn full(shape: MaskShape, device: &B::Device) -> Self {
        Self::with_form(shape, MaskForm::Full, device)
    }

    /// A mask of keys kept by position.
    pub fn pattern(shape: MaskShape, pattern: Pattern, device: &B::Device) -> Self {
        Self::with_form(shape, MaskForm::Pattern(pattern), device)
    }

    /// A mask from lists of kept keys.
    ///
    /// # Errors
    /// If a shape does not fit, an index is neither a key nor -1, a row has a key twice, or a probability is not in
    /// (0, 1]. Also if no mask can have this shape. The lists are read back to check this.
    pub fn from_indices(shape: MaskShape, rows: KeyIndices<B>) -> Result<Self, MaskError> {
        rows.validate(shape)?;
        let device = rows.device();
        // Lists without slots are stored as empty, because some backends have no tensors without elements.
        let form = if rows.width() == 0 { MaskForm::Empty } else { MaskForm::Indices(rows) };
        Ok(Self::with_form(shape, form, &device))
    }

    /// A mask from weights, `[batch, heads, queries, keys]`, each in [0, 1].
    ///
    /// # Errors
    /// If a weight is outside [0, 1] or NaN. The tensor is read back to check this.
    pub fn from_dense(weights: Tensor<B, 4>) -> Result<Self, MaskError> {
        let shape = MaskShape::new(weights.dims());
        let host = weights.to_data().convert::<f32>();
        if let Some((at, weight)) = host.iter::<f32>().enumerate().find(|(_, weight)| !(0.0..=1.0).contains(weight)) {
            let (row, key) = (at / shape.keys, at % shape.keys);
            return Err(MaskError::Weight { row, key, weight, allowed: "[0, 1]" });
        }
        Ok(Self::from_dense_unchecked(weights))
    }

    /// A mask from weights that are known to be probabilities.
    pub(crate) fn from_dense_unchecked(weights: Tensor<B, 4>) -> Self {
        let shape = MaskShape::new(weights.dims());
        let device = weights.device();
        Self::with_form(shape, MaskForm::Dense(convert::as_f32(weights)), &device)
    }

    pub(crate) fn with_form(shape: MaskShape, form: MaskForm<B>, device: &B::Device) -> Self {
        // Without pairs no key is kept, and burn's operations do not support tensors without elements.
        let form = match form {
            MaskForm::Full => MaskForm::Full,
            _ if shape.dims().contains(&0) => MaskForm::Empty,
            form => form,
        };
        Self { shape, form, device: device.clone() }
    }

    /// The shape `[batch, heads, queries, keys]`.
    pub fn shape(&self) -> MaskShape {
        self.shape
    }

    /// The form in which the mask is stored.
    pub fn form(&self) -> &MaskForm<B> {
        &self.form
    }

    /// The device of the mask's tensors. They are created there if they do not exist yet.
    pub fn device(&self) -> B::Device {
        self.device.clone()
    }

    /// Whether the mask is stored as [full](MaskForm::Full).
    pub fn is_full(&self) -> bool {
        matches!(self.form, MaskForm::Full)
    }

    /// Whether the mask is stored as [empty](MaskForm::Empty).
    pub fn is_empty(&self) -> bool {
        matches!(self.form, MaskForm::Empty)
    }
}
