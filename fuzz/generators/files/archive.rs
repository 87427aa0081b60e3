//! Archives in the format of PyTorch: stored files one after the other, and a list of them at the end.

/// The files of an archive, with their names.
pub type Files = Vec<(String, Vec<u8>)>;

/// The files of an archive without compression.
pub fn files(archive: &[u8]) -> Files {
    let number = |at: usize, bytes: usize| {
        archive[at..at + bytes].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    let mut files = Vec::new();
    let mut at = 0;
    while archive[at..].starts_with(b"PK\x03\x04") {
        let (length, name, extra) = (number(at + 18, 4), number(at + 26, 2), number(at + 28, 2));
        let data = at + 30 + name + extra;
        let name = String::from_utf8_lossy(&archive[at + 30..at + 30 + name]).into_owned();
        files.push((name, archive[data..data + length].to_vec()));
        at = data + length;
    }
    files
}

/// An archive of files without compression.
pub fn archive(files: &Files) -> Vec<u8> {
    let (mut archive, mut list) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let start = archive.len() as u32;
        let mut about = Vec::new();
        // Version, flags, method, time, date.
        about.extend([20u16, 0, 0, 0, 33].into_iter().flat_map(u16::to_le_bytes));
        about.extend(checksum(content).to_le_bytes());
        about.extend([content.len() as u32; 2].into_iter().flat_map(u32::to_le_bytes));
        about.extend([name.len() as u16, 0].into_iter().flat_map(u16::to_le_bytes));
        archive.extend(b"PK\x03\x04");
        archive.extend(&about);
        archive.extend(name.as_bytes());
        archive.extend(content);
        list.extend(b"PK\x01\x02\x14\x00");
        list.extend(&about);
        list.extend([0; 10]);
        list.extend(start.to_le_bytes());
        list.extend(name.as_bytes());
    }
    let (start, length, count) = (archive.len() as u32, list.len() as u32, files.len() as u16);
    archive.extend(list);
    archive.extend(b"PK\x05\x06\x00\x00\x00\x00");
    archive.extend([count, count].into_iter().flat_map(u16::to_le_bytes));
    archive.extend([length, start].into_iter().flat_map(u32::to_le_bytes));
    archive.extend([0, 0]);
    archive
}

/// The cyclic redundancy check of zip archives.
fn checksum(content: &[u8]) -> u32 {
    !content.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 })
    })
}
