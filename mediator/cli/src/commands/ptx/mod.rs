//! `turnstile ptx`: look at kernels the way Turnstile does: check, guard, run.

mod corpus;
mod device;
mod guard;
mod run;
mod value;

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::json;
use turnstile_ptx::{Admission, Arena, GuardMode, Limits, PtxError, VerifiedModule, admit};

use super::failure::Failure;
use super::table::{count, say, say_json, table};

/// Check PTX programs, guard them, run them on the emulated GPU
#[derive(Subcommand)]
pub(super) enum Ptx {
    /// Say whether programs are PTX that Turnstile admits, and what is in them
    ///
    /// Anything outside the table of what is permitted is refused with line, column and reason.
    Check {
        /// PTX files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    Guard(guard::Guard),
    Run(run::Run),
    Corpus(corpus::Corpus),
    Device(device::OnDevice),
}

/// How a program is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Allow list only
    None,
    /// The first access that would leave the arena is recorded and ends its thread
    Check,
    /// No access can leave the arena, no instruction can fault
    Fence,
}

impl From<Mode> for GuardMode {
    fn from(mode: Mode) -> GuardMode {
        match mode {
            Mode::None => GuardMode::None,
            Mode::Check => GuardMode::Check,
            Mode::Fence => GuardMode::Fence,
        }
    }
}

impl Ptx {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Ptx::Check { files, json } => check(&files, json),
            Ptx::Guard(guard) => guard.run(),
            Ptx::Run(run) => run.run(),
            Ptx::Corpus(corpus) => corpus.run(),
            Ptx::Device(device) => device.run(),
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|e| {
        Failure::input(format!("cannot read {}: {e}", file.display()), "check the path")
    })
}

/// Admits a program or says why not, as `FILE:LINE: why`.
fn load(file: &Path, admission: &Admission) -> Result<VerifiedModule, Failure> {
    admit(&read(file)?, admission).map_err(|e| {
        Failure::check(
            format!("{}: {e}", place(file, &e)),
            "compile it with nvcc -ptx, or leave out what is refused",
        )
    })
}

fn place(file: &Path, error: &PtxError) -> String {
    match error.line() {
        Some(line) => format!("{}:{line}", file.display()),
        None => file.display().to_string(),
    }
}

/// Reads `BASE:SIZE`, such as `0x400000000:4GiB`.
fn parse_arena(text: &str) -> Result<Arena, String> {
    let (base, size) = text.split_once(':').ok_or("write BASE:SIZE, such as 0x400000000:4GiB")?;
    Arena::new(value::parse_size(base)?, value::parse_size(size)?).map_err(|e| e.to_string())
}

/// Reads `X`, `X,Y` or `X,Y,Z`.
fn parse_shape(text: &str) -> Result<[u32; 3], String> {
    let mut shape = [1; 3];
    let mut parts = text.split([',', 'x']);
    for axis in &mut shape {
        let Some(part) = parts.next() else { break };
        *axis =
            part.trim().parse().map_err(|_| format!("{part} is no number of blocks or threads"))?;
    }
    if parts.next().is_some() || shape.contains(&0) {
        return Err("write one to three numbers from 1 on, such as 256 or 16,16,1".into());
    }
    Ok(shape)
}

fn check(files: &[PathBuf], as_json: bool) -> Result<(), Failure> {
    let admission = Admission::unguarded(Limits::default());
    let mut refused = 0;
    let mut rows = Vec::new();
    let mut table = table(&[
        "file",
        "kernel",
        "params#",
        "shared#",
        "local#",
        "threads#",
        "variables#",
        "lines#",
    ]);
    for file in files {
        let image = read(file)?;
        let lines = image.split(|&b| b == b'\n').count() as u64;
        let module = match admit(&image, &admission) {
            Ok(module) => module,
            Err(error) => {
                refused += 1;
                if as_json {
                    rows.push(json!({"file": file, "ok": false, "line": error.line(),
                                     "why": error.to_string()}));
                } else {
                    eprintln!("{}: {error}", place(file, &error));
                }
                continue;
            }
        };
        let variables: u64 = module.view().globals.iter().map(|g| g.size).sum();
        if as_json {
            let kernels: Vec<_> = module
                .kernels()
                .iter()
                .map(|k| {
                    json!({"name": k.name.to_string(), "param_bytes": k.param_bytes,
                           "shared_bytes": k.shared_bytes, "local_bytes": k.local_bytes,
                           "dynamic_shared": k.dynamic_shared.is_some(),
                           "max_threads": k.max_threads, "required_threads": k.required_threads})
                })
                .collect();
            rows.push(json!({"file": file, "ok": true, "kernels": kernels,
                             "variable_bytes": variables, "lines": lines}));
            continue;
        }
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        for kernel in module.kernels() {
            let threads = kernel.required_threads.or(kernel.max_threads);
            let dynamic = if kernel.dynamic_shared.is_some() { "+" } else { "" };
            table.add_row([
                name.clone(),
                kernel.name.to_string(),
                count(kernel.param_bytes),
                format!("{}{dynamic}", count(kernel.shared_bytes)),
                count(kernel.local_bytes),
                threads.map_or("any".into(), |[x, y, z]| format!("{x}x{y}x{z}")),
                count(variables),
                count(lines),
            ]);
        }
        if module.kernels().is_empty() {
            table.add_row([name, "(none)".into()]);
        }
    }
    if as_json {
        say_json(&rows)?;
    } else {
        say(table)?;
        say(format!("{} of {} programs admitted", files.len() - refused, files.len()))?;
    }
    if refused == 0 { Ok(()) } else { Err(Failure::said()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arenas_and_shapes_are_read() {
        let arena = parse_arena("0x400000000:4GiB").unwrap();
        assert_eq!((arena.base(), arena.size()), (0x4_0000_0000, 4 << 30));
        assert!(parse_arena("0x400000000").is_err());
        assert!(parse_arena("1:4GiB").is_err());
        assert_eq!(parse_shape("256"), Ok([256, 1, 1]));
        assert_eq!(parse_shape("16x8,2"), Ok([16, 8, 2]));
        assert!(parse_shape("0").is_err() && parse_shape("1,1,1,1").is_err());
        assert!(parse_shape("").is_err());
    }
}
