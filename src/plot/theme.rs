use plotters::style::RGBColor;

/// The colours of a plot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Theme {
    /// Dark on white.
    #[default]
    Light,
    /// Light on nearly black.
    Dark,
}

/// The role of a colour. The theme maps it to a colour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ink {
    Background,
    Text,
    /// Less prominent text.
    Faint,
    Grid,
    /// The line with this number.
    Series(usize),
    /// A value in a heat map, from 0 to 1.
    Shade(f64),
    /// A cell of a heat map without a value.
    Absent,
}

/// Colours that most colour-blind people can tell apart (Okabe and Ito, 2008), the most legible first.
const ON_WHITE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
const ON_BLACK: [RGBColor; 7] = [
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(240, 228, 66),
    RGBColor(213, 94, 0),
    RGBColor(255, 255, 255),
];

/// The number of colours for lines.
pub(super) const COLORS: usize = ON_WHITE.len();

/// Viridis at equal steps. Its lightness grows evenly, so that it can be read without colour.
const SHADES: [RGBColor; 9] = [
    RGBColor(68, 1, 84),
    RGBColor(71, 44, 122),
    RGBColor(59, 81, 139),
    RGBColor(44, 113, 142),
    RGBColor(33, 144, 141),
    RGBColor(39, 173, 129),
    RGBColor(92, 200, 99),
    RGBColor(170, 220, 50),
    RGBColor(253, 231, 37),
];

impl Theme {
    pub(super) fn color(self, ink: Ink) -> RGBColor {
        let grey = |level| RGBColor(level, level, level);
        match (ink, self) {
            (Ink::Background, Self::Light) => grey(255),
            (Ink::Background, Self::Dark) => grey(22),
            (Ink::Text, Self::Light) => grey(17),
            (Ink::Text, Self::Dark) => grey(236),
            (Ink::Faint, Self::Light) => grey(85),
            (Ink::Faint, Self::Dark) => grey(178),
            (Ink::Grid, Self::Light) => grey(221),
            (Ink::Grid, Self::Dark) => grey(58),
            (Ink::Absent, Self::Light) => grey(235),
            (Ink::Absent, Self::Dark) => grey(45),
            (Ink::Series(at), Self::Light) => ON_WHITE[at % COLORS],
            (Ink::Series(at), Self::Dark) => ON_BLACK[at % COLORS],
            (Ink::Shade(value), _) => shade(value),
        }
    }
}

fn shade(value: f64) -> RGBColor {
    let place = value.clamp(0.0, 1.0) * (SHADES.len() - 1) as f64;
    let below = (place as usize).min(SHADES.len() - 2);
    let part = place - below as f64;
    let (a, b) = (SHADES[below], SHADES[below + 1]);
    let mix = |a: u8, b: u8| (f64::from(a) + part * (f64::from(b) - f64::from(a))).round() as u8;
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance as defined by WCAG.
    fn luminance(color: RGBColor) -> f64 {
        let linear = |level: u8| {
            let level = f64::from(level) / 255.0;
            if level <= 0.04045 { level / 12.92 } else { ((level + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(color.0) + 0.7152 * linear(color.1) + 0.0722 * linear(color.2)
    }

    fn contrast(theme: Theme, ink: Ink) -> f64 {
        let (a, b) = (luminance(theme.color(ink)), luminance(theme.color(Ink::Background)));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn texts_and_lines_stand_out_from_the_background() {
        for theme in [Theme::Light, Theme::Dark] {
            for ink in [Ink::Text, Ink::Faint] {
                assert!(contrast(theme, ink) >= 4.5, "{theme:?} {ink:?}");
            }
            for series in 0..COLORS {
                // Two colours of the palette are light. They are used last, and each line has its own mark.
                assert!(contrast(theme, Ink::Series(series)) >= 2.0, "{theme:?} {series}");
            }
        }
    }

    #[test]
    fn shades_grow_lighter_with_the_value() {
        let lightness = (0..=100).map(|value| luminance(shade(f64::from(value) / 100.0))).collect::<Vec<_>>();
        assert!(lightness.windows(2).all(|two| two[0] < two[1]));
        assert_eq!(shade(-1.0), shade(0.0));
        assert_eq!(shade(2.0), SHADES[8]);
    }
}
