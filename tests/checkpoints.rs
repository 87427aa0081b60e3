//! PyTorch checkpoints of HashAttention: valid files are read, and invalid files give an error that says what is wrong.
#![cfg(feature = "hf")]

mod common;

use std::path::Path;

use burn::tensor::backend::Backend;
use common::{
    checkpoints::{Entry, archive, archive_of, hash_attention, legacy, pickle, zip_of},
    files::Folder,
    on_each_backend,
};
use sparse_attention_hub::{
    FileError,
    scorer::{Activation, HashConfig, HashWeights},
};

on_each_backend!(every_layout_of_the_same_tensors_is_read, invalid_checkpoints_are_errors);

fn config() -> HashConfig {
    HashConfig {
        hat_bits: 5,
        hat_mlp_layers: 2,
        hat_mlp_hidden_size: 3,
        hat_mlp_activation: Activation::Silu,
        hat_weights: None,
    }
}

fn read<B: Backend>(path: &Path) -> Result<HashWeights<B>, FileError> {
    HashWeights::from_file(path.to_owned(), &config(), &B::Device::default())
}

/// All numbers, ordered by layer, with the query's before the key's.
fn numbers<B: Backend>(weights: &HashWeights<B>) -> Vec<f32> {
    let mut numbers = Vec::new();
    for (layer, perceptrons) in weights.layers() {
        numbers.push(layer as f32);
        for linear in perceptrons.query.layers.iter().chain(&perceptrons.key.layers) {
            numbers.extend(linear.matrix.val().into_data().convert::<f32>().iter::<f32>());
            numbers.extend(linear.bias.val().into_data().convert::<f32>().iter::<f32>());
        }
    }
    numbers
}

/// A matrix in column-major order, at an offset in its storage.
fn transposed(entry: &Entry) -> Entry {
    let [rows, columns] = entry.shape[..] else { return entry.clone() };
    let row_major = entry.numbers.chunks(4).collect::<Vec<_>>();
    let mut numbers = vec![0xff; 8];
    for (column, row) in (0..columns).flat_map(|column| (0..rows).map(move |row| (column, row))) {
        numbers.extend(row_major[(row * columns + column) as usize]);
    }
    Entry { length: rows * columns + 2, offset: 2, strides: vec![1, rows], numbers, ..entry.clone() }
}

/// The same numbers as f64.
fn wide(entry: &Entry) -> Entry {
    let numbers = entry.numbers.chunks(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]]));
    let numbers = numbers.flat_map(|x| f64::from(x).to_le_bytes()).collect();
    Entry { class: "DoubleStorage", numbers, ..entry.clone() }
}

fn every_layout_of_the_same_tensors_is_read<B: Backend>() {
    let folder = Folder::new::<B>("sah_checkpoints");
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hash_attention.pt");
    let wanted = numbers(&read::<B>(&published).expect("the file is right"));
    let entries = hash_attention();
    let with = |change: fn(&Entry) -> Entry| entries.iter().map(change).collect::<Vec<_>>();
    // One dictionary for each layer, instead of one for all layers.
    let by_layer = [2, 3].map(|layer| {
        let prefix = format!("{layer}.");
        let of_layer = entries.iter().filter(|entry| entry.name.starts_with(&prefix));
        of_layer.map(|entry| Entry { name: entry.name[2..].to_owned(), ..entry.clone() }).collect::<Vec<_>>()
    });
    let mut nested = b"\x80\x02}(".to_vec();
    for (key, entries) in [b'2', b'3'].into_iter().zip(&by_layer) {
        let inner = pickle(entries);
        nested.extend([b'X', 1, 0, 0, 0, key]);
        nested.extend(&inner[2..inner.len() - 1]);
    }
    nested.extend(b"u.");
    // Storages are numbered from 0 in each dictionary. In the nested file both layers therefore read the storages of
    // the first.
    for (name, bytes) in [
        ("archive.pt", archive(&entries)),
        ("legacy.pth", legacy(&entries)),
        ("transposed.pt", archive(&with(transposed))),
        ("wide.pt", archive(&with(wide))),
        ("wide_legacy.pt", legacy(&with(wide))),
    ] {
        folder.write(name, bytes);
        let weights = read::<B>(&folder.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(numbers(&weights), wanted, "{name}");
    }
    folder.write("nested.pt", archive_of(&nested, &by_layer[0]));
    let weights = read::<B>(&folder.path("nested.pt")).expect("the file is right");
    assert_eq!(weights.layers().map(|(layer, _)| layer).collect::<Vec<_>>(), [2, 3]);
    let half = wanted.len() / 2;
    let of_layer = |layer: f32| [&[layer], &wanted[1..half]].concat();
    assert_eq!(numbers(&weights), [of_layer(2.0), of_layer(3.0)].concat());
}

fn invalid_checkpoints_are_errors<B: Backend>() {
    let folder = Folder::new::<B>("sah_wrong_checkpoints");
    let right = hash_attention();
    let first = right[0].clone();
    assert_eq!(first.name, "2.learning_to_hash_transformation_q.0.0.weight");
    let all = |change: &dyn Fn(&mut Entry)| {
        let mut entries = right.clone();
        entries.iter_mut().for_each(change);
        archive(&entries)
    };
    let one = |change: &dyn Fn(&mut Entry)| {
        let mut entries = right.clone();
        change(&mut entries[0]);
        archive(&entries)
    };
    let renamed = |name: &str| one(&|entry| entry.name = name.to_owned());
    let head = |head: &str| renamed(&format!("2.learning_to_hash_transformation_q.{head}.0.weight"));
    let short = |keep: usize| all(&|entry| entry.numbers.truncate(entry.numbers.len() * keep / 2));
    let with_pickle = |pickle: &[u8]| archive_of(pickle, &right);
    let bytes = archive(&right);
    let mut deep = [b"\x80\x02".to_vec(), vec![b']'; 200_000], vec![b'a'; 199_999]].concat();
    deep.push(b'.');
    let files = || right.iter().enumerate().map(|(at, entry)| (format!("data/{at}"), entry.numbers.as_slice()));
    let whole = pickle(&right);
    let with_order = |order: &'static [u8]| {
        let first = [("data.pkl".to_owned(), whole.as_slice()), ("byteorder".to_owned(), order)];
        zip_of(first.into_iter().chain(files()))
    };
    let mut twice = right.clone();
    twice[1] = first.clone();
    // A dictionary that contains itself, and dictionaries that share their entries at every level.
    let in_itself = b"\x80\x02}q\0(X\x01\0\0\0ah\0u.".to_vec();
    let mut shared = b"\x80\x02}q\0".to_vec();
    for level in 1..40u8 {
        shared.extend([b'}', b'q', level, b'(']);
        for key in b"ab" {
            shared.extend([b'X', 1, 0, 0, 0, *key, b'h', level - 1]);
        }
        shared.push(b'u');
    }
    shared.push(b'.');
    let legacy_of = |change: &dyn Fn(&mut Entry)| {
        let mut entries = right.clone();
        change(&mut entries[0]);
        legacy(&entries)
    };
    let in_legacy = legacy(&right);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty.pt", vec![], "ends in the middle"),
        ("text.pt", b"hello".to_vec(), "entry 101 of its memory"),
        ("archive_header.pt", bytes[..4].to_vec(), "cut off or damaged"),
        ("half.pt", bytes[..bytes.len() / 2].to_vec(), "cut off or damaged"),
        ("tail.pt", bytes[..bytes.len() - 10].to_vec(), "cut off or damaged"),
        ("integer.pkl", b"\x80\x02K\x03.".to_vec(), "an integer in place of a dictionary"),
        ("list.pkl", b"\x80\x02](K\x01K\x02e.".to_vec(), "a list in place of a dictionary"),
        ("dictionary.pkl", b"\x80\x02}X\x01\0\0\0aK\x01s.".to_vec(), "has no `0.learning"),
        ("call.pkl", b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.".to_vec(), "a call in place of a dictionary"),
        ("deep.pkl", deep.clone(), "a list in place of a dictionary"),
        ("deep.pt", with_pickle(&deep), "a list in place of a dictionary"),
        ("in_itself.pkl", in_itself, "hold each other"),
        ("shared.pkl", shared, "hold each other"),
        ("long_text.pkl", b"\x80\x04\x8d\0\0\0\0\0\0\0\x40x.".to_vec(), "ends in the middle"),
        ("no_memory.pkl", b"\x80\x02h\x07.".to_vec(), "entry 7 of its memory"),
        ("no_pickle.pt", zip_of(files()), "has no data.pkl"),
        ("pickle_cut.pt", with_pickle(&whole[..whole.len() / 2]), "ends in the middle"),
        ("no_storage.pt", archive_of(&whole, &[]), "which is not in the file"),
        ("short_storage.pt", short(1), "which has 24 bytes in place of 48"),
        ("empty_storage.pt", short(0), "which has 0 bytes in place of 48"),
        ("long_storage.pt", one(&|entry| entry.numbers.extend([0; 4])), "which has 52 bytes in place of 48"),
        ("head_1e6.pt", head("1000000"), "has no `2.learning_to_hash_transformation_q.2.0.weight`"),
        ("head_1e10.pt", head("10000000000"), "has no `2.learning_to_hash_transformation_q.2.0.weight`"),
        ("head_2_62.pt", head("4611686018427387904"), "has no `2.learning_to_hash_transformation_q.2.0.weight`"),
        ("head_max.pt", head("18446744073709551615"), "has no `2.learning_to_hash_transformation_q.2.0.weight`"),
        (
            "head_alone.pt",
            archive(&[Entry { name: first.name.replace("q.0", "q.18446744073709551615"), ..first.clone() }]),
            "has no `2.learning_to_hash_transformation_q.0.0.weight`",
        ),
        (
            "layer_max.pt",
            renamed("18446744073709551615.learning_to_hash_transformation_q.0.0.weight"),
            "has no `2.learning_to_hash_transformation_q.0.0.weight`",
        ),
        ("sizes_0.pt", all(&|entry| entry.shape.fill(0)), "[0, 0]"),
        ("sizes_255.pt", all(&|entry| entry.shape.fill(255)), "[255, 255]"),
        ("sizes_negative.pt", all(&|entry| entry.shape.fill(-1)), "has the size -1"),
        ("sizes_large.pt", all(&|entry| entry.shape.fill(i32::MAX)), "[2147483647, 2147483647]"),
        ("wide.pt", one(&|entry| entry.shape[1] = i32::MAX), "more than the 12 numbers"),
        ("strides_0.pt", one(&|entry| (entry.shape, entry.strides) = (vec![3, 1 << 30], vec![0, 0])), "more than the"),
        ("strides_far.pt", one(&|entry| entry.strides[0] = 5), "more than the 12 numbers"),
        ("strides_few.pt", one(&|entry| entry.strides = vec![1]), "but the strides [1]"),
        ("offset.pt", one(&|entry| entry.offset = 1), "more than the 12 numbers"),
        ("offset_negative.pt", one(&|entry| entry.offset = -1), "has the size -1"),
        ("length.pt", one(&|entry| entry.length = 11), "more than the 11 numbers"),
        ("length_large.pt", one(&|entry| entry.length = i32::MAX), "in place of 8589934588"),
        ("integers.pt", one(&|entry| entry.class = "IntStorage"), "of the class IntStorage"),
        ("twice.pt", archive(&twice), "is there twice"),
        ("big_endian.pt", with_order(b"big"), "little-endian"),
        ("legacy_cut.pt", in_legacy[..in_legacy.len() - 1].to_vec(), "storage `31` is cut off"),
        ("legacy_pickle.pt", in_legacy[..300].to_vec(), "ends in the middle"),
        ("legacy_length.pt", legacy_of(&|entry| entry.length = 11), "storage `1` is cut off"),
        ("no_storages.pkl", pickle(&right), "which is not in the file"),
    ];
    for (name, bytes, part) in cases {
        folder.write(name, bytes);
        let message = match read::<B>(&folder.path(name)) {
            Ok(_) => panic!("{name} is read"),
            Err(error) => error.to_string(),
        };
        assert!(message.contains(name) && message.contains(part), "{message}");
    }
    // A folder and a device are not checkpoints. Reading them gives an error and does not block.
    std::fs::create_dir(folder.path("folder.pt")).expect("the temporary folder can be written");
    #[cfg(unix)]
    std::os::unix::fs::symlink("/dev/zero", folder.path("zero.pt")).expect("the temporary folder can be written");
    for name in ["folder.pt", "zero.pt"] {
        assert!(read::<B>(&folder.path(name)).is_err());
    }
    let none = HashConfig { hat_mlp_layers: 0, ..config() };
    let error = HashWeights::<B>::from_file(folder.path("none.pt"), &none, &B::Device::default()).unwrap_err();
    assert!(error.to_string().contains("`hat_mlp_layers` is 0"), "{error}");
}
