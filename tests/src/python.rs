//! A Python with the packages that an example needs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The RPC client that the example is written for.
const PYCAPNP: &str = "pycapnp==2.2.4";

/// A Python that has pycapnp: the one that `TURNSTILE_PYTHON` names, or one of our own under the
/// target directory, made once from PyPI.
///
/// # Errors
/// Why there is none.
pub fn with_pycapnp(target: &Path) -> Result<PathBuf, String> {
    if let Some(python) = std::env::var_os("TURNSTILE_PYTHON") {
        return Ok(python.into());
    }
    let home = target.join("python-rpc");
    let python = home.join("bin/python");
    let ready = || Command::new(&python).args(["-c", "import capnp"]).output();
    if ready().is_ok_and(|output| output.status.success()) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
    let pip = ["-m", "pip", "install", "--quiet", "--only-binary", ":all:", PYCAPNP];
    run(Command::new(&python).args(pip))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output =
        command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.lines().last().unwrap_or("it failed").to_owned();
    output.status.success().then_some(()).ok_or(format!("no Python with {PYCAPNP}: {why}"))
}
