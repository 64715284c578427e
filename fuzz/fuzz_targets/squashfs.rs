#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reroot_fuzz::squashfs(data));
