use std::ops::Range;

/// The scale of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal distances are equal differences.
    #[default]
    Linear,
    /// Equal distances are equal ratios. All numbers must be above 0.
    Log,
}

impl Scale {
    /// The position of a number along the axis, from 0 to 1.
    pub(super) fn share(self, range: &Range<f64>, at: f64) -> f64 {
        match self {
            Self::Linear => (at - range.start) / (range.end - range.start),
            Self::Log => (at / range.start).ln() / (range.end / range.start).ln(),
        }
    }
}

/// A number with a label on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub at: f64,
    pub label: String,
}

/// The smallest space between two labels, in pixels.
const GAP: f64 = 6.0;

/// The largest number of ticks. More are not easier to read.
const MOST: usize = 9;

/// The ticks of an axis with a length in pixels: the most round numbers whose labels fit side by side. `extent` returns
/// the length of a label along the axis.
pub(super) fn ticks(scale: Scale, range: &Range<f64>, length: f64, extent: impl Fn(&str) -> f64) -> Vec<Tick> {
    let named = |numbers: Vec<f64>| {
        let tick = |at: f64| Tick { at, label: number(at) };
        numbers.into_iter().filter(|at| (range.start..=range.end).contains(at)).map(tick).collect::<Vec<_>>()
    };
    let fits = |ticks: &[Tick]| {
        let ends = ticks.iter().map(|tick| {
            let (middle, half) = (scale.share(range, tick.at) * length, extent(&tick.label) / 2.0);
            (middle - half, middle + half)
        });
        let ends = ends.collect::<Vec<_>>();
        let distinct = ticks.windows(2).all(|two| two[0].label != two[1].label);
        distinct && ticks.len() <= MOST && ends.windows(2).all(|two| two[0].1 + GAP <= two[1].0)
    };
    let linear = |parts: [f64; 3]| steps(range, parts).map(|step| named(multiples(range, step)));
    // Steps that are tried last, when none of the usual steps fits twice.
    let unusual = linear([2.5, 3.0, 4.0]);
    let candidates: Box<dyn Iterator<Item = Vec<Tick>>> = match scale {
        Scale::Linear => Box::new(linear([1.0, 2.0, 5.0]).chain(unusual)),
        Scale::Log => {
            let powers = || (1..=64).map(|every| named(decades(range, &[1.0], every)));
            let ratios = || [[1.0, 2.0, 5.0].as_slice(), &[1.0, 3.0]].map(|parts| named(decades(range, parts, 1)));
            let three = ratios().into_iter().chain(powers()).filter(|ticks| ticks.len() >= 3);
            // If the range is less than two decades, two round differences say more than two round ratios.
            let wide = range.end / range.start >= 100.0;
            let two = powers().filter(move |_| wide).chain(linear([1.0, 2.0, 5.0])).chain(ratios()).chain(unusual);
            Box::new(three.chain(two))
        }
    };
    // Two ticks show the scale. A single tick is the fallback.
    let mut single = None;
    for ticks in candidates.filter(|ticks| fits(ticks)) {
        match ticks.len() {
            0 => {}
            1 => single = single.or(Some(ticks)),
            _ => return ticks,
        }
    }
    single.unwrap_or_default()
}

/// The numbers `parts`, multiplied by every `every`-th power of ten.
fn decades(range: &Range<f64>, parts: &[f64], every: i32) -> Vec<f64> {
    let powers = range.start.log10().floor() as i32..=range.end.log10().ceil() as i32;
    let powers = powers.filter(|power| power.rem_euclid(every) == 0);
    powers.flat_map(|power| parts.iter().map(move |part| part * power_of_ten(power))).collect()
}

/// The `f64` nearest to a power of ten. `powi` can be off by a rounding.
fn power_of_ten(power: i32) -> f64 {
    format!("1e{power}").parse().unwrap_or(f64::NAN)
}

/// Round steps for a linear axis, the smallest first.
fn steps(range: &Range<f64>, parts: [f64; 3]) -> impl Iterator<Item = (i32, f64)> + use<> {
    let width = range.end - range.start;
    let first = (width / 20.0).log10().floor() as i32;
    (first..first + 4).flat_map(move |power| parts.map(|part| (power, part)))
}

/// The multiples of a step in a range.
fn multiples(range: &Range<f64>, (power, part): (i32, f64)) -> Vec<f64> {
    let step = part * power_of_ten(power);
    let (first, last) = ((range.start / step).ceil(), (range.end / step).floor());
    if !(last - first).is_finite() || last - first > 100.0 {
        return Vec::new();
    }
    (0..=(last - first) as i64).map(|at| rounded((first + at as f64) * part, power)).collect()
}

/// A multiple of a power of ten, without the rounding error of the product.
fn rounded(count: f64, power: i32) -> f64 {
    format!("{count}e{power}").parse().unwrap_or(count * power_of_ten(power))
}

/// A number in short form: `0.05`, `300`, `20k`, `4M`, `1e-7`.
pub(super) fn number(at: f64) -> String {
    let trimmed = |number: f64, digits: usize| {
        let text = format!("{number:.digits$}");
        match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        }
    };
    match at.abs() {
        0.0 => "0".to_owned(),
        size if size < 1e-3 => scientific(at),
        size if size < 1e4 => trimmed(at, 4),
        size if size < 1e6 => format!("{}k", trimmed(at / 1e3, 3)),
        size if size < 1e9 => format!("{}M", trimmed(at / 1e6, 3)),
        size if size < 1e12 => format!("{}G", trimmed(at / 1e9, 3)),
        _ => scientific(at),
    }
}

/// Scientific notation with up to four digits.
fn scientific(at: f64) -> String {
    let text = format!("{at:.3e}");
    match text.split_once('e') {
        Some((digits, power)) => format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.')),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::text, *};

    /// The start and end of each label along the axis.
    fn ends(ticks: &[Tick], scale: Scale, range: &Range<f64>, length: f64) -> Vec<(f64, f64)> {
        let end = |tick: &Tick| {
            let (middle, half) = (scale.share(range, tick.at) * length, text::width(&tick.label, 15.0) / 2.0);
            (middle - half, middle + half)
        };
        ticks.iter().map(end).collect()
    }

    #[test]
    fn labels_do_not_touch_and_are_some() {
        let lows = [1e-9, 3.7e-4, 0.02, 1.0, 512.0, 4096.0, 60_000.0, 1e8];
        let ratios = [1.01, 1.3, 2.0, 4.0, 16.0, 100.0, 1e4, 1e9, 1e14];
        for (low, ratio) in lows.into_iter().flat_map(|low| ratios.map(|ratio| (low, ratio))) {
            for scale in [Scale::Linear, Scale::Log] {
                for length in [180.0, 300.0, 520.0] {
                    let range = low..low * ratio;
                    let ticks = ticks(scale, &range, length, |label| text::width(label, 15.0));
                    assert!(ticks.len() >= 2, "{scale:?} {range:?} over {length}: {ticks:?}");
                    assert!(ticks.iter().all(|tick| (range.start..=range.end).contains(&tick.at)));
                    let ends = ends(&ticks, scale, &range, length);
                    let apart = ends.windows(2).all(|two| two[0].1 < two[1].0);
                    assert!(apart, "{scale:?} {range:?} over {length}: {ticks:?}");
                }
            }
        }
    }

    #[test]
    fn the_axis_of_the_speed_plot_has_round_ticks() {
        // From 2,048 to 131,072 keys, where the labels 60000, 70000, ... used to overlap.
        let range = 1_800.0..150_000.0;
        let ticks = ticks(Scale::Log, &range, 520.0, |label| text::width(label, 15.0));
        let labels = ticks.iter().map(|tick| tick.label.as_str()).collect::<Vec<_>>();
        assert_eq!(labels, ["2000", "5000", "10k", "20k", "50k", "100k"]);
    }

    #[test]
    fn zero_stands_between_negative_and_positive() {
        let ticks = ticks(Scale::Linear, &(-0.25..0.4), 300.0, |label| text::width(label, 15.0));
        let labels = ticks.iter().map(|tick| tick.label.as_str()).collect::<Vec<_>>();
        assert_eq!(labels, ["-0.2", "-0.1", "0", "0.1", "0.2", "0.3", "0.4"]);
    }

    #[test]
    fn numbers_are_short() {
        let known = [
            (0.0, "0"),
            (0.05, "0.05"),
            (-0.3, "-0.3"),
            (1e-3, "0.001"),
            (2e-4, "2e-4"),
            (1e-7, "1e-7"),
            (1.25e-5, "1.25e-5"),
            (300.0, "300"),
            (9_000.0, "9000"),
            (16_384.0, "16.384k"),
            (20_000.0, "20k"),
            (4e6, "4M"),
            (-2.5e9, "-2.5G"),
            (1e15, "1e15"),
        ];
        for (at, text) in known {
            assert_eq!(number(at), text);
        }
    }
}
