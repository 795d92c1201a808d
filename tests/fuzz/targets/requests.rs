//! See `proxy/tests/h1_oracle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| firebreak_fuzz::requests(bytes));
