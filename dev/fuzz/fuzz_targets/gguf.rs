//! libFuzzer on the target `gguf`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::targets::gguf::TARGET.run(input));
