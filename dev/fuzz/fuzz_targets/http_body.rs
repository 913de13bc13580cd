//! libFuzzer on the target `http_body`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::targets::http_body::TARGET.run(input));
