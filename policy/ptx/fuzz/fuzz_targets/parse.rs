//! Any bytes parse or fail; what parses prints to text that parses to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use turnstile_ptx::{Limits, parse, parse_guarded, print};

fuzz_target!(|data: &[u8]| {
    if let Ok(module) = parse(data, &Limits::default()) {
        let text = print(&module).text;
        let again = parse_guarded(text.as_bytes(), &Limits::default()).expect("printed text parses");
        assert_eq!(print(&again).text, text);
    }
});
