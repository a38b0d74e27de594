//! Where the kernel shows its devices, and the one way in which this crate writes there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Address;

/// Writes a word into a file of sysfs. The kernel does something about it; tests have a kernel of
/// their own.
pub trait Kernel: Send + Sync {
    /// Writes `text` to the file.
    ///
    /// # Errors
    /// The kernel's.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;
}

/// The kernel of this machine.
struct Running;

impl Kernel for Running {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        // Never creates: a file that is not there is something this kernel does not do.
        let mut file = fs::OpenOptions::new().write(true).open(path)?;
        io::Write::write_all(&mut file, text.as_bytes())
    }
}

/// A machine, as the kernel shows it in `/sys`, `/proc` and `/dev`.
pub struct Host {
    root: PathBuf,
    kernel: Box<dyn Kernel>,
}

impl Default for Host {
    fn default() -> Host {
        Host::here()
    }
}

impl Host {
    /// This machine.
    #[must_use]
    pub fn here() -> Host {
        Host { root: PathBuf::from("/"), kernel: Box::new(Running) }
    }

    /// A machine whose trees lie under another directory.
    #[must_use]
    pub fn under(root: impl Into<PathBuf>, kernel: Box<dyn Kernel>) -> Host {
        Host { root: root.into(), kernel }
    }

    /// A path of the machine, given without its leading slash.
    #[must_use]
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.root.join(inside)
    }

    /// The directory of a function.
    #[must_use]
    pub fn function(&self, address: &Address) -> PathBuf {
        self.path("sys/bus/pci/devices").join(address.as_str())
    }

    /// A file's text without white space around it; `None` where there is none.
    #[must_use]
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    /// A `0x`-prefixed number in a file.
    #[must_use]
    pub fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        u64::from_str_radix(self.text(path)?.strip_prefix("0x")?, 16).ok()
    }

    /// The last part of where a link points.
    #[must_use]
    pub fn link(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.root.join(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Names in a directory, sorted.
    #[must_use]
    pub fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Every PCI function of the machine.
    #[must_use]
    pub fn functions(&self) -> Vec<Address> {
        self.names("sys/bus/pci/devices").iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// The driver that a function is bound to.
    #[must_use]
    pub fn driver(&self, address: &Address) -> Option<String> {
        self.link(self.function(address).join("driver"))
    }

    /// Writes to a file of sysfs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        self.kernel.write(path, text)
    }
}
