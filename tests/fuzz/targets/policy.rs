//! Any text is a policy or a list of errors with places in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use turnstile_policy::Policy;

fuzz_target!(|text: &str| {
    if let Err(errors) = Policy::parse(text) {
        assert!(!errors.to_string().is_empty());
    }
});
