//! Pickles that are not checkpoints.

use super::{Expected, Made};
use crate::generators::Source;

/// Operations of the pickle machine, some with their arguments.
const OPERATIONS: [&[u8]; 36] = [
    b"(",
    b"0",
    b"1",
    b"2",
    b"N",
    b"]",
    b")",
    b"}",
    b"a",
    b"e",
    b"s",
    b"u",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"l",
    b"d",
    b"R",
    b"b",
    b"\x81",
    b"Q",
    b"K\x07",
    b"J\xff\xff\xff\x7f",
    b"M\xff\xff",
    b"I12\n",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x8b\xfb\xff\xff\xff",
    b"G\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"X\x01\x00\x00\x00a",
    b"X\xf0\xff\xff\xff",
    b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"q\x00",
    b"h\x00",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"cos\nsystem\n",
];

/// A pickle of random operations.
pub fn make(source: &mut Source) -> Made {
    let mut content = b"\x80\x02".to_vec();
    let how = match source.below(6) {
        0 => {
            let depth = *source.pick(&[10, 1_000, 20_000]);
            let (open, close) = *source.pick(&[(b']', b'a'), (b'(', b't'), (b')', b'\x85')]);
            content.extend(vec![open; depth]);
            content.extend(vec![close; depth - 1]);
            format!("{depth} deep by {:?}", char::from(open))
        }
        1 => {
            content.extend(b"\x95");
            content.extend(source.bits().to_le_bytes());
            "a frame of any length".to_owned()
        }
        2 => {
            content[1] = source.bits() as u8;
            format!("protocol {}", content[1])
        }
        _ => "any operations".to_owned(),
    };
    for _ in 0..source.below(30) {
        content.extend(*source.pick(&OPERATIONS));
        if source.once_in(20) {
            content.push(source.bits() as u8);
        }
    }
    if !source.once_in(5) {
        content.push(b'.');
    }
    Made { content, extension: "pt", expected: Expected::Refused("a pickle that is no checkpoint is refused"), how }
}
