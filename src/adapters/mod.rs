//! Requests in text to a model that answers in text, as the Python project's adapters take them, and hooks that record
//! what the layers of a model attend to.
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
