//! Every PTX file of the corpus parses, and printing it loses nothing.

use std::path::{Path, PathBuf};

use turnstile_ptx::{
    Admission, Arena, BlockShape, GuardMode, Limits, Module, PtxError, admit, parse, parse_guarded,
    print,
};

fn corpus() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kernels/ptx");
    let mut files: Vec<PathBuf> = std::fs::read_dir(root)
        .map(|dir| dir.filter_map(|e| e.ok().map(|e| e.path())).collect())
        .unwrap_or_default();
    files.retain(|p| p.extension().is_some_and(|e| e == "ptx"));
    files.sort();
    files
}

/// Kernels that no guard can make safe: recursion has no bound on its stack.
fn refused_by_guard(file: &Path) -> bool {
    file.ends_with("recursion.ptx")
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

#[test]
fn every_file_is_guarded_and_verified() {
    let (fence, check) = (GuardMode::Fence, GuardMode::Check);
    let (four, large, small) = ((4u64 << 32, 4u64 << 30), (1 << 40, 64 << 30), (3 << 30, 1 << 30));
    let variants = [
        (fence, four, None),
        (check, four, None),
        (fence, large, None),
        (fence, small, None),
        (fence, four, Some((256, 1, 1))),
        (fence, four, Some((16, 16, 1))),
        (check, small, Some((128, 1, 1))),
        (fence, large, Some((32, 8, 1))),
    ];
    let mut bad = Vec::new();
    for file in corpus() {
        let text = std::fs::read(&file).expect("a readable corpus file");
        for (mode, (base, size), shape) in variants {
            let arena = Arena::new(base, size).expect("an arena");
            let mut admission = Admission::guarded(mode, arena, Limits::default());
            admission.block = shape.map(|(x, y, z)| BlockShape { x, y, z });
            let result = admit(&text, &admission);
            if refused_by_guard(&file) {
                assert!(matches!(result, Err(PtxError::Guard(_))), "{}", file.display());
            } else if let Err(error) = result {
                bad.push(format!("{} {shape:?} {mode:?} {base:x}: {error}", file.display()));
            }
        }
    }
    assert!(bad.is_empty(), "{} refusals:\n{}", bad.len(), bad.join("\n"));
}
