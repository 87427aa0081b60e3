use super::{Request, RequestOptions, Response};
use crate::{method::MaskerChainConfig, models::ModelError, nn::AttentionMode};

/// A model of a model hub that answers requests.
pub trait ModelHubAdapterInterface {
    /// Answers the questions of a request.
    ///
    /// # Errors
    /// If the request is empty, or too long for the model.
    fn process_request(&mut self, request: &Request, options: &RequestOptions) -> Result<Response, ModelError>;
}

/// A model whose attention layers run sparse methods.
pub trait SparseAttentionAdapterInterface {
    /// Sets the method of the layers. Settings for single layers in a method file apply to those layers.
    ///
    /// # Errors
    /// If the method cannot be built. The model then keeps its previous method.
    fn set_method(&mut self, method: &MaskerChainConfig) -> Result<(), ModelError>;

    /// The attention mode of questions and answers.
    fn mode(&self) -> AttentionMode;

    /// Sets the attention mode of questions and answers, and returns the previous mode.
    fn set_mode(&mut self, mode: AttentionMode) -> AttentionMode;

    /// Runs work in a mode, and then restores the previous mode.
    fn in_mode<T>(&mut self, mode: AttentionMode, work: impl FnOnce(&mut Self) -> T) -> T
    where
        Self: Sized,
    {
        let before = self.set_mode(mode);
        let result = work(self);
        self.set_mode(before);
        result
    }
}

/// A model of a hub that answers requests through sparse methods: both traits together.
pub trait ModelAdapter: ModelHubAdapterInterface + SparseAttentionAdapterInterface {}

impl<T: ModelHubAdapterInterface + SparseAttentionAdapterInterface> ModelAdapter for T {}
