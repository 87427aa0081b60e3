use std::fmt;

/// The result of a case.
pub type Checked = Result<(), Fault>;

/// A property that does not hold.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The property.
    pub property: &'static str,
    /// The input and the values that show the fault.
    pub found: String,
}

/// The property that a panic violates.
const NO_PANIC: &str = "no panic";

impl Fault {
    /// A fault of a property.
    pub fn new(property: &'static str, found: impl Into<String>) -> Self {
        Self { property, found: found.into() }
    }

    /// A fault for a panic.
    pub fn panic(found: impl Into<String>) -> Self {
        Self::new(NO_PANIC, found)
    }

    /// Whether it is a panic.
    pub fn is_panic(&self) -> bool {
        self.property == NO_PANIC
    }

    /// The same fault, with its subject before the description.
    pub fn of(mut self, subject: impl fmt::Display) -> Self {
        self.found = format!("{subject}: {}", self.found);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.found)
    }
}

/// Returns a fault unless a condition holds.
macro_rules! hold {
    ($condition:expr, $property:expr, $($found:tt)+) => {{
        let holds: bool = $condition;
        if !holds {
            return Err($crate::generators::Fault::new($property, format!($($found)+)));
        }
    }};
}

pub(super) use hold;
