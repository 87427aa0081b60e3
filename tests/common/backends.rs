//! The backends that tests run on: which ones, on which device, and the summary that is printed at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::{Mutex, PoisonError},
};

use burn::tensor::{DType, backend::Backend};
use sparse_attention_hub::backend::describe;

/// Something that a backend cannot do. The test cases that need it are left out on that backend.
pub struct Cannot {
    pub backend: &'static str,
    pub what: &'static str,
    pub reason: &'static str,
    /// Whether the backend supports it on some devices.
    pub some_can: bool,
}

const fn cannot(backend: &'static str, what: &'static str, reason: &'static str) -> Cannot {
    Cannot { backend, what, reason, some_can: false }
}

const fn not_everywhere(backend: &'static str, what: &'static str, reason: &'static str) -> Cannot {
    Cannot { backend, what, reason, some_can: true }
}

/// The only list of cases that may be left out. Each test asks the backend whether the case is really unsupported.
pub const CANNOT: &[Cannot] = &[
    cannot("ndarray", "F16", "burn-ndarray has no half-precision numbers"),
    cannot("ndarray", "BF16", "burn-ndarray has no half-precision numbers"),
    not_everywhere("wgpu", "F16", "the device has no 16-bit numbers in shaders"),
    not_everywhere("wgpu", "BF16", "WGSL, the language of the shaders, has no bfloat16"),
    not_everywhere("wgpu", "F64", "WGSL, the language of the shaders, has no f64"),
    not_everywhere("cuda", "F64", "burn-cuda does not offer f64"),
];

/// The cases that were left out, by backend.
static LEFT_OUT: Mutex<BTreeSet<(&str, &str)>> = Mutex::new(BTreeSet::new());

/// Whether a backend computes in a number type. Panics if the answer contradicts [CANNOT].
pub fn computes_in<B: Backend>(dtype: DType) -> bool {
    let (backend, what) = (name::<B>(), format!("{dtype:?}"));
    let listed = CANNOT.iter().find(|cannot| cannot.backend == backend && cannot.what == what);
    match (B::supports_dtype(&B::Device::default(), dtype), listed) {
        (true, None | Some(Cannot { some_can: true, .. })) => true,
        (true, Some(_)) => panic!("{backend} computes in {what} and need not be left out any more"),
        (false, None) => panic!("{backend} does not compute in {what}, which is not listed"),
        (false, Some(cannot)) => {
            LEFT_OUT.lock().unwrap_or_else(PoisonError::into_inner).insert((backend, cannot.what));
            false
        }
    }
}

/// Whether the library has its own kernels for a backend.
pub fn has_kernels<B: Backend>() -> bool {
    ["flex", "ndarray"].contains(&name::<B>())
}

/// The largest relative rounding error of each operand of an f32 matrix product, before the multiplication. It is 0 for
/// backends that do not round operands. burn-cuda hands such products to tensor cores, which take TF32. TF32 has 10
/// bits after the leading one, so rounding to the nearest is off by up to half of 2^-10. Sums are f32. Nothing turns
/// this off in cubek 0.2, which burn 0.21 uses for its products.
pub fn product_rounding<B: Backend>() -> f64 {
    if name::<B>() == "cuda" { 1.0 / 2048.0 } else { 0.0 }
}

/// The name of a backend's feature, found by the name of its type. Asking the backend itself for its name would open
/// its device.
pub fn name<B: Backend>() -> &'static str {
    let of_types = [
        ("CudaRuntime", "cuda"),
        ("LibTorch", "tch"),
        ("WgpuRuntime", "wgpu"),
        ("burn_flex", "flex"),
        ("burn_ndarray", "ndarray"),
    ];
    let name = std::any::type_name::<B>();
    of_types.iter().find(|(part, _)| name.contains(part)).unwrap_or_else(|| panic!("the backend {name} is unknown")).1
}

/// The backend for long tests that run on the host: the fastest host backend.
#[cfg(feature = "flex")]
pub type OnHost = burn_flex::Flex;
/// The backend for long tests that run on the host: the fastest host backend.
#[cfg(all(feature = "ndarray", not(feature = "flex")))]
pub type OnHost = burn_ndarray::NdArray;
/// The backend for long tests that run on the host. No host backend is compiled in, so it is the default device.
#[cfg(not(any(feature = "flex", feature = "ndarray")))]
pub type OnHost = sparse_attention_hub::backend::DefaultBackend;

/// Runs tests that are generic over the backend on every enabled backend, in one module for each backend. The tests
/// after `host:` run on [OnHost] only, because they take long and test only random draws that are made on the host.
/// After the last test the file prints how many tests passed on each backend.
macro_rules! on_each_backend {
    ($($test:ident),* $(,)? $(; host: $($long:ident),* $(,)?)?) => {
        const CHECKS: usize = [$(stringify!($test)),*].len() * sparse_attention_hub::backend::COMPILED.len()
            $(+ [$(stringify!($long)),*].len())?;
        $crate::common::backends::on_backend!(flex, "flex", burn_flex::Flex, $($test),*);
        $crate::common::backends::on_backend!(ndarray, "ndarray", burn_ndarray::NdArray, $($test),*);
        $crate::common::backends::on_backend!(wgpu, "wgpu", burn_wgpu::Wgpu, $($test),*);
        $crate::common::backends::on_backend!(tch, "tch", burn_tch::LibTorch, $($test),*);
        $crate::common::backends::on_backend!(cuda, "cuda", burn_cuda::Cuda, $($test),*);
        $(
            mod host {
                $(
                    #[test]
                    fn $long() {
                        use $crate::common::backends::{OnHost, run};
                        run::<OnHost>(file!(), super::CHECKS, super::$long::<OnHost>);
                    }
                )*
            }
        )?
    };
}
pub(crate) use on_each_backend;

/// The number of backends on which [on_host_backends] runs a test.
pub const HOSTS: usize = if cfg!(any(feature = "flex", feature = "ndarray")) {
    cfg!(feature = "flex") as usize + cfg!(feature = "ndarray") as usize + cfg!(feature = "tch") as usize
} else {
    sparse_attention_hub::backend::COMPILED.len()
};

/// Like [on_each_backend], for tests of code that runs on the host and that take minutes on a software device. The
/// tests run on flex, ndarray and tch. They run on the other backends only if neither flex nor ndarray is compiled in.
macro_rules! on_host_backends {
    ($($test:ident),* $(,)? $(; host: $($long:ident),* $(,)?)?) => {
        const CHECKS: usize = [$(stringify!($test)),*].len() * $crate::common::backends::HOSTS
            $(+ [$(stringify!($long)),*].len())?;
        $crate::common::backends::on_backend!(flex, "flex", burn_flex::Flex, $($test),*);
        $crate::common::backends::on_backend!(ndarray, "ndarray", burn_ndarray::NdArray, $($test),*);
        $crate::common::backends::on_backend!(tch, "tch", burn_tch::LibTorch, $($test),*);
        #[cfg(not(any(feature = "flex", feature = "ndarray")))]
        mod device {
            use super::{CHECKS, $($test),*};
            $crate::common::backends::on_backend!(wgpu, "wgpu", burn_wgpu::Wgpu, $($test),*);
            $crate::common::backends::on_backend!(cuda, "cuda", burn_cuda::Cuda, $($test),*);
        }
        $(
            mod host {
                $(
                    #[test]
                    fn $long() {
                        use $crate::common::backends::{OnHost, run};
                        run::<OnHost>(file!(), super::CHECKS, super::$long::<OnHost>);
                    }
                )*
            }
        )?
    };
}
pub(crate) use on_host_backends;

macro_rules! on_backend {
    ($module:ident, $feature:literal, $backend:ty, $($test:ident),*) => {
        #[cfg(feature = $feature)]
        mod $module {
            $(
                #[test]
                fn $test() {
                    $crate::common::backends::run::<$backend>(file!(), super::CHECKS, super::$test::<$backend>);
                }
            )*
        }
    };
}
pub(crate) use on_backend;

/// The reason why the tests of a backend are not run, if there is one.
fn absent(backend: &str) -> Option<&'static str> {
    match backend == "cuda" && !Path::new("/dev/nvidiactl").exists() {
        true => Some("there is no NVIDIA device"),
        false => None,
    }
}

/// Runs one test of a file on a backend.
pub fn run<B: Backend>(file: &'static str, checks: usize, test: fn()) {
    let backend = name::<B>();
    if let Some(reason) = absent(backend) {
        return note(file, checks, backend, reason.to_owned(), None);
    }
    // Tests on a device run one after the other. Otherwise an error of one test shows up in another test.
    static DEVICE: Mutex<()> = Mutex::new(());
    let alone = (!has_kernels::<B>()).then(|| DEVICE.lock().unwrap_or_else(PoisonError::into_inner));
    let device = describe::<B>(&B::Device::default());
    let result = catch_unwind(AssertUnwindSafe(test));
    drop(alone);
    note(file, checks, backend, device, Some(result.is_ok()));
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

/// The counts of the tests of a backend, by result.
#[derive(Debug, Clone, Default)]
struct Tally {
    backend: String,
    device: String,
    passed: usize,
    failed: usize,
    not_run: usize,
}

/// Counts a test. After the last test of the file, prints the summary.
fn note(file: &'static str, checks: usize, backend: &str, device: String, passed: Option<bool>) {
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
    if done == checks {
        say(file, tallies);
    }
}

/// Adds the tests of a file to those of earlier files in the same run of cargo, and prints the summary. It does not
/// print through the test harness, because the harness shows the output of failed tests only.
fn say(file: &str, of_file: &[Tally]) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("checks");
    let run = std::os::unix::process::parent_id().to_string();
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines = before.lines();
    let mut all = Vec::<Tally>::new();
    let now = LEFT_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut left_out = now.iter().map(|(backend, what)| format!("{backend} {what}")).collect::<BTreeSet<_>>();
    if lines.next() == Some(run.as_str()) {
        for line in lines {
            match parse(line) {
                Some(tally) => all.push(tally),
                None => _ = left_out.insert(line.to_owned()),
            }
        }
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
        for Cannot { what, reason, .. } in
            CANNOT.iter().filter(|cannot| left_out.contains(&format!("{backend} {}", cannot.what)))
        {
            _ = writeln!(text, "           left out: {what}: {reason}");
        }
    }
    left_out.iter().for_each(|case| _ = write!(written, "\n{case}"));
    // The tests do not fail if the counts cannot be saved or the report cannot be printed.
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
