//! libFuzzer on the target `safetensors`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::targets::safetensors::TARGET.run(input));
