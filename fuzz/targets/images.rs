//! Fuzzes the kind `images`: see `fuzz/src/kinds.rs`.
#![cfg_attr(fuzzing, no_main)]

incept_fuzz::target!("images");
