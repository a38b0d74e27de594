//! An initial RAM file system, written as the kernel takes it: a cpio archive in the "newc" format
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst), not compressed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<PathBuf>,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl Initramfs {
    /// An archive with the directories that an init needs.
    #[must_use]
    pub fn new() -> Initramfs {
        let mut archive = Initramfs::default();
        for directory in ["bin", "dev", "lib", "proc", "sys", "tmp"] {
            archive.directory(Path::new(directory));
        }
        archive
    }

    /// Adds an executable file.
    pub fn program(&mut self, name: &str, contents: &[u8]) -> &mut Initramfs {
        if let Some(parent) = Path::new(name).parent() {
            self.directory(parent);
        }
        self.entry(name, PROGRAM, contents);
        self
    }

    /// Adds a copy of a file.
    pub fn copy(&mut self, name: &str, from: &Path) -> anyhow::Result<&mut Initramfs> {
        let contents = std::fs::read(from).with_context(|| from.display().to_string())?;
        Ok(self.program(name, &contents))
    }

    /// The archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    /// Adds a directory and those it lies in, each once: the kernel makes none by itself.
    fn directory(&mut self, path: &Path) {
        if path.as_os_str().is_empty() || self.directories.contains(path) {
            return;
        }
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.entry(&path.to_string_lossy(), DIRECTORY, &[]);
        self.directories.insert(path.to_owned());
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let name_bytes = name.len() as u32 + 1;
        let fields =
            [self.entries, mode, 0, 0, 1, 0, contents.len() as u32, 0, 0, 0, 0, name_bytes, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
