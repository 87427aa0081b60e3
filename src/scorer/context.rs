use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::tensor::backend::Backend;

use super::Scorer;
use crate::config::{ConfigError, NamedConfig, Registry};

/// What a configuration needs to build a masker or a scorer: a device, the registered scorers, and the folder to which
/// file names are relative.
pub struct Context<B: Backend> {
    device: B::Device,
    directory: PathBuf,
    layer: Option<usize>,
    scorers: Arc<Registry<Context<B>, dyn Scorer<B>>>,
}

impl<B: Backend> Context<B> {
    /// A context with the library's scorers. File names are relative to the current folder.
    pub fn new(device: &B::Device) -> Self {
        Self::with_scorers(device, Arc::new(super::registry()))
    }

    pub(crate) fn with_scorers(device: &B::Device, scorers: Arc<Registry<Context<B>, dyn Scorer<B>>>) -> Self {
        Self { device: device.clone(), directory: PathBuf::new(), layer: None, scorers }
    }

    /// The same context, with file names relative to another folder.
    pub fn in_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// The same context for a masker or scorer that only one layer of a model uses. Weights of other layers are then
    /// not kept.
    pub fn for_layer(mut self, layer: usize) -> Self {
        self.layer = Some(layer);
        self
    }

    /// The layer that was set with [for_layer](Self::for_layer), if any.
    pub fn layer(&self) -> Option<usize> {
        self.layer
    }

    /// The device on which tensors are created.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// The path of a file that a configuration names.
    pub fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.directory.join(file)
    }

    /// Builds the scorer of a configuration.
    ///
    /// # Errors
    /// If its type is not registered, or its configuration does not work.
    pub fn scorer(&self, named: &NamedConfig) -> Result<Box<dyn Scorer<B>>, ConfigError> {
        self.scorers.build(named, self)
    }
}

impl<B: Backend> fmt::Debug for Context<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("directory", &self.directory).field("scorers", &self.scorers).finish()
    }
}
