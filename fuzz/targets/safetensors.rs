//! Fuzzes the kind `safetensors`: see `fuzz/src/kinds.rs`.
#![cfg_attr(fuzzing, no_main)]

incept_fuzz::target!("safetensors");
