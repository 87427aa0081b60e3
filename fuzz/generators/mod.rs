//! Inputs made from a seed, and the properties that must hold for them. The test, the long-running program and the fuzz
//! targets share this module.
//!
//! A [Kind] is a subject. Each of its cases is drawn from a [Source]: the same seed and case give the same input. A
//! case that fails returns the property that does not hold, and the values that show it. The caller handles panics.
#![allow(dead_code)] // Each program uses its part.

mod attention;
mod caches;
mod caught;
mod configs;
mod drawn;
mod fault;
mod files;
mod masks;
mod methods;
mod mutations;
mod numbers;
mod problem;
mod rows;
mod source;
mod weights;

use caught::about;
pub use caught::caught;
pub use fault::{Checked, Fault};
pub use source::Source;

/// The backend on which cases run: the first CPU backend that is compiled in.
#[cfg(feature = "flex")]
pub type B = burn_flex::Flex;
#[cfg(all(feature = "ndarray", not(feature = "flex")))]
pub type B = burn_ndarray::NdArray;

/// The device on which cases run.
fn device() -> burn::tensor::Device<B> {
    Default::default()
}

/// The subject that is fuzzed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Method files and the configurations of layers.
    Configs,
    /// Operations on masks, compared with dense weights in f64.
    Masks,
    /// Attention calls, compared with attention in f64.
    Attention,
    /// Files of weights and channels.
    Files,
    /// Caches, compared with the whole history.
    Caches,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Configs, Self::Masks, Self::Attention, Self::Files, Self::Caches];

    /// The name on the command line and in the corpus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configs => "configs",
            Self::Masks => "masks",
            Self::Attention => "attention",
            Self::Files => "files",
            Self::Caches => "caches",
        }
    }

    /// Runs one case of a seed.
    ///
    /// # Errors
    /// If a property does not hold.
    pub fn check(self, seed: u64, case: u64) -> Checked {
        self.check_source(&mut Source::seeded(seed, case))
    }

    /// Runs the case that is drawn from a source.
    ///
    /// # Errors
    /// If a property does not hold.
    pub fn check_source(self, source: &mut Source) -> Checked {
        match self {
            Self::Configs => configs::check(source),
            Self::Masks => masks::check(source),
            Self::Attention => attention::check(source),
            Self::Files => files::check(source),
            Self::Caches => caches::check(source),
        }
    }

    /// Runs an entry of the corpus, which has a name, or the input of a fuzz target, which has no name.
    ///
    /// If all lines have the form `seed N case M`, with any text after it, these cases are run. Otherwise the bytes are
    /// the input. For configurations they are the text. For files they are the content, which is read in the format of
    /// the name's extension, or in every format if there is no name. For the other kinds they replace the first random
    /// numbers. A text or file whose name begins with `refused` must be refused.
    ///
    /// # Errors
    /// If a property does not hold.
    pub fn check_input(self, bytes: &[u8], name: Option<&str>) -> Checked {
        let must_be_refused = name.is_some_and(|name| name.starts_with("refused"));
        if let Some(cases) = cases(bytes) {
            return cases.into_iter().try_for_each(|(seed, case)| {
                self.check(seed, case).map_err(|fault| fault.of(format!("seed {seed} case {case}")))
            });
        }
        let accepted = match self {
            Self::Configs => configs::check_text(&String::from_utf8_lossy(bytes), &mut Source::of_bytes(bytes))?,
            Self::Files => {
                files::check_content(bytes, name.and_then(|name| name.rsplit_once('.')).map(|(_, end)| end))?
            }
            _ => return self.check_source(&mut Source::of_bytes(bytes)),
        };
        match accepted && must_be_refused {
            true => Err(Fault::new("what was refused is refused", name.unwrap_or_default())),
            false => Ok(()),
        }
    }
}

/// The seeds and cases, if all lines have the form `seed N case M`.
fn cases(bytes: &[u8]) -> Option<Vec<(u64, u64)>> {
    let numbers = |line: &str| {
        let mut words = line.split_whitespace();
        match [words.next()?, words.next()?, words.next()?, words.next()?] {
            ["seed", seed, "case", case] => Some((seed.parse().ok()?, case.parse().ok()?)),
            _ => None,
        }
    };
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty())?;
    text.lines().map(numbers).collect()
}
