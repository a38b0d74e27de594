//! Hands cases to something that is not Rust, and checks what it hands back.
//!
//! `exchange export DIR small|large [NAME...]` writes, for each case, `NAME.case` (lines of words),
//! `NAME.ptx` and one `NAME.<i>.in` a buffer. Whatever runs it writes `NAME.<i>.out`, and `exchange
//! check DIR small|large [NAME...]` compares. Cases without results are counted as not run.
//! `scripts/kernels-gpu` runs them on a GPU through the CUDA driver.
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use turnstile_corpus::{Arg, Case, Kernel, Size, kernels};

fn export(case: &Case, dir: &Path) -> std::io::Result<()> {
    let name = case.kernel.name;
    let launch = case.launch;
    let mut text = format!("entry {}\n", case.kernel.entry);
    for (word, v) in [("grid", launch.grid), ("block", launch.block)] {
        let _ = writeln!(text, "{word} {} {} {}", v[0], v[1], v[2]);
    }
    let _ =
        writeln!(text, "shared {}\ncooperative {}", launch.shared, u8::from(launch.cooperative));
    for (i, buffer) in case.buffers.iter().enumerate() {
        let _ = writeln!(text, "buffer {}", buffer.initial.len());
        for p in &buffer.pointers {
            let _ = writeln!(text, "pointer {i} {} {} {}", p.offset, p.buffer, p.addend);
        }
        std::fs::write(dir.join(format!("{name}.{i}.in")), &buffer.initial)?;
    }
    for arg in &case.args {
        match arg {
            Arg::Buffer(i) => writeln!(text, "address {i}"),
            Arg::Value(bytes) => {
                let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
                writeln!(text, "value {hex}")
            }
        }
        .unwrap_or_default();
    }
    std::fs::write(dir.join(format!("{name}.ptx")), case.kernel.ptx)?;
    std::fs::write(dir.join(format!("{name}.case")), text)
}

/// `Ok(None)`: no results there.
fn check(case: &Case, dir: &Path) -> Result<Option<()>, String> {
    let mut outputs = Vec::new();
    for i in 0..case.buffers.len() {
        match std::fs::read(dir.join(format!("{}.{i}.out", case.kernel.name))) {
            Ok(bytes) => outputs.push(bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.to_string()),
        }
    }
    case.check(&outputs).map(Some).map_err(|e| e.to_string())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [verb, dir, size, names @ ..] = args.as_slice() else {
        eprintln!("usage: exchange export|check DIR small|large [NAME...]");
        return ExitCode::from(2);
    };
    let size = if size == "large" { Size::Large } else { Size::Small };
    let dir = Path::new(dir);
    let wanted = |k: &&'static Kernel| names.is_empty() || names.iter().any(|n| n == k.name);
    let (mut passed, mut failed, mut absent) = (0, 0, 0);
    for kernel in kernels().filter(wanted) {
        let case = kernel.case(size);
        if verb == "export" {
            if let Err(e) = export(&case, dir) {
                eprintln!("{}: {e}", case.name());
                return ExitCode::FAILURE;
            }
            continue;
        }
        match check(&case, dir) {
            Ok(Some(())) => passed += 1,
            Ok(None) => {
                absent += 1;
                println!("not run: {}", case.name());
            }
            Err(e) => {
                failed += 1;
                println!("wrong: {}: {e}", case.name());
            }
        }
    }
    if verb == "check" {
        println!("{passed} right, {failed} wrong, {absent} not run");
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
