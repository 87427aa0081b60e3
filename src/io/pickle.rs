//! Reads Python's pickles as far as checkpoints need them: dictionaries of tensors. Nothing that a pickle names is
//! called.

use std::collections::HashMap;

use thiserror::Error;

/// What is wrong with a pickle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum PickleError {
    #[error("it ends in the middle")]
    End,
    #[error("it has the instruction {code:#04x} at byte {at}, which checkpoints do not need")]
    Instruction { code: u8, at: usize },
    #[error("at byte {at} it takes a value where there is none")]
    Stack { at: usize },
    #[error("at byte {at} it asks for entry {entry} of its memory, which is not there")]
    Memory { entry: usize, at: usize },
    #[error("at byte {at} is a text that is not UTF-8")]
    Text { at: usize },
    #[error("at byte {at} is {found}, but it must be {expected}")]
    Kind { found: &'static str, expected: &'static str, at: usize },
}

/// The index of a value in [Pickle::values].
pub(super) type Place = usize;

/// A value. It refers to its parts by their places and does not contain them. Reading and dropping deeply nested values
/// is therefore not recursive, and a part that several values share is stored once.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Text(String),
    /// Values that no checkpoint needs: floats, bytes, long integers, objects of classes.
    Other,
    /// A class or function, `module name`.
    Global(String),
    Tuple(Vec<Place>),
    List(Vec<Place>),
    /// Keys and values, in the order of the pickle.
    Dict(Vec<(Place, Place)>),
    /// An object outside the pickle, by its identifier.
    Persistent(Place),
    /// A call of a function. The call is not carried out.
    Call {
        function: Place,
        arguments: Place,
    },
}

impl Value {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Text(_) => "a text",
            Self::Other => "an object",
            Self::Global(_) => "a class",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Persistent(_) => "a storage",
            Self::Call { .. } => "a call",
        }
    }
}

/// The values of a pickle. Their number is at most the number of bytes of the pickle.
#[derive(Debug, PartialEq)]
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Place,
    /// How many bytes the pickle takes.
    pub length: usize,
}

impl Pickle {
    /// Reads the pickle at the start of some bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, PickleError> {
        let mut machine = Machine { bytes, at: 0, values: Vec::new(), stack: Vec::new(), memory: HashMap::new() };
        let root = machine.run()?;
        Ok(Self { values: machine.values, root, length: machine.at })
    }

    /// The value that the pickle holds.
    pub fn root(&self) -> &Value {
        &self.values[self.root]
    }

    /// A part of a value.
    pub fn value(&self, place: Place) -> &Value {
        &self.values[place]
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }
}

/// An item on the stack.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Item {
    Mark,
    Value(Place),
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Item>,
    memory: HashMap<usize, Place>,
}

/// The instructions, with their names in Python's `pickletools`.
mod instruction {
    pub const MARK: u8 = b'(';
    pub const STOP: u8 = b'.';
    pub const POP: u8 = b'0';
    pub const POP_MARK: u8 = b'1';
    pub const BINFLOAT: u8 = b'G';
    pub const BININT: u8 = b'J';
    pub const BININT1: u8 = b'K';
    pub const BININT2: u8 = b'M';
    pub const NONE: u8 = b'N';
    pub const BINPERSID: u8 = b'Q';
    pub const REDUCE: u8 = b'R';
    pub const BINSTRING: u8 = b'T';
    pub const SHORT_BINSTRING: u8 = b'U';
    pub const BINUNICODE: u8 = b'X';
    pub const BINBYTES: u8 = b'B';
    pub const SHORT_BINBYTES: u8 = b'C';
    pub const EMPTY_LIST: u8 = b']';
    pub const APPEND: u8 = b'a';
    pub const BUILD: u8 = b'b';
    pub const GLOBAL: u8 = b'c';
    pub const DICT: u8 = b'd';
    pub const APPENDS: u8 = b'e';
    pub const BINGET: u8 = b'h';
    pub const LONG_BINGET: u8 = b'j';
    pub const LIST: u8 = b'l';
    pub const BINPUT: u8 = b'q';
    pub const LONG_BINPUT: u8 = b'r';
    pub const SETITEM: u8 = b's';
    pub const TUPLE: u8 = b't';
    pub const SETITEMS: u8 = b'u';
    pub const EMPTY_DICT: u8 = b'}';
    pub const EMPTY_TUPLE: u8 = b')';
    pub const PROTO: u8 = 0x80;
    pub const NEWOBJ: u8 = 0x81;
    pub const TUPLE1: u8 = 0x85;
    pub const TUPLE2: u8 = 0x86;
    pub const TUPLE3: u8 = 0x87;
    pub const NEWTRUE: u8 = 0x88;
    pub const NEWFALSE: u8 = 0x89;
    pub const LONG1: u8 = 0x8a;
    pub const SHORT_BINUNICODE: u8 = 0x8c;
    pub const BINUNICODE8: u8 = 0x8d;
    pub const BINBYTES8: u8 = 0x8e;
    pub const STACK_GLOBAL: u8 = 0x93;
    pub const MEMOIZE: u8 = 0x94;
    pub const FRAME: u8 = 0x95;
}

impl<'a> Machine<'a> {
    /// Follows the instructions up to the end, and returns the place of the resulting value.
    fn run(&mut self) -> Result<Place, PickleError> {
        use instruction::*;
        loop {
            let at = self.at;
            let [code] = self.array()?;
            match code {
                STOP => return self.pop(),
                PROTO => _ = self.take(1)?,
                FRAME => {
                    let length = self.length(8)?;
                    // A frame is only a hint for reading ahead. A frame that is longer than the file means that the
                    // file is cut off.
                    self.bytes.get(self.at..).filter(|rest| length <= rest.len()).ok_or(PickleError::End)?;
                }
                MARK => self.stack.push(Item::Mark),
                POP => _ = self.stack.pop().ok_or(PickleError::Stack { at: self.at })?,
                POP_MARK => _ = self.pop_to_mark()?,
                NONE => self.push(Value::None),
                NEWTRUE => self.push(Value::Bool(true)),
                NEWFALSE => self.push(Value::Bool(false)),
                BININT => {
                    let number = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(number.into()));
                }
                BININT1 => {
                    let [number] = self.array()?;
                    self.push(Value::Int(number.into()));
                }
                BININT2 => {
                    let number = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(number.into()));
                }
                LONG1 => {
                    let length = self.length(1)?;
                    let number = long(self.take(length)?);
                    self.push(number);
                }
                BINFLOAT => {
                    self.take(8)?;
                    self.push(Value::Other);
                }
                SHORT_BINUNICODE => self.text(1)?,
                BINUNICODE => self.text(4)?,
                BINUNICODE8 => self.text(8)?,
                // Texts of Python 2.
                SHORT_BINSTRING => self.text(1)?,
                BINSTRING => self.text(4)?,
                SHORT_BINBYTES => self.skip(1)?,
                BINBYTES => self.skip(4)?,
                BINBYTES8 => self.skip(8)?,
                GLOBAL => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Global(format!("{module} {name}")));
                }
                STACK_GLOBAL => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let text = |place: Place| match &self.values[place] {
                        Value::Text(text) => Ok(text),
                        other => Err(PickleError::Kind { found: other.kind(), expected: "a text", at }),
                    };
                    let global = Value::Global(format!("{} {}", text(module)?, text(name)?));
                    self.push(global);
                }
                EMPTY_TUPLE => self.push(Value::Tuple(Vec::new())),
                TUPLE => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items));
                }
                TUPLE1 | TUPLE2 | TUPLE3 => {
                    let mut items = Vec::new();
                    for _ in TUPLE1..=code {
                        items.insert(0, self.pop()?);
                    }
                    self.push(Value::Tuple(items));
                }
                EMPTY_LIST => self.push(Value::List(Vec::new())),
                LIST => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::List(items));
                }
                APPEND => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                APPENDS => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                EMPTY_DICT => self.push(Value::Dict(Vec::new())),
                DICT => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Dict(Vec::new()));
                    self.insert(items)?;
                }
                SETITEM => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.insert(vec![key, value])?;
                }
                SETITEMS => {
                    let items = self.pop_to_mark()?;
                    self.insert(items)?;
                }
                BINPUT => {
                    let entry = self.length(1)?;
                    self.remember(entry)?;
                }
                LONG_BINPUT => {
                    let entry = self.length(4)?;
                    self.remember(entry)?;
                }
                MEMOIZE => self.remember(self.memory.len())?,
                BINGET => {
                    let entry = self.length(1)?;
                    self.recall(entry)?;
                }
                LONG_BINGET => {
                    let entry = self.length(4)?;
                    self.recall(entry)?;
                }
                BINPERSID => {
                    let identifier = self.pop()?;
                    self.push(Value::Persistent(identifier));
                }
                REDUCE => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    let call = self.call(function, arguments);
                    self.push(call);
                }
                NEWOBJ => {
                    let (_, _) = (self.pop()?, self.pop()?);
                    self.push(Value::Other);
                }
                // The state of an object, such as the versions that PyTorch attaches to a state dictionary.
                BUILD => {
                    self.pop()?;
                    self.top()?;
                }
                code => return Err(PickleError::Instruction { code, at }),
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], PickleError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (taken, _) = rest.split_at_checked(length).ok_or(PickleError::End)?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        self.take(N)?.try_into().map_err(|_| PickleError::End)
    }

    /// Reads a length or a place of `bytes` bytes.
    fn length(&mut self, bytes: usize) -> Result<usize, PickleError> {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(self.take(bytes)?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| PickleError::End)
    }

    /// Reads a text. Its length comes first, in `bytes` bytes.
    fn text(&mut self, bytes: usize) -> Result<(), PickleError> {
        let at = self.at;
        let length = self.length(bytes)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| PickleError::Text { at })?;
        self.push(Value::Text(text.to_owned()));
        Ok(())
    }

    /// Skips a byte string. Its length comes first, in `bytes` bytes.
    fn skip(&mut self, bytes: usize) -> Result<(), PickleError> {
        let length = self.length(bytes)?;
        self.take(length)?;
        self.push(Value::Other);
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let at = self.at;
        let rest = self.bytes.get(at..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or(PickleError::End)?;
        let line = &self.take(length + 1)?[..length];
        std::str::from_utf8(line).map_err(|_| PickleError::Text { at })
    }

    fn push(&mut self, value: Value) {
        self.stack.push(Item::Value(self.values.len()));
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Place, PickleError> {
        match self.stack.pop() {
            Some(Item::Value(place)) => Ok(place),
            _ => Err(PickleError::Stack { at: self.at }),
        }
    }

    fn top(&self) -> Result<Place, PickleError> {
        match self.stack.last() {
            Some(&Item::Value(place)) => Ok(place),
            _ => Err(PickleError::Stack { at: self.at }),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Place>, PickleError> {
        let mut places = Vec::new();
        loop {
            match self.stack.pop() {
                Some(Item::Value(place)) => places.push(place),
                Some(Item::Mark) => break,
                None => return Err(PickleError::Stack { at: self.at }),
            }
        }
        places.reverse();
        Ok(places)
    }

    fn append(&mut self, items: Vec<Place>) -> Result<(), PickleError> {
        let (at, list) = (self.at, self.top()?);
        match &mut self.values[list] {
            Value::List(list) => list.extend(items),
            // The items of other containers are ignored.
            Value::Other | Value::Call { .. } => {}
            other => return Err(PickleError::Kind { found: other.kind(), expected: "a list", at }),
        }
        Ok(())
    }

    /// Inserts alternating keys and values into the dictionary on top of the stack.
    fn insert(&mut self, items: Vec<Place>) -> Result<(), PickleError> {
        let (at, dict) = (self.at, self.top()?);
        let (pairs, []) = items.as_chunks() else { return Err(PickleError::Stack { at }) };
        match &mut self.values[dict] {
            Value::Dict(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Value::Other | Value::Call { .. } => {}
            other => return Err(PickleError::Kind { found: other.kind(), expected: "a dictionary", at }),
        }
        Ok(())
    }

    fn remember(&mut self, entry: usize) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memory.insert(entry, top);
        Ok(())
    }

    fn recall(&mut self, entry: usize) -> Result<(), PickleError> {
        let at = self.at;
        let place = *self.memory.get(&entry).ok_or(PickleError::Memory { entry, at })?;
        self.stack.push(Item::Value(place));
        Ok(())
    }

    /// The value of a call: an empty dictionary for `OrderedDict()`, and otherwise the call itself.
    fn call(&self, function: Place, arguments: Place) -> Value {
        match (&self.values[function], &self.values[arguments]) {
            (Value::Global(name), Value::Tuple(arguments))
                if name == "collections OrderedDict" && arguments.is_empty() =>
            {
                Value::Dict(Vec::new())
            }
            _ => Value::Call { function, arguments },
        }
    }
}

/// A signed integer of any length, in little-endian order. An integer of more than 64 bits is neither a size nor the
/// number of a layer.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Other;
    }
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Pickle, PickleError> {
        Pickle::read(bytes)
    }

    #[test]
    fn dictionaries_are_read() {
        // pickle.dumps({"a": [1, -2, 300], "b": ("c", None, True)}, 2), without its puts.
        let pickle =
            read(b"\x80\x02}(X\x01\0\0\0a](K\x01J\xfe\xff\xff\xffM\x2c\x01eX\x01\0\0\0bX\x01\0\0\0cN\x88\x87u.")
                .unwrap();
        let Value::Dict(pairs) = pickle.root() else { panic!("{pickle:?}") };
        let text = |place: Place| pickle.value(place).clone();
        assert_eq!(
            pairs.iter().map(|(key, _)| text(*key)).collect::<Vec<_>>(),
            ["a", "b"].map(|t| Value::Text(t.into()))
        );
        let Value::List(list) = pickle.value(pairs[0].1) else { panic!("{pickle:?}") };
        assert_eq!(list.iter().map(|&at| text(at)).collect::<Vec<_>>(), [1, -2, 300].map(Value::Int));
        let Value::Tuple(tuple) = pickle.value(pairs[1].1) else { panic!("{pickle:?}") };
        let wanted = [Value::Text("c".into()), Value::None, Value::Bool(true)];
        assert_eq!(tuple.iter().map(|&at| text(at)).collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn integers_of_any_length() {
        for (bytes, wanted) in [
            (&b"\x8a\x00."[..], Value::Int(0)),
            (b"\x8a\x01\xff.", Value::Int(-1)),
            (b"\x8a\x02\xff\x00.", Value::Int(255)),
            (b"\x8a\x08\0\0\0\0\0\0\0\x80.", Value::Int(i64::MIN)),
            (b"\x8a\x09\0\0\0\0\0\0\0\x80\0.", Value::Other),
        ] {
            assert_eq!(*read(bytes).unwrap().root(), wanted);
        }
    }

    #[test]
    fn nesting_is_no_recursion() {
        let mut deep = vec![b']'; 200_000];
        deep.extend(vec![b'a'; 199_999]);
        deep.push(b'.');
        assert_eq!(read(&deep).unwrap().len(), 200_000);
        // A list in itself.
        assert!(read(b"]q\0h\0a.").is_ok());
    }

    #[test]
    fn malformed_pickles_are_named() {
        let end = PickleError::End;
        for (bytes, wanted) in [
            (&b""[..], end.clone()),
            (b"\x80\x02", end.clone()),
            (b"\x80\x04\x8d\0\0\0\0\0\0\0\x40x.", end.clone()),
            (b"\x80\x02X\xf0\xff\xff\xffx.", end.clone()),
            (b"\x80\x04\x95\0\0\0\0\0\0\0\x80N.", end.clone()),
            (b"cno line", end),
            (b"0.", PickleError::Stack { at: 1 }),
            (b"t.", PickleError::Stack { at: 1 }),
            (b"(.", PickleError::Stack { at: 2 }),
            (b"}(Nu.", PickleError::Stack { at: 4 }),
            (b"h\x07.", PickleError::Memory { entry: 7, at: 2 }),
            (b"\xfe.", PickleError::Instruction { code: 0xfe, at: 0 }),
            (b"U\x01\xff.", PickleError::Text { at: 1 }),
            (b"NNa.", PickleError::Kind { found: "None", expected: "a list", at: 3 }),
        ] {
            assert_eq!(read(bytes).unwrap_err(), wanted, "{bytes:?}");
        }
    }
}
