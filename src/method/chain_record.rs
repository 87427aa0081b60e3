//! Records of chains. Whether a record fits a chain is checked before burn loads it.

use burn::{
    module::{
        AutodiffModule, Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    },
    tensor::backend::{AutodiffBackend, Backend},
};
use thiserror::Error;

use super::{
    BuiltInMasker, MaskerChain,
    built_in::{BuiltInMaskerRecord, kind_of_record},
    chain::MaskerChainRecord,
    choice::Choice,
};

/// Why a record does not fit a module.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record belongs to another chain.
    #[error("the record is that of the chain {}, and not of the chain {}", list(record), list(chain))]
    Chain {
        /// The maskers of the record.
        record: Vec<String>,
        /// The maskers of the chain.
        chain: Vec<String>,
    },
    /// The record belongs to a model with more or fewer layers.
    #[error("the record has {record} layers, and the model has {model}")]
    Layers {
        /// The number of layers of the record.
        record: usize,
        /// The number of layers of the model.
        model: usize,
    },
}

fn list(kinds: &[String]) -> String {
    format!("[{}]", kinds.join(", "))
}

impl<B: Backend> MaskerChain<B> {
    /// The chain with the contents of a record.
    ///
    /// # Errors
    /// If the record belongs to a chain of other maskers, or of the same maskers in another order. The error names both
    /// chains.
    pub fn try_load_record(self, record: MaskerChainRecord<B>) -> Result<Self, RecordError> {
        self.check_record(&record)?;
        Ok(self.load_record(record))
    }

    /// Checks that a record belongs to a chain of the same maskers in the same order.
    ///
    /// # Errors
    /// If it does not. The error names both chains.
    pub fn check_record(&self, record: &MaskerChainRecord<B>) -> Result<(), RecordError> {
        self.maskers.check_record(&record.maskers)
    }
}

/// The maskers of a chain: a list that is a burn module and checks a record before burn loads it. The choice which of
/// them run in a call is not in the record.
#[derive(Debug, Clone)]
pub(super) struct Maskers<B: Backend> {
    pub all: Vec<BuiltInMasker<B>>,
    pub choice: Choice,
}

impl<B: Backend> Maskers<B> {
    fn check_record(&self, record: &[BuiltInMaskerRecord<B>]) -> Result<(), RecordError> {
        let kinds = |records: &[BuiltInMaskerRecord<B>]| records.iter().map(kind_of_record).collect::<Vec<_>>();
        let (chain, record) = (kinds(&self.all.clone().into_record()), kinds(record));
        match chain == record {
            true => Ok(()),
            false => Err(RecordError::Chain { record, chain }),
        }
    }
}

impl<B: Backend> Module<B> for Maskers<B> {
    type Record = Vec<BuiltInMaskerRecord<B>>;

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        self.all.collect_devices(devices)
    }

    fn fork(self, device: &B::Device) -> Self {
        Self { all: self.all.fork(device), ..self }
    }

    fn to_device(self, device: &B::Device) -> Self {
        Self { all: self.all.to_device(device), ..self }
    }

    fn num_params(&self) -> usize {
        Module::<B>::num_params(&self.all)
    }

    fn visit<V: ModuleVisitor<B>>(&self, visitor: &mut V) {
        self.all.visit(visitor);
    }

    fn map<T: ModuleMapper<B>>(self, mapper: &mut T) -> Self {
        Self { all: self.all.map(mapper), ..self }
    }

    /// Burn's interface does not return a `Result`, so an error must be a panic. [MaskerChain::try_load_record] returns
    /// the error.
    fn load_record(self, record: Self::Record) -> Self {
        match self.check_record(&record) {
            Ok(()) => Self { all: self.all.load_record(record), ..self },
            Err(error) => panic!("{error}"),
        }
    }

    fn into_record(self) -> Self::Record {
        self.all.into_record()
    }
}

impl<B: AutodiffBackend> AutodiffModule<B> for Maskers<B> {
    type InnerModule = Maskers<B::InnerBackend>;

    fn valid(&self) -> Self::InnerModule {
        Maskers { all: self.all.valid(), choice: self.choice.clone() }
    }

    fn from_inner(module: Self::InnerModule) -> Self {
        Self { all: Vec::from_inner(module.all), choice: module.choice }
    }
}

impl<B: Backend> ModuleDisplayDefault for Maskers<B> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_single(&self.all).optional()
    }

    fn num_params(&self) -> usize {
        Module::<B>::num_params(&self.all)
    }
}

impl<B: Backend> ModuleDisplay for Maskers<B> {}
