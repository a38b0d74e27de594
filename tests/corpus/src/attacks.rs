//! The attacks as data: hand-written PTX in `tests/kernels/attacks`, each beginning with what it tries and what the guard
//! must make of it.
use std::fmt;

/// What must become of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The module is refused when it is loaded, with file, line and reason.
    Refused,
    /// The module loads, and its guarded form runs to its end (or to the time limit) without a fault and without touching
    /// a byte outside its arena.
    Fenced,
    /// Not an attack but something unusual that must be let through and give the right result.
    RunsClean,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refuse it",
            Self::Fenced => "fence it",
            Self::RunsClean => "let it run",
        })
    }
}

/// One attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// File below `tests/kernels/attacks`.
    pub file: &'static str,
    /// What it tries, from the file's first line.
    pub about: &'static str,
    /// What the guard must do, from the file's second line.
    pub expect: Outcome,
    /// The text, which need not be valid.
    pub text: &'static str,
}

macro_rules! files {
    ($($name:literal)*) => {
        const FILES: &[(&str, &str)] = &[$((
            concat!($name, ".ptx"),
            include_str!(concat!("../../kernels/attacks/", $name, ".ptx")),
        )),*];
    };
}

files! {}

/// Every attack, in order of file name.
///
/// # Panics
/// If a file lacks its two leading comment lines; a test loads them all.
#[must_use]
pub fn attacks() -> Vec<Attack> {
    FILES
        .iter()
        .map(|&(file, text)| {
            let mut lines = text.lines();
            let about = lines.next().and_then(|l| l.strip_prefix("// attack: "));
            let expect = lines.next().and_then(|l| l.strip_prefix("// expect: "));
            let expect = match expect {
                Some("refused") => Outcome::Refused,
                Some("fenced") => Outcome::Fenced,
                Some("runs-clean") => Outcome::RunsClean,
                other => panic!("{file}: second line says {other:?}"),
            };
            Attack {
                file,
                about: about.unwrap_or_else(|| panic!("{file}: no // attack: line")),
                expect,
                text,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_file_is_listed_and_says_what_it_tries() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/attacks");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed: Vec<&str> = attacks().iter().map(|a| a.file).collect();
        assert_eq!(files, listed);
    }
}
