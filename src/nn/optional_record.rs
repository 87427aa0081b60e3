use burn::{
    module::{
        AutodiffModule, Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    },
    tensor::backend::{AutodiffBackend, Backend},
};

/// A module whose record is optional.
///
/// A layer holds its method in this type. A method without parameters has no entry in the record of the layer. A record
/// without an entry for the method does not change the method. So a record of burn's layer loads into the sparse layer,
/// and the other way round. (An `Option` of a module would become `None` then, and the method would be lost without an
/// error.)
#[derive(Debug, Clone, Copy, Default)]
pub struct OptionalRecord<M>(
    /// The module.
    pub M,
);

impl<B: Backend, M: Module<B>> Module<B> for OptionalRecord<M> {
    type Record = Option<M::Record>;

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        self.0.collect_devices(devices)
    }

    fn fork(self, device: &B::Device) -> Self {
        Self(self.0.fork(device))
    }

    fn to_device(self, device: &B::Device) -> Self {
        Self(self.0.to_device(device))
    }

    fn num_params(&self) -> usize {
        self.0.num_params()
    }

    fn visit<V: ModuleVisitor<B>>(&self, visitor: &mut V) {
        self.0.visit(visitor);
    }

    fn map<T: ModuleMapper<B>>(self, mapper: &mut T) -> Self {
        Self(self.0.map(mapper))
    }

    fn load_record(self, record: Self::Record) -> Self {
        match record {
            Some(record) => Self(self.0.load_record(record)),
            None => self,
        }
    }

    fn into_record(self) -> Self::Record {
        (self.0.num_params() > 0).then(|| self.0.into_record())
    }
}

impl<B: AutodiffBackend, M: AutodiffModule<B>> AutodiffModule<B> for OptionalRecord<M> {
    type InnerModule = OptionalRecord<M::InnerModule>;

    fn valid(&self) -> Self::InnerModule {
        OptionalRecord(self.0.valid())
    }

    fn from_inner(module: Self::InnerModule) -> Self {
        Self(M::from_inner(module.0))
    }
}

impl<M: ModuleDisplay> ModuleDisplayDefault for OptionalRecord<M> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_single(&self.0).optional()
    }

    fn num_params(&self) -> usize {
        self.0.num_params()
    }
}

impl<M: ModuleDisplay> ModuleDisplay for OptionalRecord<M> {}
