//! A pickle interpreter that executes nothing: containers, strings and numbers, and the few functions that torch needs to describe tensors.
//!
//! A pickle is a program for a stack machine that may import and call anything. Here a global is only a name; calling one makes an
//! [`Object::Call`] of its name and arguments if it is on the list that the caller gives, and is an error that names it otherwise. Objects lie in a list and
//! refer to each other by their places in it, so no pickle can make more of them than it has bytes.

use std::collections::HashMap;

/// The place of an object in [`Pickle::objects`].
pub(super) type Handle = usize;

/// What a pickle can hold here.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes,
    List(Vec<Handle>),
    Tuple(Vec<Handle>),
    Dict(Vec<(Handle, Handle)>),
    /// `module.name`.
    Global(String),
    /// A call that was not made.
    Call {
        function: String,
        arguments: Handle,
    },
    /// What lies outside the pickle, by this description.
    Persistent(Handle),
}

/// Objects, and which of them the pickle stands for.
#[derive(Debug)]
pub(super) struct Pickle {
    pub objects: Vec<Object>,
    pub root: Handle,
    /// Bytes that the pickle takes.
    pub length: usize,
}

impl Pickle {
    /// Reads one pickle from the start of `bytes`. `known` says which globals may occur.
    ///
    /// # Errors
    /// What is wrong, and where; the name of a global that is not known.
    pub fn read(bytes: &[u8], known: fn(&str) -> bool) -> Result<Self, String> {
        let mut machine = Machine {
            bytes,
            at: 0,
            known,
            objects: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copied: 0,
        };
        loop {
            let place = machine.at;
            if machine.objects.len().max(machine.stack.len()) > MAX_OBJECTS || machine.copied > MAX_OBJECTS {
                return Err(format!("makes more than {MAX_OBJECTS} objects: no file of weights does"));
            }
            match machine.step() {
                Ok(true) => break,
                Ok(false) => {}
                Err(reason) => return Err(format!("byte {place} of the pickle: {reason}")),
            }
        }
        let root = machine.pop()?;
        Ok(Self { objects: machine.objects, root, length: machine.at })
    }

    /// The object at a place.
    pub fn get(&self, handle: Handle) -> &Object {
        self.objects.get(handle).unwrap_or(&Object::None)
    }

    /// The text at a place.
    pub fn text(&self, handle: Handle) -> Option<&str> {
        match self.get(handle) {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number at a place.
    pub fn int(&self, handle: Handle) -> Option<i64> {
        match self.get(handle) {
            Object::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The elements of a list or tuple.
    pub fn items(&self, handle: Handle) -> Option<&[Handle]> {
        match self.get(handle) {
            Object::Tuple(items) | Object::List(items) => Some(items),
            _ => None,
        }
    }

    /// The extents in a tuple of whole numbers.
    pub fn extents(&self, handle: Handle) -> Option<Vec<usize>> {
        let one = |item: &Handle| self.int(*item).and_then(|value| usize::try_from(value).ok());
        self.items(handle)?.iter().map(one).collect()
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    known: fn(&str) -> bool,
    objects: Vec<Object>,
    stack: Vec<Handle>,
    /// Where on the stack the marks are.
    marks: Vec<usize>,
    memo: HashMap<u32, Handle>,
    /// Entries of dictionaries that were made from lists: a list of a few bytes can be named again and again.
    copied: usize,
}

/// Objects, of forty bytes each, that a pickle may have; one byte is enough to make one.
const MAX_OBJECTS: usize = 4 << 20;

/// The longest name of a module or of what is in it.
const MAX_GLOBAL: usize = 256;

/// What makes a dictionary when it is called. That of Python 2 and its successor, and relatives that training scripts keep beside the weights.
pub(super) const DICTIONARIES: [&str; 5] = [
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.Counter",
    "builtins.dict",
    "__builtin__.dict",
];

/// The text that ended too soon.
const CUT: &str = "the file ends in the middle";

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len()).ok_or(CUT)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| CUT.to_string())
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn text(&mut self, length: usize) -> Result<String, String> {
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| "text is not UTF-8".to_string())
    }

    fn line(&mut self) -> Result<String, String> {
        let length = self.bytes[self.at..].iter().position(|b| *b == b'\n').ok_or(CUT)?;
        let text = self.text(length)?;
        self.at += 1;
        Ok(text)
    }

    fn push(&mut self, object: Object) {
        self.objects.push(object);
        self.stack.push(self.objects.len() - 1);
    }

    fn pop(&mut self) -> Result<Handle, String> {
        // What lies below a mark belongs to what the mark encloses.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the stack is empty".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn top(&self) -> Result<Handle, String> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    /// Everything above the last mark.
    fn marked(&mut self) -> Result<Vec<Handle>, String> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len());
        let mark = mark.ok_or("there is no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Object::Tuple(items));
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        if module.len().max(name.len()) > MAX_GLOBAL {
            return Err("a global has a name that is too long".into());
        }
        let global = format!("{module}.{name}");
        if !(self.known)(&global) {
            return Err(format!(
                "it wants to use `{global}`, which is no part of a state dict; save `model.state_dict()` and nothing beside"
            ));
        }
        self.push(Object::Global(global));
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Object::Global(function) = &self.objects[function] else {
            return Err("it calls what is no function".into());
        };
        let function = function.clone();
        let dictionary = DICTIONARIES.contains(&function.as_str());
        let made = if dictionary {
            let pairs = self.pairs(arguments);
            self.copied += pairs.len();
            Object::Dict(pairs)
        } else {
            Object::Call { function, arguments }
        };
        self.push(made);
        Ok(())
    }

    /// The entries that a dictionary is made with: Python 2 writes an `OrderedDict` as a call with a list of pairs, Python 3 as one without
    /// anything whose entries are set later.
    fn pairs(&self, arguments: Handle) -> Vec<(Handle, Handle)> {
        let items = |handle: &Handle| match self.objects.get(*handle) {
            Some(Object::Tuple(items) | Object::List(items)) => items.as_slice(),
            _ => &[],
        };
        let list = items(&arguments).iter().find(|handle| !items(handle).is_empty());
        let pair = |handle: &Handle| match items(handle) {
            [key, value] => Some((*key, *value)),
            _ => None,
        };
        list.map_or(Vec::new(), |list| items(list).iter().filter_map(pair).collect())
    }

    fn set_items(&mut self, items: &[Handle]) -> Result<(), String> {
        let top = self.top()?;
        let Object::Dict(entries) = &mut self.objects[top] else {
            return Err("it sets an item of what is no dictionary".into());
        };
        entries.extend(items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn append(&mut self, items: &[Handle]) -> Result<(), String> {
        let top = self.top()?;
        let Object::List(list) = &mut self.objects[top] else {
            return Err("it appends to what is no list".into());
        };
        list.extend(items);
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let handle = self.memo.get(&key).copied().ok_or("it recalls what it never stored")?;
        self.stack.push(handle);
        Ok(())
    }

    /// A whole number of any length, little-endian in two's complement. What does not fit 64 bits only has to differ from what does.
    fn long(&mut self, length: usize) -> Result<(), String> {
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut value = [if negative { 0xff } else { 0 }; 8];
        let kept = bytes.len().min(8);
        value[..kept].copy_from_slice(&bytes[..kept]);
        self.push(Object::Int(i64::from_le_bytes(value)));
        Ok(())
    }

    /// Runs one instruction; says whether it was the last.
    fn step(&mut self) -> Result<bool, String> {
        match self.byte()? {
            // PROTO, FRAME
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => return Ok(true),
            b'(' => self.marks.push(self.stack.len()),
            // POP, and BUILD: attributes of a dictionary (torch keeps versions of modules there) say nothing about weights.
            b'0' | b'b' => drop(self.pop()?),
            b'N' => self.push(Object::None),
            0x88 => self.push(Object::Bool(true)),
            0x89 => self.push(Object::Bool(false)),
            // BININT, BININT1, BININT2, LONG1, BINFLOAT
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Object::Int(value.into()));
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Object::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Object::Int(value.into()));
            }
            0x8a => {
                let length = self.byte()?.into();
                self.long(length)?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Object::Float(value));
            }
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, and Python 2's strings
            code @ (b'X' | 0x8c | 0x8d | b'T' | b'U') => {
                let length = match code {
                    b'X' | b'T' => self.u32()? as usize,
                    0x8d => usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| CUT)?,
                    _ => self.byte()?.into(),
                };
                let text = self.text(length)?;
                self.push(Object::Text(text));
            }
            // BINBYTES, SHORT_BINBYTES
            code @ (b'B' | b'C') => {
                let length = if code == b'B' { self.u32()? as usize } else { self.byte()?.into() };
                self.take(length)?;
                self.push(Object::Bytes);
            }
            b')' => self.push(Object::Tuple(Vec::new())),
            b'}' => self.push(Object::Dict(Vec::new())),
            b']' => self.push(Object::List(Vec::new())),
            b't' => {
                let items = self.marked()?;
                self.push(Object::Tuple(items));
            }
            count @ 0x85..=0x87 => self.tuple(usize::from(count - 0x84))?,
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.marked()?;
                self.append(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.set_items(&items)?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |handle: Handle| match &self.objects[handle] {
                    Object::Text(text) if text.len() <= MAX_GLOBAL => Ok(text.clone()),
                    _ => Err("a global has no name"),
                };
                let (module, name) = (text(module)?, text(name)?);
                self.global(&module, &name)?;
            }
            // REDUCE, and NEWOBJ, which calls a class
            b'R' | 0x81 => self.reduce()?,
            b'Q' => {
                let description = self.pop()?;
                self.push(Object::Persistent(description));
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => {
                let key = self.byte()?.into();
                self.remember(key)?;
            }
            b'r' => {
                let key = self.u32()?;
                self.remember(key)?;
            }
            0x94 => {
                let key = u32::try_from(self.memo.len()).map_err(|_| "it stores too much")?;
                self.remember(key)?;
            }
            b'h' => {
                let key = self.byte()?.into();
                self.recall(key)?;
            }
            b'j' => {
                let key = self.u32()?;
                self.recall(key)?;
            }
            code => return Err(format!("instruction 0x{code:02x} is no part of a state dict")),
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Pickle, String> {
        Pickle::read(bytes, |global| global == "collections.OrderedDict")
    }

    #[test]
    fn containers_numbers_and_text_are_read() {
        // {'a': (1, -2, 3.5), 'b': [None, True]} as protocol 2 has it.
        let bytes =
            b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01J\xfe\xff\xff\xffG@\x0c\x00\x00\x00\x00\x00\x00\x87q\x01\
            X\x01\x00\x00\x00b]q\x02(N\x88eu.rest";
        let pickle = read(bytes).expect("is a pickle");
        assert_eq!(pickle.length, bytes.len() - 4);
        let Object::Dict(entries) = pickle.get(pickle.root) else { panic!("no dictionary") };
        assert_eq!(pickle.text(entries[0].0), Some("a"));
        let items = pickle.items(entries[0].1).expect("a tuple");
        assert_eq!((pickle.int(items[0]), pickle.int(items[1])), (Some(1), Some(-2)));
        assert_eq!(pickle.get(items[2]), &Object::Float(3.5));
        assert_eq!(pickle.items(entries[1].1).map(<[Handle]>::len), Some(2));
    }

    /// The classic attack: a pickle that runs a command when Python loads it.
    #[test]
    fn nothing_is_executed_and_the_global_is_named() {
        let error = read(b"cos\nsystem\n(X\x04\x00\x00\x00true\x85R.").expect_err("is no state dict");
        assert!(error.contains("`os.system`"), "{error}");
    }

    /// OrderedDict([['a', 1]]), as Python 2 has it.
    #[test]
    fn dictionaries_of_python_2_bring_their_entries() {
        let pickle =
            read(b"ccollections\nOrderedDict\n]](X\x01\x00\x00\x00aK\x01ea\x85R.").expect("is a pickle");
        let Object::Dict(entries) = pickle.get(pickle.root) else { panic!("no dictionary") };
        assert_eq!((pickle.text(entries[0].0), pickle.int(entries[0].1)), (Some("a"), Some(1)));
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in
            [&b""[..], b".", b"R.", b"(.", b"u.", b"K\x01K\x02s.", b"X\xff\xff\xff\xff.", b"h\x00.", b"\xff"]
        {
            read(bytes).expect_err("is no pickle");
        }
    }
}
