//! What every configuration needs: its error, sizes and limits of its fields, and the parts that are registered by name.

mod error;
pub(crate) mod limits;
mod registry;
mod size;

pub use error::ConfigError;
pub use registry::NamedConfig;
pub(crate) use registry::{Registry, fields};
pub use size::Size;
