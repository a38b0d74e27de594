//! Completions for shells and man pages, made from the command line's own definition.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::failure::Failure;

/// Print completions for a shell
///
/// For bash: turnstile completions bash > /etc/bash_completion.d/turnstile
#[derive(Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut text = Vec::new();
        let mut command = super::Cli::command();
        clap_complete::generate(self.shell, &mut command, "turnstile", &mut text);
        super::table::say(String::from_utf8_lossy(&text).trim_end())
    }
}

/// Write the man pages, one for each command
#[derive(Args)]
pub(super) struct Man {
    /// Where to
    directory: PathBuf,
}

impl Man {
    pub(super) fn run(self) -> Result<(), Failure> {
        let write = || {
            std::fs::create_dir_all(&self.directory)?;
            clap_mangen::generate_to(super::Cli::command(), &self.directory)
        };
        write().map_err(|e| {
            let place = self.directory.display();
            Failure::input(format!("cannot write into {place}: {e}"), "name another directory")
        })
    }
}
