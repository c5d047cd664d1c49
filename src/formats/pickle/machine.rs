//! The pickle stack machine, without side effects: nothing is imported or called.

use std::collections::HashMap;
use std::ops::Range;

use super::{DICTIONARIES, Handle, Object, Pickle, RECONSTRUCTORS};

/// Maximum objects of a pickle, forty bytes each; one byte can create one.
const MAX_OBJECTS: usize = 4 << 20;

/// Error of a truncated pickle.
const CUT: &str = "the file is truncated";

/// The state of the machine while it builds [`Pickle::objects`].
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    pickle: Pickle,
    stack: Vec<Handle>,
    /// Stack positions of marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Handle>,
    /// Remaining entries for dictionaries made by calls, which can repeat the same arguments.
    entries_left: usize,
}

impl<'a> Machine<'a> {
    /// Runs the pickle at the start of `bytes`.
    pub fn run(bytes: &'a [u8]) -> Result<Pickle, String> {
        let pickle = Pickle { objects: Vec::new(), root: 0, length: 0 };
        let (stack, marks, memo) = (Vec::new(), Vec::new(), HashMap::new());
        let mut machine = Self { bytes, at: 0, pickle, stack, marks, memo, entries_left: bytes.len() };
        loop {
            let place = machine.at;
            if machine.pickle.objects.len().max(machine.stack.len()) > MAX_OBJECTS {
                return Err(format!("has more than {MAX_OBJECTS} objects, which no weight file needs"));
            }
            match machine.step() {
                Ok(true) => break,
                Ok(false) => {}
                Err(reason) => return Err(format!("byte {place} of the pickle: {reason}")),
            }
        }
        machine.pickle.root = machine.pop()?;
        machine.pickle.length = machine.at;
        Ok(machine.pickle)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).ok_or(CUT)?;
        let taken = self.bytes.get(self.at..end).ok_or(CUT)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| CUT.to_string())
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Bytes with a length prefix of `width` bytes.
    fn sized(&mut self, width: usize) -> Result<&'a [u8], String> {
        let length = match width {
            1 => u64::from(self.byte()?),
            4 => u64::from(self.u32()?),
            _ => u64::from_le_bytes(self.array()?),
        };
        self.take(usize::try_from(length).map_err(|_| CUT)?)
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|b| *b == b'\n').ok_or(CUT)?;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.at += 1;
        Ok(text)
    }

    fn object(&mut self, object: Object) -> Result<Handle, String> {
        let handle = Handle::try_from(self.pickle.objects.len()).map_err(|_| "it has too many objects")?;
        self.pickle.objects.push(object);
        Ok(handle)
    }

    fn push(&mut self, object: Object) -> Result<(), String> {
        let handle = self.object(object)?;
        self.stack.push(handle);
        Ok(())
    }

    fn pop(&mut self) -> Result<Handle, String> {
        // Items below the last mark cannot be popped.
        let floor = self.marks.last().copied().unwrap_or(0);
        let popped = if self.stack.len() > floor { self.stack.pop() } else { None };
        popped.ok_or_else(|| "the stack is empty".into())
    }

    fn top(&self) -> Result<Handle, String> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    /// The object on top of the stack, mutable.
    fn topmost(&mut self) -> Result<&mut Object, String> {
        let top = self.top()?;
        self.pickle.objects.get_mut(top as usize).ok_or_else(|| "the stack is empty".into())
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
        self.push(Object::Tuple(items))
    }

    fn global(&mut self, module: String, name: String) -> Result<Handle, String> {
        let (module, name) = (self.object(Object::Text(module))?, self.object(Object::Text(name))?);
        self.object(Object::Global { module, name })
    }

    /// Records a call without making it; only calls that create dictionaries are evaluated.
    fn call(&mut self, function: Handle, arguments: Handle) -> Result<(), String> {
        let callable = matches!(
            self.pickle.get(function),
            // The callee may be the result of another call, such as a method; torch stores module
            // classes as persistent objects.
            Object::Global { .. } | Object::Call { .. } | Object::Persistent(_)
        );
        if !callable {
            return Err("it calls an object that is not a function".into());
        }
        let made = match self.pickle.global(function) {
            Some(name) if self.makes_dictionary(&name, arguments) => {
                let pairs = self.pairs(arguments);
                self.entries_left = self
                    .entries_left
                    .checked_sub(pairs.len())
                    .ok_or("its dictionaries repeat the entries of others")?;
                Object::Dict(pairs)
            }
            _ => Object::Call { function, arguments, state: None },
        };
        self.push(made)
    }

    /// Whether a call creates a dictionary of a known type, or in old protocols an instance of a
    /// subclass.
    fn makes_dictionary(&self, name: &str, arguments: Handle) -> bool {
        let base = || self.pickle.global(*self.pickle.items(arguments)?.get(1)?);
        let of_base = || base().is_some_and(|base| DICTIONARIES.contains(&base.as_str()));
        DICTIONARIES.contains(&name) || (RECONSTRUCTORS.contains(&name) && of_base())
    }

    /// The entries in a dictionary's constructor call: Python 2 writes an `OrderedDict` as a call
    /// with a list of pairs, Python 3 as an empty call with later SETITEMS.
    fn pairs(&self, arguments: Handle) -> Vec<(Handle, Handle)> {
        let items = |handle: Handle| self.pickle.items(handle).unwrap_or_default();
        let pair = |handle: &Handle| match items(*handle) {
            [key, value] => Some((*key, *value)),
            _ => None,
        };
        for argument in items(arguments) {
            match self.pickle.get(*argument) {
                Object::Dict(entries) => return entries.clone(),
                Object::Tuple(list) | Object::List(list) if !list.is_empty() => {
                    return list.iter().filter_map(pair).collect();
                }
                _ => {}
            }
        }
        Vec::new()
    }

    fn set_items(&mut self, items: &[Handle]) -> Result<(), String> {
        let pairs = items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value));
        match self.topmost()? {
            Object::Dict(entries) => entries.extend(pairs),
            // Any object with items is a dictionary, whatever its class.
            object @ Object::Call { .. } => *object = Object::Dict(pairs.collect()),
            _ => return Err("it sets an item of an object that is not a dictionary".into()),
        }
        Ok(())
    }

    fn append(&mut self, items: &[Handle]) -> Result<(), String> {
        match self.topmost()? {
            Object::List(list) => list.extend(items),
            // A deque or set, for example, is not searched for weights.
            Object::Call { .. } | Object::Set => {}
            _ => return Err("it appends to an object that is not a list".into()),
        }
        Ok(())
    }

    /// Sets the attributes of an object. Those of dictionaries, where torch stores module versions,
    /// are ignored.
    fn set_state(&mut self) -> Result<(), String> {
        let attributes = self.pop()?;
        if let Object::Call { state, .. } = self.topmost()? {
            *state = Some(attributes);
        }
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let handle = self.memo.get(&key).copied().ok_or("it reads a memo entry that it never stored")?;
        self.stack.push(handle);
        Ok(())
    }

    /// A memo index in decimal digits.
    fn place(&mut self) -> Result<u32, String> {
        self.line()?.trim().parse().map_err(|_| "a memo index is not a number".into())
    }

    /// An integer of any length, little-endian two's complement. One that does not fit 64 bits
    /// becomes a distinct object.
    fn long(&mut self, length: usize) -> Result<(), String> {
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut value = [if negative { 0xff } else { 0 }; 8];
        value.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.push(Object::Int(i64::from_le_bytes(value)))
    }

    /// A number in decimal digits: `01` and `00` are booleans, `12L` is long.
    fn digits(&mut self) -> Result<(), String> {
        let line = self.line()?;
        let number = match line.trim() {
            "01" => Object::Bool(true),
            "00" => Object::Bool(false),
            digits => {
                let digits = digits.trim_end_matches('L');
                let whole = digits.strip_prefix('-').unwrap_or(digits);
                if whole.is_empty() || !whole.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(format!("`{}` is not a number", crate::untrusted::printable(&line)));
                }
                // As with `long`, a number that is too large becomes a distinct object.
                Object::Int(digits.parse().unwrap_or(i64::MAX))
            }
        };
        self.push(number)
    }

    /// Range of the last `length` bytes read.
    fn behind(&self, length: usize) -> Range<usize> {
        self.at.saturating_sub(length)..self.at
    }

    /// A Python 2 string: text if it is UTF-8, else bytes.
    fn string(&mut self, bytes: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(bytes).map(String::from);
        let place = self.behind(bytes.len());
        self.push(text.map_or(Object::Bytes(place), Object::Text))
    }

    /// Runs one instruction; returns whether it was the last.
    fn step(&mut self) -> Result<bool, String> {
        let code = self.byte()?;
        match code {
            b'.' => return Ok(true),
            // PROTO, FRAME, READONLY_BUFFER
            0x80 => {
                self.take(1)?;
            }
            0x95 => {
                self.take(8)?;
            }
            0x98 => {}
            b'(' => self.marks.push(self.stack.len()),
            // POP, which removes the mark if it is on top; POP_MARK, DUP
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.marked()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.push(Object::None)?,
            b'I' | b'L' | b'J' | b'K' | b'M' | 0x88..=0x8b | b'F' | b'G' => self.number(code)?,
            b'X' | 0x8c | 0x8d | b'T' | b'U' | b'S' | b'V' => self.text(code)?,
            b'B' | b'C' | 0x8e | 0x96 | 0x97 => self.binary(code)?,
            b')'
            | b't'
            | 0x85..=0x87
            | b']'
            | b'l'
            | b'a'
            | b'e'
            | b'}'
            | b'd'
            | b's'
            | b'u'
            | 0x8f..=0x91 => {
                self.container(code)?;
            }
            b'c' | 0x93 | 0x82..=0x84 | b'R' | 0x81 | 0x92 | b'i' | b'o' | b'b' | b'P' | b'Q' => {
                self.reference(code)?;
            }
            b'q' | b'r' | b'p' | 0x94 | b'h' | b'j' | b'g' => self.memory(code)?,
            code => return Err(format!("0x{code:02x} is not a pickle instruction")),
        }
        Ok(false)
    }

    fn number(&mut self, code: u8) -> Result<(), String> {
        match code {
            // INT, LONG
            b'I' | b'L' => self.digits(),
            // BININT, BININT1, BININT2
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Object::Int(value.into()))
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Object::Int(value.into()))
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Object::Int(value.into()))
            }
            // NEWTRUE, NEWFALSE, LONG1, LONG4
            0x88 => self.push(Object::Bool(true)),
            0x89 => self.push(Object::Bool(false)),
            0x8a => {
                let length = self.byte()?.into();
                self.long(length)
            }
            0x8b => {
                let length = self.u32()? as usize;
                self.long(length)
            }
            // FLOAT
            b'F' => {
                let line = self.line()?;
                let value = line.trim().parse();
                self.push(Object::Float(value.map_err(|_| "a number has no digits")?))
            }
            // BINFLOAT
            _ => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Object::Float(value))
            }
        }
    }

    fn text(&mut self, code: u8) -> Result<(), String> {
        match code {
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8: UTF-8, possibly with lone surrogates
            b'X' | 0x8c | 0x8d => {
                let bytes = self.sized(match code {
                    b'X' => 4,
                    0x8c => 1,
                    _ => 8,
                })?;
                self.push(Object::Text(String::from_utf8_lossy(bytes).into_owned()))
            }
            // BINSTRING, SHORT_BINSTRING
            b'T' | b'U' => {
                let bytes = self.sized(if code == b'T' { 4 } else { 1 })?;
                self.string(bytes)
            }
            // STRING, between quotes
            b'S' => {
                let line = self.line()?;
                let quoted = line.trim();
                let inside = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
                self.push(if inside.contains('\\') {
                    Object::Bytes(0..0)
                } else {
                    Object::Text(inside.into())
                })
            }
            // UNICODE
            _ => {
                let line = self.line()?;
                self.push(Object::Text(line))
            }
        }
    }

    fn binary(&mut self, code: u8) -> Result<(), String> {
        let length = match code {
            // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
            b'B' => self.sized(4)?.len(),
            b'C' => self.sized(1)?.len(),
            0x8e | 0x96 => self.sized(8)?.len(),
            // NEXT_BUFFER: bytes outside the file
            _ => 0,
        };
        let place = self.behind(length);
        self.push(Object::Bytes(place))
    }

    fn container(&mut self, code: u8) -> Result<(), String> {
        match code {
            b')' => self.push(Object::Tuple(Vec::new())),
            b't' => {
                let items = self.marked()?;
                self.push(Object::Tuple(items))
            }
            0x85..=0x87 => self.tuple(usize::from(code - 0x84)),
            b']' => self.push(Object::List(Vec::new())),
            b'l' => {
                let items = self.marked()?;
                self.push(Object::List(items))
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])
            }
            // APPENDS, ADDITEMS
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.append(&items)
            }
            b'}' => self.push(Object::Dict(Vec::new())),
            b'd' => {
                let items = self.marked()?;
                self.push(Object::Dict(Vec::new()))?;
                self.set_items(&items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])
            }
            b'u' => {
                let items = self.marked()?;
                self.set_items(&items)
            }
            // EMPTY_SET
            0x8f => self.push(Object::Set),
            // FROZENSET
            _ => {
                self.marked()?;
                self.push(Object::Set)
            }
        }
    }

    /// Globals, calls and persistent objects.
    fn reference(&mut self, code: u8) -> Result<(), String> {
        match code {
            // GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let global = self.global(module, name)?;
                self.stack.push(global);
                Ok(())
            }
            // STACK_GLOBAL
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                if self.pickle.text(module).is_none() || self.pickle.text(name).is_none() {
                    return Err("a global has no name".into());
                }
                self.push(Object::Global { module, name })
            }
            // EXT1, EXT2, EXT4: a registered code of a global
            0x82..=0x84 => {
                self.take(1 << (code - 0x82))?;
                let global = self.global("copyreg".into(), "extension".into())?;
                self.stack.push(global);
                Ok(())
            }
            // REDUCE, and NEWOBJ, which calls a class
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)
            }
            // NEWOBJ_EX, with arguments by name
            0x92 => {
                let (_named, arguments, function) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(function, arguments)
            }
            // INST
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let arguments = self.marked()?;
                let (function, arguments) =
                    (self.global(module, name)?, self.object(Object::Tuple(arguments))?);
                self.call(function, arguments)
            }
            // OBJ
            b'o' => {
                let mut items = self.marked()?.into_iter();
                let function = items.next().ok_or("the stack is empty")?;
                let arguments = self.object(Object::Tuple(items.collect()))?;
                self.call(function, arguments)
            }
            b'b' => self.set_state(),
            // PERSID
            b'P' => {
                let line = self.line()?;
                let description = self.object(Object::Text(line))?;
                self.push(Object::Persistent(description))
            }
            // BINPERSID
            _ => {
                let description = self.pop()?;
                self.push(Object::Persistent(description))
            }
        }
    }

    /// PUT, BINPUT, LONG_BINPUT, MEMOIZE; GET, BINGET, LONG_BINGET.
    fn memory(&mut self, code: u8) -> Result<(), String> {
        let key = match code {
            b'q' | b'h' => self.byte()?.into(),
            b'r' | b'j' => self.u32()?,
            0x94 => u32::try_from(self.memo.len()).map_err(|_| "it stores too much")?,
            _ => self.place()?,
        };
        if matches!(code, b'q' | b'r' | b'p' | 0x94) { self.remember(key) } else { self.recall(key) }
    }
}
