//! Random changes of valid bytes and texts.

use super::Source;

/// Numbers that often break code which does not expect them.
pub const NUMBERS: [&str; 22] = [
    "0",
    "-0",
    "-1",
    "0.0",
    "-0.5",
    "1.5",
    "1e-400",
    "5e-324",
    "1e308",
    "1e400",
    "-1e400",
    "1E+2",
    "01",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "NaN",
    "Infinity",
];

/// Bytes with some of them changed, removed or repeated.
pub fn of_bytes(source: &mut Source, good: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..source.between(1, 3) {
        if bytes.is_empty() {
            bytes.push(source.bits() as u8);
        }
        let at = source.below(bytes.len());
        let end = at + source.below((bytes.len() - at).min(40) + 1);
        match source.below(7) {
            0 => bytes.truncate(at),
            1 | 2 => bytes[at] ^= 1 << source.below(8),
            3 => bytes[at] = source.bits() as u8,
            4 => drop(bytes.drain(at..end)),
            5 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => bytes.insert(at, *source.pick(&[0, 0xff, b'"', b'{', b']', b'0'])),
        }
    }
    bytes
}

/// A text with a number, a character or a part changed, or with many brackets around it.
pub fn of_text(source: &mut Source, good: &str) -> String {
    match source.below(8) {
        0..3 => other_number(source, good),
        3 => nested(source, good),
        4 => {
            let piece = *source.pick(&[
                "null",
                "true",
                "[]",
                "{}",
                "\"\"",
                "\"\\u0000\"",
                "\"\\ud800\"",
                ",",
                "/**/",
                "\u{feff}",
            ]);
            let mut text = good.to_owned();
            text.insert_str(character(source, good), piece);
            text
        }
        _ => String::from_utf8_lossy(&of_bytes(source, good.as_bytes())).into_owned(),
    }
}

/// A text with one of its numbers replaced.
pub fn other_number(source: &mut Source, good: &str) -> String {
    let starts = good.char_indices().filter(|(at, c)| {
        let before = good[..*at].chars().next_back();
        c.is_ascii_digit() && before.is_some_and(|c| matches!(c, ':' | ' ' | '[' | ','))
    });
    let starts = starts.map(|(at, _)| at).collect::<Vec<_>>();
    if starts.is_empty() {
        return good.to_owned();
    }
    let start = *source.pick(&starts);
    let length = good[start..].find(|c: char| !matches!(c, '0'..='9' | '.' | 'e' | 'E' | '-' | '+'));
    let end = length.map_or(good.len(), |length| start + length);
    [&good[..start], *source.pick(&NUMBERS), &good[end..]].concat()
}

/// A text inside many brackets, some of them closed.
pub fn nested(source: &mut Source, good: &str) -> String {
    let depth = *source.pick(&[3, 120, 200, 3_000]);
    let (open, close) = *source.pick(&[("[", "]"), ("{\"type\":", "}")]);
    let closed = if source.once_in(2) { depth } else { source.below(depth) };
    let at = if source.once_in(2) { 0 } else { character(source, good) };
    [&good[..at], &open.repeat(depth), &good[at..], &close.repeat(closed)].concat()
}

/// A random position at which a character begins.
fn character(source: &mut Source, text: &str) -> usize {
    let mut at = source.below(text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
