//! PyTorch checkpoints.

use super::{
    Expected, Made,
    archive::{Files, archive, files},
};
use crate::generators::{Source, mutations};

/// A checkpoint with perceptrons of two layers and two heads.
const GOOD: &[u8] = include_bytes!("../../../tests/data/hash_attention.pt");

/// The name of the file that describes the tensors.
const PICKLE: &str = "hash/data.pkl";

/// A file made from a valid one.
pub fn make(source: &mut Source) -> Made {
    let mut parts = files(GOOD);
    // Without the feature `hf` there is no reader, and every checkpoint is refused.
    let unread = "a checkpoint without a reader is refused";
    let read = if cfg!(feature = "hf") { Expected::Read } else { Expected::Refused(unread) };
    let (expected, how) = match source.below(12) {
        0 => (read, "good".to_owned()),
        1 => {
            parts.retain(|(name, _)| name != PICKLE);
            (Expected::Refused("a checkpoint without a description is refused"), "without a description".to_owned())
        }
        2 => {
            let (name, _) = parts.remove(storage(source, &parts));
            (Expected::Refused("a checkpoint without the numbers of a tensor is refused"), format!("without {name}"))
        }
        3 => {
            let at = storage(source, &parts);
            let length = source.below(parts[at].1.len());
            parts[at].1.truncate(length);
            (
                Expected::Refused("a checkpoint with too few numbers is refused"),
                format!("{} cut to {length} bytes", parts[at].0),
            )
        }
        4 => {
            let length = source.below(pickle(&mut parts).len());
            pickle(&mut parts).truncate(length);
            (
                Expected::Refused("a checkpoint with a cut description is refused"),
                format!("a description cut to {length} bytes"),
            )
        }
        5 => {
            return of_bytes(
                Expected::Refused("a checkpoint that is cut is refused"),
                "cut",
                GOOD[..source.below(GOOD.len())].to_vec(),
            );
        }
        6 => return of_bytes(Expected::Either, "changed bytes", mutations::of_bytes(source, GOOD)),
        7 => {
            let number = *source.pick(&["18446744073709551615", "4611686018427387904", "10000000000", "1000000", "7"]);
            rename(pickle(&mut parts), &format!("2.learning_to_hash_transformation_q.{number}.0.weight"));
            (Expected::Refused("a checkpoint that lacks heads is refused"), format!("head {number}"))
        }
        8 => {
            let number = *source.pick(&["18446744073709551615", "18446744073709551616", "-1", "x"]);
            rename(pickle(&mut parts), &format!("{number}.learning_to_hash_transformation_q.0.0.weight"));
            (Expected::Refused("a checkpoint with a tensor of another layer is refused"), format!("layer {number}"))
        }
        9 => {
            let changed = mutations::of_bytes(source, pickle(&mut parts));
            *pickle(&mut parts) = changed;
            (Expected::Either, "a changed description".to_owned())
        }
        10 => {
            let byte = *source.pick(&[0, 1, 5, 0xff]);
            let how = numbers(source, pickle(&mut parts), byte);
            (Expected::Either, how)
        }
        _ => {
            let at = storage(source, &parts);
            parts[at].1.fill(0xff);
            (read, format!("{} without numbers", parts[at].0))
        }
    };
    of_bytes(expected, &how, archive(&parts))
}

fn of_bytes(expected: Expected, how: &str, content: Vec<u8>) -> Made {
    Made { content, extension: "pt", expected, how: how.to_owned() }
}

/// The description of the tensors.
fn pickle(parts: &mut Files) -> &mut Vec<u8> {
    let at = parts.iter().position(|(name, _)| name == PICKLE);
    &mut parts[at.expect("a checkpoint has a description")].1
}

/// The number of one of the files that hold a tensor's numbers.
fn storage(source: &mut Source, parts: &Files) -> usize {
    let storages = parts.iter().enumerate().filter(|(_, (name, _))| name.starts_with("hash/data/"));
    *source.pick(&storages.map(|(at, _)| at).collect::<Vec<_>>())
}

/// Renames the first tensor.
fn rename(pickle: &mut Vec<u8>, name: &str) {
    let string = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let (from, to) = (string("2.learning_to_hash_transformation_q.0.0.weight"), string(name));
    let at = pickle.windows(from.len()).position(|window| window == from).expect("the first tensor has this name");
    pickle.splice(at..at + from.len(), to);
}

/// Replaces the bytes of some small numbers: lengths, strides and offsets.
fn numbers(source: &mut Source, pickle: &mut [u8], by: u8) -> String {
    // `K` followed by a byte is a number. Names hardly ever contain this.
    let at = (1..pickle.len()).filter(|at| pickle[at - 1] == b'K').collect::<Vec<_>>();
    let some = source.between(1, at.len());
    for place in source.some_below(at.len(), some) {
        pickle[at[place]] = by;
    }
    format!("{some} of {} numbers in the description are {by}", at.len())
}
