#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diffmas_fuzz::parquet(data));
