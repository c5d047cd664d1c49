//! Fuzzes the kind `pickle`: see `fuzz/src/kinds.rs`.
#![cfg_attr(fuzzing, no_main)]

incept_fuzz::target!("pickle");
