//! libFuzzer on the target `template`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::targets::template::TARGET.run(input));
