//! Every PTX file of the corpus parses, and printing it loses nothing.

use std::path::{Path, PathBuf};

use turnstile_ptx::{Admission, Limits, Module, admit, parse, parse_guarded, print};

fn corpus() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kernels/ptx");
    let mut files: Vec<PathBuf> = std::fs::read_dir(root)
        .map(|dir| dir.filter_map(|e| e.ok().map(|e| e.path())).collect())
        .unwrap_or_default();
    files.retain(|p| p.extension().is_some_and(|e| e == "ptx"));
    files.sort();
    files
}

/// The tree as text without positions, to compare what two texts mean.
fn shape(module: &Module) -> String {
    print(module).text
}

#[test]
fn every_file_parses_and_prints_back() {
    let files = corpus();
    assert!(!files.is_empty(), "no PTX in tests/kernels/ptx");
    let mut bad = Vec::new();
    for file in files {
        let text = std::fs::read(&file).expect("a readable corpus file");
        let module = match parse(&text, &Limits::default()) {
            Ok(module) => module,
            Err(error) => {
                bad.push(format!("{}: {error}", file.display()));
                continue;
            }
        };
        let printed = print(&module);
        assert_eq!(printed.lines.len(), printed.text.lines().count());
        match parse_guarded(printed.text.as_bytes(), &Limits::default()) {
            Ok(again) => assert_eq!(shape(&again), printed.text, "{}", file.display()),
            Err(error) => bad.push(format!("{} printed: {error}", file.display())),
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn every_file_is_admitted_unguarded() {
    let mut bad = Vec::new();
    for file in corpus() {
        let text = std::fs::read(&file).expect("a readable corpus file");
        if let Err(error) = admit(&text, &Admission::unguarded(Limits::default())) {
            bad.push(format!("{}: {error}", file.display()));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
