//! The kernel corpus on the interpreter: every kernel's results against what the host computes.

mod runner;

use runner::Prepared;
use turnstile_corpus::{Size, kernels};
use turnstile_emulated::Engine;

/// Kernels whose instructions the emulated GPU refuses, with the word its error names.
const REFUSED: &[(&str, &str)] = &[];

/// Runs every kernel's small case with so many host threads; a line for each that is wrong.
fn failures(engine: Engine, workers: u32) -> Vec<String> {
    let only = std::env::var("CORPUS_ONLY").ok();
    let mut wrong = Vec::new();
    for kernel in kernels() {
        if only.as_ref().is_some_and(|o| !kernel.name.contains(o.as_str())) {
            continue;
        }
        let case = kernel.case(Size::Small);
        let result = Prepared::new(&case)
            .and_then(|mut p| p.launch_on(engine, workers).and_then(|_| p.check()));
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
    let wrong = failures(Engine::Interpreter, 1);
    assert!(wrong.is_empty(), "{} kernels fail:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn several_threads_give_the_same_results() {
    let wrong = failures(Engine::Interpreter, 3);
    assert!(wrong.is_empty(), "{} kernels fail:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn machine_code_gives_the_hosts_results() {
    let wrong = failures(Engine::Compiled, 1);
    assert!(wrong.is_empty(), "{} kernels fail:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn machine_code_on_several_threads_gives_the_same_results() {
    let wrong = failures(Engine::Compiled, 3);
    assert!(wrong.is_empty(), "{} kernels fail:\n{}", wrong.len(), wrong.join("\n"));
}

/// Kernels whose bits depend on which thread comes first: the host's check accepts every order.
const ORDER_MATTERS: &[&str] = &["bfs_step"];

#[test]
fn machine_code_and_interpreter_agree_bit_for_bit() {
    let only = std::env::var("CORPUS_ONLY").ok();
    let (mut wrong, mut compiled) = (Vec::new(), 0);
    for kernel in kernels() {
        if only.as_ref().is_some_and(|o| !kernel.name.contains(o.as_str())) {
            continue;
        }
        let case = kernel.case(Size::Small);
        let run = |engine| {
            let mut p = Prepared::new(&case)?;
            let report = p.launch_on(engine, 1)?;
            Ok::<_, String>((p.outputs()?, report.thread_instructions, p.regions()))
        };
        match (run(Engine::Interpreter), run(Engine::Compiled)) {
            (Ok((a, _, _)), Ok((b, _, regions))) => {
                compiled += usize::from(regions > 0);
                if a != b && !ORDER_MATTERS.contains(&kernel.name) {
                    wrong.push(format!("{}: outputs differ", kernel.name));
                }
            }
            (Err(a), Err(b)) if a == b => {}
            (a, b) => wrong.push(format!("{}: {:?} against {:?}", kernel.name, a.err(), b.err())),
        }
    }
    assert!(wrong.is_empty(), "{} kernels differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(only.is_some() || compiled >= 60, "only {compiled} kernels have machine code");
}
