//! Adapters that answer requests in text, as the Python project's adapters do, and hooks that record the attention
//! inputs of a model's layers.
//!
//! | Python project | here |
//! |---|---|
//! | `ModelHubAdapterInterface` | [ModelHubAdapterInterface] |
//! | `SparseAttentionAdapterInterface` | [SparseAttentionAdapterInterface] |
//! | `ModelAdapter` | [ModelAdapter] |
//! | `ModelAdapterHF` | [ModelAdapterHF] |
//! | `Request`, `Response` | [Request], [Response] |

#[cfg(feature = "hf")]
mod interfaces;
#[cfg(feature = "hf")]
mod model_adapter_hf;
mod recorder;
#[cfg(feature = "hf")]
mod request;

#[cfg(feature = "hf")]
pub use interfaces::{ModelAdapter, ModelHubAdapterInterface, SparseAttentionAdapterInterface};
#[cfg(feature = "hf")]
pub use model_adapter_hf::ModelAdapterHF;
pub use recorder::Recorder;
#[cfg(feature = "hf")]
pub use request::{Answer, Request, RequestOptions, Response};
