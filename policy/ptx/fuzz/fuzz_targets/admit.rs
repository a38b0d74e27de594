//! Any bytes are admitted or refused, in every mode; what is admitted verifies again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use turnstile_ptx::{Admission, Arena, BlockShape, GuardMode, Limits, admit, verify_text};

fuzz_target!(|data: &[u8]| {
    let arena = Arena::new(4 << 32, 4 << 30).expect("an arena");
    let _ = admit(data, &Admission::unguarded(Limits::default()));
    for (mode, block) in [
        (GuardMode::Check, None),
        (GuardMode::Fence, None),
        (GuardMode::Fence, Some(BlockShape { x: 64, y: 2, z: 1 })),
    ] {
        let mut admission = Admission::guarded(mode, arena, Limits::default());
        admission.block = block;
        if let Ok(module) = admit(data, &admission) {
            verify_text(module.text().as_bytes(), arena, module.contract()).expect("it verified");
        }
    }
});
