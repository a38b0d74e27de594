//! Linker arguments of a freestanding image.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo::rerun-if-changed=link.ld");
    // The arguments hold this path; a target folder may outlive the checkout it was filled from.
    println!("cargo::rerun-if-env-changed=CARGO_MANIFEST_DIR");
    println!("cargo::rustc-link-arg-bins=-T{here}/link.ld");
    for arg in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"] {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
    for arg in ["-Wl,-z,norelro", "-Wl,--gc-sections", "-Wl,-z,noexecstack"] {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
}
