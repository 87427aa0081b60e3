//! Panics as faults.

use std::{
    any::Any,
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    sync::{Mutex, Once, PoisonError},
};

use super::{Checked, Fault};

/// Where the last panic of any thread was. A panic in a thread pool is passed on without it.
static LAST: Mutex<String> = Mutex::new(String::new());

thread_local! {
    /// What the case at work is about.
    static SUBJECT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Says what the case at work is about, for when it panics.
pub fn about(subject: String) {
    SUBJECT.set(subject);
}

/// Runs work; a panic in it is a fault that says where it was. From the first call on, panics of the program are not
/// printed.
///
/// # Errors
/// As the work, and if it panics.
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
