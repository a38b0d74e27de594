//! The kernel corpus on the interpreter: every kernel's results against what the host computes.

mod runner;

use runner::Prepared;
use turnstile_corpus::{Size, kernels};

/// Kernels whose instructions the emulated GPU refuses, with the word its error names.
const REFUSED: &[(&str, &str)] = &[];

/// Runs every kernel's small case with so many host threads; a line for each that is wrong.
fn failures(workers: u32) -> Vec<String> {
    let only = std::env::var("CORPUS_ONLY").ok();
    let mut wrong = Vec::new();
    for kernel in kernels() {
        if only.as_ref().is_some_and(|o| !kernel.name.contains(o.as_str())) {
            continue;
        }
        let case = kernel.case(Size::Small);
        let result =
            Prepared::new(&case).and_then(|mut p| p.launch(workers).and_then(|_| p.check()));
        let refused = REFUSED.iter().find(|(name, _)| *name == kernel.name);
        match (result, refused) {
            (Ok(()), None) => {}
            (Err(e), Some((_, word))) if e.contains(word) => {}
            (Ok(()), Some(_)) => {
                wrong.push(format!("{}: runs although listed as refused", kernel.name))
            }
            (Err(e), _) => wrong.push(format!("{} ({}): {e}", kernel.name, kernel.file)),
        }
    }
    wrong
}

#[test]
fn every_kernel_gives_the_hosts_results() {
    let wrong = failures(1);
    assert!(wrong.is_empty(), "{} kernels fail:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn several_threads_give_the_same_results() {
    let wrong = failures(3);
    assert!(wrong.is_empty(), "{} kernels fail:\n{}", wrong.len(), wrong.join("\n"));
}
