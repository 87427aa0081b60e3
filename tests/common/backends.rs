//! The backends that tests run on: which, on what device, and what is said of them at the end.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::{Mutex, PoisonError},
};

use burn::tensor::{DType, backend::Backend};
use sparse_attention_hub::backend::{COMPILED, describe};

/// What a backend cannot do, so that a case of a test is left out on it.
pub struct Cannot {
    pub backend: &'static str,
    pub what: &'static str,
    pub reason: &'static str,
}

/// The one list of cases that are left out. Each is checked to be impossible still where that can be asked.
pub const CANNOT: &[Cannot] = &[
    Cannot { backend: "ndarray", what: "F16", reason: "burn-ndarray has no half-precision numbers" },
    Cannot { backend: "ndarray", what: "BF16", reason: "burn-ndarray has no half-precision numbers" },
];

/// Whether a backend computes with numbers of a type, which [CANNOT] must know.
pub fn computes_in<B: Backend>(dtype: DType) -> bool {
    let (backend, what) = (name::<B>(), format!("{dtype:?}"));
    let listed = CANNOT.iter().any(|cannot| cannot.backend == backend && cannot.what == what);
    let supported = B::supports_dtype(&B::Device::default(), dtype);
    assert_eq!(
        supported, !listed,
        "{backend} says {supported} of {what}, and the list of what backends cannot do {listed}"
    );
    supported
}

/// Whether the library has kernels of its own for a backend.
pub fn has_kernels<B: Backend>() -> bool {
    ["flex", "ndarray"].contains(&name::<B>())
}

/// The name of a backend's feature.
pub fn name<B: Backend>() -> &'static str {
    let name = B::name(&B::Device::default());
    let features = [("cuda", "cuda"), ("libtorch", "tch"), ("wgpu", "wgpu"), ("flex", "flex"), ("ndarray", "ndarray")];
    // Some backends have others in their names: libtorch<cuda>.
    let order = if name.contains("libtorch") { &features[1..] } else { &features[..] };
    order.iter().find(|(part, _)| name.contains(part)).unwrap_or_else(|| panic!("the backend {name} is unknown")).1
}

/// The backend for what is computed on the host and long: the fastest there.
#[cfg(feature = "flex")]
pub type OnHost = burn_flex::Flex;
/// The backend for what is computed on the host and long: the fastest there.
#[cfg(all(feature = "ndarray", not(feature = "flex")))]
pub type OnHost = burn_ndarray::NdArray;
/// The backend for what is computed on the host and long: there is but a device.
#[cfg(not(any(feature = "flex", feature = "ndarray")))]
pub type OnHost = sparse_attention_hub::backend::DefaultBackend;

/// Runs tests that are generic over the backend on every backend enabled, in a module for each. After the last of them
/// the test file says how many passed where.
macro_rules! on_each_backend {
    ($($test:ident),* $(,)?) => {
        $crate::common::backends::on_backend!(flex, "flex", burn_flex::Flex, $($test),*);
        $crate::common::backends::on_backend!(ndarray, "ndarray", burn_ndarray::NdArray, $($test),*);
        $crate::common::backends::on_backend!(wgpu, "wgpu", burn_wgpu::Wgpu, $($test),*);
        $crate::common::backends::on_backend!(tch, "tch", burn_tch::LibTorch, $($test),*);
        $crate::common::backends::on_backend!(cuda, "cuda", burn_cuda::Cuda, $($test),*);
    };
}
pub(crate) use on_each_backend;

macro_rules! on_backend {
    ($module:ident, $feature:literal, $backend:ty, $($test:ident),*) => {
        #[cfg(feature = $feature)]
        mod $module {
            const TESTS: usize = [$(stringify!($test)),*].len();
            $(
                #[test]
                fn $test() {
                    $crate::common::backends::run::<$backend>(file!(), TESTS, super::$test::<$backend>);
                }
            )*
        }
    };
}
pub(crate) use on_backend;

/// Why the tests of a backend are not run, if they are not.
fn absent(backend: &str) -> Option<&'static str> {
    match backend == "cuda" && !Path::new("/dev/nvidiactl").exists() {
        true => Some("there is no NVIDIA device"),
        false => None,
    }
}

/// Runs one of `tests` tests of a file on a backend.
pub fn run<B: Backend>(file: &'static str, tests: usize, test: fn()) {
    let backend = name::<B>();
    if let Some(reason) = absent(backend) {
        return note(file, tests, backend, reason.to_owned(), None);
    }
    // One at a time on a device: what goes wrong there shows in whatever comes next.
    static DEVICE: Mutex<()> = Mutex::new(());
    let alone = (!has_kernels::<B>()).then(|| DEVICE.lock().unwrap_or_else(PoisonError::into_inner));
    let device = describe::<B>(&B::Device::default());
    let result = catch_unwind(AssertUnwindSafe(test));
    drop(alone);
    note(file, tests, backend, device, Some(result.is_ok()));
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

/// What became of the tests of a backend.
#[derive(Debug, Clone, Default)]
struct Tally {
    backend: String,
    device: String,
    passed: usize,
    failed: usize,
    not_run: usize,
}

/// Counts a test, and after the last one of the file says what became of all.
fn note(file: &'static str, tests: usize, backend: &str, device: String, passed: Option<bool>) {
    static TALLIES: Mutex<BTreeMap<&str, Vec<Tally>>> = Mutex::new(BTreeMap::new());
    let mut files = TALLIES.lock().unwrap_or_else(PoisonError::into_inner);
    let tallies = files.entry(file).or_default();
    let known = tallies.iter().position(|tally| tally.backend == backend);
    let at = known.unwrap_or_else(|| {
        tallies.push(Tally { backend: backend.to_owned(), device, ..Tally::default() });
        tallies.len() - 1
    });
    let tally = &mut tallies[at];
    match passed {
        Some(true) => tally.passed += 1,
        Some(false) => tally.failed += 1,
        None => tally.not_run += 1,
    }
    let done = tallies.iter().map(|tally| tally.passed + tally.failed + tally.not_run).sum::<usize>();
    if done == tests * COMPILED.len() {
        say(file, tallies);
    }
}

/// Adds the tests of a file to those of the files before it in the same run of cargo, and says what became of all. It is
/// written past the test harness, which shows what tests print only where they fail.
fn say(file: &str, of_file: &[Tally]) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("checks");
    let run = std::os::unix::process::parent_id().to_string();
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines = before.lines();
    let mut all = Vec::<Tally>::new();
    if lines.next() == Some(run.as_str()) {
        all.extend(lines.filter_map(parse));
    }
    for tally in of_file {
        match all.iter_mut().find(|known| known.backend == tally.backend) {
            Some(known) => {
                known.passed += tally.passed;
                known.failed += tally.failed;
                known.not_run += tally.not_run;
            }
            None => all.push(tally.clone()),
        }
    }
    let mut written = run;
    let mut text = format!("\nchecks of this run up to {file}:\n");
    for Tally { backend, device, passed, failed, not_run } in &all {
        _ = write!(written, "\n{backend}\t{device}\t{passed}\t{failed}\t{not_run}");
        _ = match not_run {
            0 => writeln!(text, "  {backend:<8} {passed:>3} passed, {failed} failed on {device}"),
            not_run => writeln!(text, "  {backend:<8} {not_run:>3} not run: {device}"),
        };
        for Cannot { what, reason, .. } in CANNOT.iter().filter(|cannot| cannot.backend == backend) {
            _ = writeln!(text, "  {:<8} cases in {what} are left out: {reason}", "");
        }
    }
    // Neither a sum that is not kept nor a report that is not read is a reason to fail.
    _ = std::fs::write(path, written);
    _ = std::io::stderr().write_all(text.as_bytes());
}

fn parse(line: &str) -> Option<Tally> {
    let [backend, device, passed, failed, not_run] = line.split('\t').collect::<Vec<_>>()[..] else { return None };
    Some(Tally {
        backend: backend.to_owned(),
        device: device.to_owned(),
        passed: passed.parse().ok()?,
        failed: failed.parse().ok()?,
        not_run: not_run.parse().ok()?,
    })
}
