//! Keeps the generated code current: generates it again and compares, where the compiler is installed.

use std::path::Path;
use std::process::Command;

/// `TURNSTILE_UPDATE=1` writes the new code instead.
#[test]
fn the_generated_code_is_that_of_the_schema() {
    if Command::new("capnp").arg("--version").output().is_err() {
        eprintln!("skipped: there is no capnp compiler; install the package capnproto");
        return;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    capnpc::CompilerCommand::new()
        .src_prefix(here)
        .file(here.join("turnstile.capnp"))
        .output_path(out.path())
        .run()
        .unwrap();
    let fresh = std::fs::read_to_string(out.path().join("turnstile_capnp.rs")).unwrap();
    let committed = here.join("src/turnstile_capnp.rs");
    if std::env::var_os("TURNSTILE_UPDATE").is_some() {
        std::fs::write(&committed, fresh).unwrap();
        return;
    }
    // Not `assert_eq`, which would print half a megabyte.
    let same = std::fs::read_to_string(&committed).unwrap() == fresh;
    assert!(same, "the schema changed: run this test with TURNSTILE_UPDATE=1");
}
