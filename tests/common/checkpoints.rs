//! PyTorch checkpoints as bytes, valid and invalid.

use std::io::{Cursor, Write};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A tensor as a checkpoint describes it. The name of its storage is its index in the list of tensors.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    pub class: &'static str,
    /// The length of the storage that the file states.
    pub length: i32,
    pub offset: i32,
    pub shape: Vec<i32>,
    pub strides: Vec<i32>,
    /// The bytes of the numbers, as they are in the file.
    pub numbers: Vec<u8>,
}

impl Entry {
    /// f32 numbers, row by row.
    pub fn of(name: String, shape: &[i32], numbers: &[f32]) -> Self {
        let strides = (0..shape.len()).map(|at| shape[at + 1..].iter().product()).collect();
        let numbers = numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        let length = shape.iter().product();
        Self { name, class: "FloatStorage", length, offset: 0, shape: shape.to_vec(), strides, numbers }
    }
}

/// The tensors of `tests/data/hash_attention.pt`.
pub fn hash_attention() -> Vec<Entry> {
    let mut entries = Vec::new();
    for (layer, (start, part)) in [2, 3].into_iter().flat_map(|layer| [(layer, (0, 'q')), (layer, (500, 'k'))]) {
        for (head, (index, [rows, columns])) in
            [0, 1].into_iter().flat_map(|head| [(head, (0, [3, 4])), (head, (1, [5, 3]))])
        {
            let base = (1000 * layer + start + 100 * head + 50 * index) as f32;
            let name = format!("{layer}.learning_to_hash_transformation_{part}.{head}.{}", 2 * index);
            let matrix = (0..rows * columns).map(|at| base + at as f32).collect::<Vec<_>>();
            let bias = (0..rows).map(|at| -base - at as f32).collect::<Vec<_>>();
            entries.push(Entry::of(format!("{name}.weight"), &[rows, columns], &matrix));
            entries.push(Entry::of(format!("{name}.bias"), &[rows], &bias));
        }
    }
    entries
}

/// A state dictionary as a pickle of protocol 2. It has no memo, which real pickles use.
pub fn pickle(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (storage, entry) in entries.iter().enumerate() {
        text(&mut bytes, &entry.name);
        bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut bytes, "storage");
        bytes.extend(format!("ctorch\n{}\n", entry.class).bytes());
        text(&mut bytes, &storage.to_string());
        text(&mut bytes, "cpu");
        integer(&mut bytes, entry.length);
        bytes.extend(b"tQ");
        integer(&mut bytes, entry.offset);
        for sizes in [&entry.shape, &entry.strides] {
            bytes.push(b'(');
            sizes.iter().for_each(|&size| integer(&mut bytes, size));
            bytes.push(b't');
        }
        bytes.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    bytes.extend(b"u.");
    bytes
}

/// The zip archive that PyTorch writes since version 1.6.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    archive_of(&pickle(entries), entries)
}

/// An archive with any pickle and the storages of the entries.
pub fn archive_of(pickle: &[u8], entries: &[Entry]) -> Vec<u8> {
    let storages = entries.iter().enumerate().map(|(at, entry)| (format!("data/{at}"), entry.numbers.as_slice()));
    let files =
        [("data.pkl".to_owned(), pickle), ("byteorder".to_owned(), b"little".as_slice())].into_iter().chain(storages);
    zip_of(files)
}

/// Files in an archive, in the folder `hash`.
pub fn zip_of<'a>(files: impl IntoIterator<Item = (String, &'a [u8])>) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        archive.start_file(format!("hash/{name}"), options).expect("the names differ");
        archive.write_all(content).expect("memory can be written");
    }
    archive.finish().expect("memory can be written").into_inner()
}

/// The file format that PyTorch wrote before version 1.6.
pub fn legacy(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}(".to_vec();
    text(&mut bytes, "little_endian");
    bytes.extend(b"\x88u.");
    bytes.extend(pickle(entries));
    bytes.extend(b"\x80\x02](");
    (0..entries.len()).for_each(|storage| text(&mut bytes, &storage.to_string()));
    bytes.extend(b"e.");
    for entry in entries {
        bytes.extend(i64::from(entry.length).to_le_bytes());
        bytes.extend(&entry.numbers);
    }
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(b'X');
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.bytes());
}

fn integer(bytes: &mut Vec<u8>, number: i32) {
    bytes.push(b'J');
    bytes.extend(number.to_le_bytes());
}
