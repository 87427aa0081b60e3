//! What a masker remembers in a state, of any type.

use std::any::Any;

/// A memory of keys that can be cut back, see [LayerState::key_memory](super::LayerState::key_memory).
pub trait KeyMemory: Clone + Default + Send + 'static {
    /// Forgets all but the first `keys`, and whatever else came of the others. The memory may forget more, as long as it
    /// knows what to make anew when keys come next.
    fn truncate(&mut self, keys: usize);

    /// Makes sequence `i` of the batch what sequence `indices[i]` was, of `batch` sequences, see
    /// [LayerState::reorder](super::LayerState::reorder). Each index is below `batch`, and there is at least one.
    ///
    /// The default forgets everything, so that it is made anew from the keys of the next call. That is right for what
    /// follows from the keys alone. A memory in which it matters when a key came must implement this.
    fn reorder(&mut self, _indices: &[usize], _batch: usize) {
        *self = Self::default();
    }
}

/// A memory of any type.
pub(super) struct Memory {
    content: Box<dyn Content>,
    /// What is done to memories of keys, if it is one.
    of_keys: Option<OfKeys>,
}

/// The functions of a type of [KeyMemory].
#[derive(Clone, Copy)]
struct OfKeys {
    truncate: fn(&mut dyn Any, usize),
    reorder: fn(&mut dyn Any, &[usize], usize),
}

/// What a memory holds.
trait Content: Send {
    fn copy(&self) -> Box<dyn Content>;

    fn as_any(&mut self) -> &mut dyn Any;
}

impl<T: Clone + Send + 'static> Content for T {
    fn copy(&self) -> Box<dyn Content> {
        Box::new(self.clone())
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self { content: self.content.as_ref().copy(), of_keys: self.of_keys }
    }
}

impl Memory {
    /// The default of a type.
    pub fn of<T: Clone + Default + Send + 'static>() -> Self {
        Self { content: Box::<T>::default(), of_keys: None }
    }

    /// The default of a memory of keys.
    pub fn of_keys<T: KeyMemory>() -> Self {
        let of_keys = OfKeys {
            truncate: |memory, keys| {
                if let Some(memory) = memory.downcast_mut::<T>() {
                    memory.truncate(keys);
                }
            },
            reorder: |memory, indices, batch| {
                if let Some(memory) = memory.downcast_mut::<T>() {
                    memory.reorder(indices, batch);
                }
            },
        };
        Self { of_keys: Some(of_keys), ..Self::of::<T>() }
    }

    /// What it holds; `None` if that is of another type.
    pub fn content<T: 'static>(&mut self) -> Option<&mut T> {
        self.content.as_mut().as_any().downcast_mut()
    }

    /// Cuts a memory of keys back. Returns whether it is one.
    pub fn truncate(&mut self, keys: usize) -> bool {
        self.of_keys.map(|of_keys| (of_keys.truncate)(self.content.as_mut().as_any(), keys)).is_some()
    }

    /// Reorders the sequences of a memory of keys. Returns whether it is one.
    pub fn reorder(&mut self, indices: &[usize], batch: usize) -> bool {
        self.of_keys.map(|of_keys| (of_keys.reorder)(self.content.as_mut().as_any(), indices, batch)).is_some()
    }
}
