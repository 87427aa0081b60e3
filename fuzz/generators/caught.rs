//! Turns panics into faults.

use std::{
    any::Any,
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    sync::{Mutex, Once, PoisonError},
};

use super::{Checked, Fault};

/// The place of the last panic of any thread. A thread pool passes a panic on without its place.
static LAST: Mutex<String> = Mutex::new(String::new());

thread_local! {
    /// A description of the current case.
    static SUBJECT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Sets the description of the current case, which the fault of a panic contains.
pub fn about(subject: String) {
    SUBJECT.set(subject);
}

/// Runs work. A panic becomes a fault that names its place. From the first call on, the program prints no panics.
///
/// # Errors
/// The error of the work, or a fault if it panics.
pub fn caught(work: impl FnOnce() -> Checked) -> Checked {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        panic::set_hook(Box::new(|about| {
            let place = about.location().map(ToString::to_string).unwrap_or_default();
            *LAST.lock().unwrap_or_else(PoisonError::into_inner) = place;
        }));
    });
    SUBJECT.take();
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|content| {
        let place = LAST.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Err(Fault::panic(format!("at {place}: {}: {}", message(content.as_ref()), SUBJECT.take())))
    })
}

fn message(content: &(dyn Any + Send)) -> &str {
    let text = content.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| content.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
