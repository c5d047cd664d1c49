//! A pickle interpreter that executes nothing: it reads containers, strings and numbers, and
//! records calls without making them.
//!
//! A pickle is a program for a stack machine that may import and call anything. Here a global is
//! only a name, and a call becomes an [`Object::Call`]. Readers interpret the calls that describe
//! tensors; all others are opaque, and their names are used to report what is skipped. Objects are
//! stored in a list and refer to each other by index, so a pickle cannot create more objects than
//! it has bytes.

mod machine;

use std::ops::Range;

use machine::Machine;

/// Index into [`Pickle::objects`].
pub(crate) type Handle = u32;

/// An object of a pickle.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Range of bytes in the file; empty if they are not stored verbatim.
    Bytes(Range<usize>),
    List(Vec<Handle>),
    Tuple(Vec<Handle>),
    Dict(Vec<(Handle, Handle)>),
    /// A set; its content is not kept.
    Set,
    /// A class or function, by handles of its module and name.
    Global {
        module: Handle,
        name: Handle,
    },
    /// A call that is not made, and the state that its result would get.
    Call {
        function: Handle,
        arguments: Handle,
        state: Option<Handle>,
    },
    /// A persistent object outside the pickle, with its description.
    Persistent(Handle),
}

/// Constructors of dictionaries, in Python 2 and 3, including types that training scripts store
/// next to weights.
const DICTIONARIES: [&str; 5] = [
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.Counter",
    "builtins.dict",
    "__builtin__.dict",
];

/// Functions that create an object from (class, base, base value) in old protocols.
const RECONSTRUCTORS: [&str; 2] = ["copyreg._reconstructor", "copy_reg._reconstructor"];

/// Longer names are not class names.
const MAX_GLOBAL: usize = 256;

/// A parsed pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub objects: Vec<Object>,
    pub root: Handle,
    /// Length of the pickle in bytes.
    pub length: usize,
}

impl Pickle {
    /// Reads one pickle from the start of `bytes`.
    ///
    /// # Errors
    /// The reason and the position.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        Machine::run(bytes)
    }

    /// The object with this handle.
    pub fn get(&self, handle: Handle) -> &Object {
        self.objects.get(handle as usize).unwrap_or(&Object::None)
    }

    /// The text with this handle; `None` for another type.
    pub fn text(&self, handle: Handle) -> Option<&str> {
        match self.get(handle) {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer with this handle; `None` for another type.
    pub fn int(&self, handle: Handle) -> Option<i64> {
        match self.get(handle) {
            Object::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The elements of a list or tuple; `None` for another type.
    pub fn items(&self, handle: Handle) -> Option<&[Handle]> {
        match self.get(handle) {
            Object::Tuple(items) | Object::List(items) => Some(items),
            _ => None,
        }
    }

    /// The dimensions in a tuple of integers or a `torch.Size`.
    pub fn extents(&self, handle: Handle) -> Option<Vec<usize>> {
        let one = |item: &Handle| self.int(*item).and_then(|value| usize::try_from(value).ok());
        let items = match self.get(handle) {
            Object::Call { arguments, .. } => self.items(*self.items(*arguments)?.first()?),
            _ => self.items(handle),
        };
        items?.iter().map(one).collect()
    }

    /// `module.name` of a global.
    pub fn global(&self, handle: Handle) -> Option<String> {
        let Object::Global { module, name } = self.get(handle) else { return None };
        let (module, name) = (self.text(*module)?, self.text(*name)?);
        (module.len() + name.len() <= MAX_GLOBAL).then(|| format!("{module}.{name}"))
    }

    /// The class of an object, or the function that creates it, for messages.
    pub fn kind(&self, handle: Handle) -> String {
        let unknown = || "an object".to_string();
        let name = match self.get(handle) {
            Object::Global { .. } => self.global(handle),
            Object::Call { function, arguments, .. } => match self.get(*function) {
                // In old protocols, a function receives the class as an argument.
                Object::Global { .. } => {
                    let name = self.global(*function).unwrap_or_default();
                    if RECONSTRUCTORS.contains(&name.as_str()) {
                        self.items(*arguments).and_then(|items| self.global(*items.first()?))
                    } else {
                        Some(name).filter(|name| !name.is_empty())
                    }
                }
                // ('module', class, file, source): a class with its source, as in torch before 1.6.
                Object::Persistent(description) => {
                    self.items(*description).and_then(|parts| self.global(*parts.get(1)?))
                }
                _ => None,
            },
            Object::Persistent(_) => Some("a storage".into()),
            Object::Set => Some("set".into()),
            Object::Bytes(_) => Some("bytes".into()),
            _ => None,
        };
        let name = name.unwrap_or_else(unknown);
        let plain = name.strip_prefix("builtins.").or_else(|| name.strip_prefix("__builtin__."));
        crate::untrusted::printable(plain.unwrap_or(&name)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_numbers_and_text_are_read() {
        // {'a': (1, -2, 3.5), 'b': [None, True]} in protocol 2.
        let bytes =
            b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01J\xfe\xff\xff\xffG@\x0c\x00\x00\x00\x00\x00\x00\x87q\x01\
            X\x01\x00\x00\x00b]q\x02(N\x88eu.rest";
        let pickle = Pickle::read(bytes).expect("is a pickle");
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
    fn calls_are_recorded_but_not_executed() {
        let pickle = Pickle::read(b"cos\nsystem\nX\x04\x00\x00\x00true\x85R.").expect("is a pickle");
        assert!(matches!(pickle.get(pickle.root), Object::Call { .. }));
        assert_eq!(pickle.kind(pickle.root), "os.system");
    }

    /// pickle.dumps({'a': [1, 2.5, True, None, {3}, P()]}, protocol) as written by Python 3.11,
    /// with class P of module m.
    #[test]
    fn all_protocols_are_read() {
        let zero = b"(dp0\nVa\np1\n(lp2\nI1\naF2.5\naI01\naNac__builtin__\nset\np3\n((lp4\nI3\natp5\nRp6\naccopy_reg\n_reconstructor\np7\n\
            (cm\nP\np8\nc__builtin__\nobject\np9\nNtp10\nRp11\nas.";
        let one = b"}q\x00X\x01\x00\x00\x00aq\x01]q\x02(K\x01G@\x04\x00\x00\x00\x00\x00\x00I01\nNc__builtin__\nset\nq\x03(]q\x04K\x03atq\x05Rq\x06\
            ccopy_reg\n_reconstructor\nq\x07(cm\nP\nq\x08c__builtin__\nobject\nq\x09Ntq\x0aRq\x0bes.";
        let five = b"\x80\x05\x95*\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94]\x94(K\x01G@\x04\x00\x00\x00\x00\x00\x00\x88N\x8f\x94(K\x03\x90\
            \x8c\x01m\x94\x8c\x01P\x94\x93\x94)\x81\x94es.";
        for bytes in [&zero[..], one, five] {
            let pickle = Pickle::read(bytes).expect("is a pickle");
            let Object::Dict(entries) = pickle.get(pickle.root) else { panic!("no dictionary") };
            let [(key, value)] = entries[..] else { panic!("{entries:?}") };
            let items = pickle.items(value).expect("a list");
            assert_eq!((pickle.text(key), pickle.int(items[0]), items.len()), (Some("a"), Some(1), 6));
            assert_eq!(
                [pickle.get(items[1]), pickle.get(items[2])],
                [&Object::Float(2.5), &Object::Bool(true)]
            );
            assert_eq!([pickle.kind(items[4]), pickle.kind(items[5])], ["set", "m.P"]);
        }
    }

    /// Calls that repeat the same thousand entries would take memory quadratic in the file's size.
    #[test]
    fn repeated_dictionary_calls_are_rejected() {
        let pairs = b"(NNta".repeat(1000);
        let mut bytes = [&b"c__builtin__\ndict\nq\x01]"[..], &pairs, b"\x85q\x02R"].concat();
        bytes.extend(b"h\x01h\x02R".repeat(1000));
        bytes.push(b'.');
        let error = Pickle::read(&bytes).expect_err("repeats");
        assert!(error.contains("repeat the entries"), "{error}");
    }

    /// OrderedDict([['a', 1]]), as written by Python 2.
    #[test]
    fn python_2_ordered_dict_entries_are_read() {
        let pickle = Pickle::read(b"ccollections\nOrderedDict\n]](X\x01\x00\x00\x00aK\x01ea\x85R.")
            .expect("is a pickle");
        let Object::Dict(entries) = pickle.get(pickle.root) else { panic!("no dictionary") };
        assert_eq!((pickle.text(entries[0].0), pickle.int(entries[0].1)), (Some("a"), Some(1)));
    }

    #[test]
    fn invalid_pickles_are_rejected() {
        for bytes in
            [&b""[..], b".", b"R.", b"(.", b"u.", b"K\x01K\x02s.", b"X\xff\xff\xff\xff.", b"h\x00.", b"\xff"]
        {
            Pickle::read(bytes).expect_err("is not a pickle");
        }
    }
}
