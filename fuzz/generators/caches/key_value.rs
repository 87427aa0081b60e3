//! The key-value cache alone.

use burn::tensor::{DType, Tensor};
use sparse_attention_hub::nn::KvCache;

use super::Cut;
use crate::generators::{
    B, Checked, Fault, Source,
    fault::hold,
    numbers::{numbers, tensor},
};

/// The expected content of the cache: `[batch * heads]` lists of vectors.
struct History {
    batch: usize,
    heads: usize,
    /// The widths of keys and values.
    widths: [usize; 2],
    /// Keys and values of each head, position by position.
    positions: [Vec<Vec<f64>>; 2],
    length: usize,
}

/// A random sequence of calls.
///
/// # Errors
/// If the content of the cache differs from the appended tokens.
pub fn check(source: &mut Source) -> Checked {
    let (batch, heads) = (source.between(1, 2), source.between(1, 3));
    let widths = [source.between(1, 4), source.between(1, 4)];
    let empty = || vec![Vec::new(); batch * heads];
    let mut history = History { batch, heads, widths, positions: [empty(), empty()], length: 0 };
    let mut cache = match source.once_in(2) {
        true => KvCache::<B>::new(1),
        false => KvCache::with_capacity(1, source.below(80)),
    };
    let mut held = None;
    for _ in 0..source.between(1, 12) {
        match source.below(8) {
            0..4 => {
                let count = if source.once_in(6) { source.between(30, 90) } else { source.between(1, 4) };
                append(source, &mut history, &mut cache, count)?;
            }
            4 => refused(source, &history, &mut cache)?,
            5 => {
                let length = source.below(history.length + 2);
                if cache.truncate(length).done() {
                    history.truncate(length);
                }
            }
            6 if source.once_in(3) => {
                cache.reset();
                history.truncate(0);
            }
            _ => held = cache.keys().map(|view| (numbers(&view), view)),
        }
        history.check(&cache)?;
        if let Some((before, view)) = &held {
            hold!(numbers(view) == *before, "a view that is held keeps what it shows", "{:?}", view.dims());
        }
    }
    Ok(())
}

/// Random numbers for keys or values.
fn tokens(source: &mut Source, dims: [usize; 4]) -> (Vec<f64>, Tensor<B, 4>) {
    let values = (0..dims.iter().product()).map(|_| f64::from(source.normal() as f32)).collect::<Vec<_>>();
    let tensor = tensor(&values, dims, DType::F32);
    (values, tensor)
}

fn append(source: &mut Source, history: &mut History, cache: &mut KvCache<B>, count: usize) -> Checked {
    let History { batch, heads, widths, .. } = *history;
    let parts = widths.map(|width| tokens(source, [batch, heads, count, width]));
    let [(keys, key_tensor), (values, value_tensor)] = parts;
    let appended = cache.append(key_tensor, value_tensor);
    appended.map_err(|error| Fault::new("tokens that fit are taken in", error.to_string()))?;
    for ((part, new), width) in history.positions.iter_mut().zip([keys, values]).zip(widths) {
        part.iter_mut().zip(new.chunks(count * width)).for_each(|(head, new)| head.extend(new));
    }
    history.length += count;
    Ok(())
}

/// Tokens that do not fit must leave the cache unchanged.
fn refused(source: &mut Source, history: &History, cache: &mut KvCache<B>) -> Checked {
    let History { batch, heads, widths, length, .. } = *history;
    let [mut keys, mut values] = widths.map(|width| [batch, heads, 2, width]);
    let place = source.below(4);
    match source.below(3) {
        0 => values[place.min(2)] += 1,
        1 => keys[place] = 0,
        _ if length > 0 && place != 2 => {
            let other = if place == 3 { keys[3] } else { values[place] } + 1;
            keys[place] = other;
            values[place] = if place == 3 { values[3] } else { other };
        }
        _ => values[place] = 0,
    }
    let (key_tensor, value_tensor) = (tokens(source, keys).1, tokens(source, values).1);
    let accepted = cache.append(key_tensor, value_tensor).is_ok();
    hold!(!accepted, "tokens that do not fit are refused", "{keys:?} and {values:?} after {length}");
    Ok(())
}

impl History {
    fn truncate(&mut self, length: usize) {
        for (part, width) in self.positions.iter_mut().zip(self.widths) {
            part.iter_mut().for_each(|head| head.truncate(length * width));
        }
        self.length = self.length.min(length);
    }

    fn check(&self, cache: &KvCache<B>) -> Checked {
        let length = self.length;
        hold!(cache.len() == length, "a cache holds what was put in", "{} and not {length}", cache.len());
        hold!(cache.is_empty() == (length == 0), "a cache holds what was put in", "empty at {length}");
        hold!(cache.capacity() >= length, "a cache holds what was put in", "capacity {}", cache.capacity());
        for (found, wanted) in [cache.keys(), cache.values()].into_iter().zip(&self.positions) {
            let found = found.map(|found| numbers(&found)).unwrap_or_default();
            hold!(found == wanted.concat(), "a cache holds what was put in", "other numbers at length {length}");
        }
        Ok(())
    }
}
