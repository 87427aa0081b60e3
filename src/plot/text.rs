use std::sync::OnceLock;

use plotters::style::{FontStyle, register_font};

/// The fonts of a plot, as a CSS list. The first is the font that is measured. The others replace it where it is not
/// installed.
pub(super) const FONTS: &str = "DejaVu Sans, Verdana, Arial, sans-serif";

/// The factor by which plotters divides a font size.
pub(super) const PLOTTERS_SIZE: f64 = 1.24;

/// Whether the font is registered. It is part of the crate, so that pictures are the same on every machine.
pub(super) fn font_is_ready() -> bool {
    static READY: OnceLock<bool> = OnceLock::new();
    *READY.get_or_init(|| register_font(FONTS, FontStyle::Normal, dejavu::sans::regular()).is_ok())
}

/// The width of a text at a font size, in the same unit.
pub(super) fn width(text: &str, size: f64) -> f64 {
    // The text is measured at a large size, because plotters rounds to whole pixels.
    const LARGE: f64 = 100.0;
    let measured = match font_is_ready() {
        true => plotters::style::FontDesc::from((FONTS, LARGE * PLOTTERS_SIZE)).layout_box(text).ok(),
        false => None,
    };
    match measured {
        Some(((left, _), (right, _))) => f64::from(right - left) * size / LARGE,
        // The widest letters are about as wide as the font size.
        None => text.chars().count() as f64 * size,
    }
}

/// Breaks a text between words, so that no line is wider than `limit`. A single word may be wider.
pub(super) fn wrap(text: &str, size: f64, limit: f64) -> Vec<String> {
    let mut lines = Vec::<String>::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(&format!("{line} {word}"), size) <= limit => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Cuts a text to at most `limit`. An ellipsis marks the cut.
pub(super) fn shorten(text: &str, size: f64, limit: f64) -> String {
    if width(text, size) <= limit {
        return text.to_owned();
    }
    let mut letters = text.chars().collect::<Vec<_>>();
    while letters.pop().is_some() {
        let short = letters.iter().collect::<String>() + "…";
        if width(&short, size) <= limit {
            return short;
        }
    }
    "…".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_the_font() {
        // Advance widths of DejaVu Sans in units of 2048 per em: `m` 1995, `i` 569.
        let scale = PLOTTERS_SIZE / (2384.0 / 2048.0);
        for (text, units) in [("mmmm", 4.0 * 1995.0), ("ii", 2.0 * 569.0)] {
            let wanted = 20.0 * units / 2048.0 * scale;
            assert!((width(text, 20.0) - wanted).abs() < 0.5, "{text}: {}, not {wanted}", width(text, 20.0));
        }
    }

    #[test]
    fn lines_and_shortened_texts_fit() {
        let text = "Relative error of the output by layer and head, mean over the steps";
        let lines = wrap(text, 16.0, 200.0);
        assert_eq!(lines.join(" "), text);
        assert!(lines.len() > 2 && lines.iter().all(|line| width(line, 16.0) <= 200.0));
        let short = shorten(text, 16.0, 200.0);
        assert!(width(&short, 16.0) <= 200.0 && short.ends_with('…') && short.starts_with("Relative error"));
        assert_eq!(shorten("short", 16.0, 200.0), "short");
    }
}
