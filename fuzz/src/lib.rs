//! Fuzz targets for all untrusted input of incept.
//!
//! ```text
//! cargo run --bin seeds                      a corpus from the repository's fixtures
//! cargo +nightly fuzz run onnx               in the folder above; needs cargo-fuzz
//! cargo run --bin onnx FILE...               reads files once more, with any compiler
//! ```
//!
//! `tests/mutations.rs` reads mutants of the same files by the same functions in every run of the
//! tests.

pub mod kinds;
pub mod mutate;

use std::path::Path;

/// Reads one file of a kind. The result does not matter, only that it returns.
pub fn read(name: &str, bytes: &[u8]) {
    thread_local! {
        static SCRATCH: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
    }
    let kind = kinds::KINDS.iter().find(|kind| kind.name == name).expect("a kind of files");
    let outcome = SCRATCH.with(|folder| (kind.read)(folder.path(), bytes));
    if cfg!(not(fuzzing)) {
        println!("{outcome:?}");
    }
}

/// Reads the files given on the command line.
pub fn replay(name: &str) {
    for file in std::env::args_os().skip(1) {
        print!("{}: ", Path::new(&file).display());
        match std::fs::read(&file) {
            Ok(bytes) => read(name, &bytes),
            Err(error) => println!("{error}"),
        }
    }
}

/// The entry of a fuzz target: libfuzzer's in a build by cargo-fuzz, elsewhere a program that reads
/// the files it is given.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::read($name, bytes));

        #[cfg(not(fuzzing))]
        fn main() {
            $crate::replay($name);
        }
    };
}
