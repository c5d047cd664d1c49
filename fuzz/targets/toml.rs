//! Fuzzes the kind `toml`: see `fuzz/src/kinds.rs`.
#![cfg_attr(fuzzing, no_main)]

incept_fuzz::target!("toml");
