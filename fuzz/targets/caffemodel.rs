//! Fuzzes the kind `caffemodel`: see `fuzz/src/kinds.rs`.
#![cfg_attr(fuzzing, no_main)]

incept_fuzz::target!("caffemodel");
