//! Builds `../payload` with a cargo of its own.
//!
//! The image needs other flags than the workspace: no red tape of the host's configuration, the
//! baseline processor, no position independence. So nothing of this build's environment is passed
//! on, and the flags are given here in full.

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &[&str] = &[
    "-Ctarget-cpu=x86-64",
    "-Crelocation-model=static",
    "-Cpanic=abort",
    "-Cforce-unwind-tables=no",
    "-Cdebuginfo=0",
    "-Cstrip=symbols",
];

fn main() {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(variable("OUT_DIR")).join("payload");
    let payload = here.join("../payload");
    let root = here.join("../..");
    for source in [
        "guest-driver/payload/src",
        "guest-driver/payload/link.ld",
        "guest-driver/payload/build.rs",
        "guest-driver/payload/Cargo.toml",
        "guest-driver/payload/Cargo.lock",
        "guest-driver/boot",
        "guest-driver/src",
        "guest-driver/Cargo.toml",
        "guest-driver/workloads",
        "mediator/abi",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    // The dependencies are the workspace's, so a machine that could build this crate has them: try
    // without the network first.
    if !build(&payload, &out, true) && !build(&payload, &out, false) {
        panic!("the guest image does not build; its errors are above");
    }
    let image = out.join(TARGET).join("release/payload");
    assert!(image.is_file(), "no image at {}", image.display());
    println!("cargo::rustc-env=TURNSTILE_PAYLOAD={}", image.display());
}

fn build(payload: &Path, out: &Path, offline: bool) -> bool {
    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let mine = name.starts_with("CARGO") && name != "CARGO_HOME";
        if mine || name.starts_with("RUST") && name != "RUSTUP_HOME" && name != "RUSTUP_TOOLCHAIN" {
            cargo.env_remove(&*name);
        }
    }
    cargo
        .current_dir(payload)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(out);
    if offline {
        cargo.arg("--offline");
    }
    matches!(cargo.status(), Ok(status) if status.success())
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
