//! Runs the corpus's large cases on one thread and prints thread-instructions per second, and their geometric mean.
//!
//!     cargo run --release -p turnstile-emulated --example speeds [--compiled] [NAME…]

#[path = "../tests/corpus/runner.rs"]
mod runner;

use turnstile_corpus::{Size, kernels};
use turnstile_emulated::Engine;

/// Seconds of processor time that this thread has used: what other processes do does not count.
fn cpu_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn main() {
    let mut only: Vec<String> = std::env::args().skip(1).collect();
    let compiled = only.iter().any(|a| a == "--compiled");
    only.retain(|a| a != "--compiled");
    let engine = if compiled { Engine::Compiled } else { Engine::Interpreter };
    let (mut logs, mut count) = (0.0, 0);
    println!("{:<24} {:>14} {:>10} {:>8}", "kernel", "instructions", "ms", "G/s");
    for kernel in kernels() {
        if !only.is_empty() && !only.iter().any(|o| kernel.name.contains(o.as_str())) {
            continue;
        }
        let case = kernel.case(Size::Large);
        let result = runner::Prepared::new(&case).and_then(|mut p| {
            let mut verdict = Ok(());
            if compiled {
                p.regions();
            }
            let (mut report, mut best) = (None, f64::INFINITY);
            for _ in 0..3 {
                p.fill()?;
                let begun = cpu_seconds();
                report = Some(p.launch_on(engine, 1)?);
                best = best.min(cpu_seconds() - begun);
                verdict = verdict.and(p.check());
            }
            Ok((report.ok_or("no run")?, best, verdict))
        });
        match result {
            Ok((report, seconds, verdict)) => {
                let speed = report.thread_instructions as f64 / seconds / 1e9;
                logs += speed.ln();
                count += 1;
                let wrong = if verdict.is_ok() { "" } else { "  WRONG" };
                println!(
                    "{:<24} {:>14} {:>10.2} {:>8.2}{wrong}",
                    kernel.name,
                    report.thread_instructions,
                    seconds * 1e3,
                    speed
                );
            }
            Err(e) => println!("{:<24} {e}", kernel.name),
        }
    }
    if count > 0 {
        println!(
            "geometric mean of {count}: {:.2} G thread-instructions/s",
            (logs / f64::from(count)).exp()
        );
    }
}
