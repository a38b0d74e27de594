//! The verifier on text that no guard has seen.
#![no_main]

use libfuzzer_sys::fuzz_target;
use turnstile_ptx::{Arena, Contract, verify_text};

fuzz_target!(|data: &[u8]| {
    let arena = Arena::new(4 << 32, 4 << 30).expect("an arena");
    let _ = verify_text(data, arena, &Contract::default());
});
