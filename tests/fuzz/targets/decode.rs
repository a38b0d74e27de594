//! Any 64 bytes are a request or an error, and a request encodes to the bytes it came from.
#![no_main]

use libfuzzer_sys::fuzz_target;
use turnstile_abi::{Descriptor, Request};

fuzz_target!(|bytes: [u8; 64]| {
    let descriptor = Descriptor::from_bytes(&bytes);
    match Request::decode(&descriptor) {
        Ok(request) => assert_eq!(request.encode(descriptor.cookie), descriptor),
        Err(malformed) => {
            let _ = (malformed.status(), malformed.detail());
        }
    }
});
