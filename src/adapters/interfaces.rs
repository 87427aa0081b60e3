use super::{Request, RequestOptions, Response};
use crate::{masker::MaskerChainConfig, models::ModelError, nn::AttentionMode};

/// A model of some hub that answers requests.
pub trait ModelHubAdapterInterface {
    /// Answers the questions of a request.
    ///
    /// # Errors
    /// If the model cannot take the request, because it is too long or there is nothing in it.
    fn process_request(&mut self, request: &Request, options: &RequestOptions) -> Result<Response, ModelError>;
}

/// A model whose layers attend through methods.
pub trait SparseAttentionAdapterInterface {
    /// Gives the layers a method; what a method file says of single layers holds for these.
    ///
    /// # Errors
    /// If the method cannot be built. The model then has the method that it had.
    fn set_method(&mut self, method: &MaskerChainConfig) -> Result<(), ModelError>;

    /// How questions and answers attend.
    fn mode(&self) -> AttentionMode;

    /// Changes how questions and answers attend, and returns how they did.
    fn set_mode(&mut self, mode: AttentionMode) -> AttentionMode;

    /// Does work in a mode, and goes back to the mode before.
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

/// Both: a model of a hub that answers requests through sparse methods.
pub trait ModelAdapter: ModelHubAdapterInterface + SparseAttentionAdapterInterface {}

impl<T: ModelHubAdapterInterface + SparseAttentionAdapterInterface> ModelAdapter for T {}
