//! Words for generated tasks.

use rand::{Rng, RngExt, seq::IndexedRandom};

/// Words for keys and lists.
const NOUNS: [&str; 64] = [
    "anchor", "apple", "arrow", "badge", "barrel", "basket", "beacon", "bottle", "bridge", "bucket", "button",
    "candle", "carpet", "castle", "copper", "cotton", "desert", "dinner", "engine", "feather", "finger", "forest",
    "garden", "glacier", "hammer", "harbor", "island", "jacket", "kettle", "ladder", "lantern", "letter", "marble",
    "meadow", "mirror", "needle", "orchard", "paddle", "paper", "pepper", "pillow", "planet", "pocket", "puzzle",
    "ribbon", "river", "saddle", "shadow", "shovel", "signal", "silver", "spider", "stable", "summer", "table",
    "tunnel", "valley", "violin", "wagon", "walnut", "window", "winter", "wizard", "yellow",
];

/// Adjectives that are put before the nouns.
const ADJECTIVES: [&str; 32] = [
    "ancient", "bitter", "brave", "bright", "broken", "calm", "clever", "cold", "curious", "distant", "eager", "early",
    "empty", "fancy", "gentle", "golden", "hidden", "hollow", "honest", "humble", "lively", "lonely", "narrow",
    "noble", "proud", "quiet", "rapid", "rough", "simple", "sudden", "tender", "wild",
];

/// Distinct keys, such as `hidden-lantern`.
pub(super) fn keys(count: usize, generator: &mut impl Rng) -> Vec<String> {
    let mut keys = Vec::new();
    while keys.len() < count {
        let part = |list: &[&str], generator: &mut _| list.choose(generator).copied().unwrap_or_default().to_owned();
        let key = format!("{}-{}", part(&ADJECTIVES, generator), part(&NOUNS, generator));
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// All nouns, in a random order.
pub(super) fn nouns(generator: &mut impl Rng) -> Vec<String> {
    NOUNS.sample(generator, NOUNS.len()).map(|noun| (*noun).to_owned()).collect()
}

/// Distinct words of random letters.
pub(super) fn letters(count: usize, length: usize, first: char, generator: &mut impl Rng) -> Vec<String> {
    let mut words = Vec::<String>::new();
    while words.len() < count {
        let letter = |_| char::from(first as u8 + generator.random_range(0..26u8));
        let word = (0..length).map(letter).collect();
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

/// Distinct numbers with `digits` digits, the first of which is not 0.
pub(super) fn numbers(count: usize, digits: u32, generator: &mut impl Rng) -> Vec<String> {
    let mut numbers = Vec::<String>::new();
    while numbers.len() < count {
        let number = generator.random_range(10u64.pow(digits - 1)..10u64.pow(digits)).to_string();
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers
}
